"""The studio: small scenes with exactly known cameras, depth, masks, tracks, lines and joints, in the layout of each dataset.

The demo's footage and the tests' oracle. `write_layout` makes a dataset; `worlds`, `render` and `truth` are its parts.
"""

from pipeline.studio.layouts import LAYOUTS, write_layout

__all__ = ["LAYOUTS", "write_layout"]
