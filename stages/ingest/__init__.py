"""One file per dataset. Each reads the dataset's real layout and converts to the one camera convention.

`ingests()` maps a layout's name to its class; importing this package reads no dataset and loads no model.
"""

from stages.ingest.base import Ingest

__all__ = ["Ingest", "ingests"]


def ingests() -> dict[str, type[Ingest]]:
    """Every built layout by name."""
    from stages.ingest.clips import Clips
    from stages.ingest.davis import Davis
    from stages.ingest.dl3dv import DL3DV
    from stages.ingest.kubric4d import Kubric4D
    from stages.ingest.realestate10k import RealEstate10K
    from stages.ingest.rig import Rig
    from stages.ingest.syncamvideo import SynCamVideo

    return {each.format: each for each in (SynCamVideo, RealEstate10K, DL3DV, Kubric4D, Davis, Rig, Clips)}
