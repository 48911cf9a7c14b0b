"""A draw: which views and frames of which sample fill one slot of one step. Decided from the manifest alone, nothing is read."""

from dataclasses import dataclass

from pipeline.loader.batch import Kind


@dataclass(frozen=True)
class Draw:
    """sample: position in the catalog. views: positions in the sample's view order, view 0 first. frames: positions in the
    packed media, ascending, the same for every view. attempt: 0, or how many draws of this slot could not be read before.
    """

    step: int
    slot: int
    attempt: int
    kind: Kind
    sample: int
    views: tuple[int, ...]
    frames: tuple[int, ...]
