"""Masks of objects that a dataset brings along, packed beside the views.

The member masks.npz: for each view NN `masks_NN` [n,h,w] uint8, numbers of objects with 0 for the background; `frames_NN` [n], the
frames of the sample that they belong to; `size_NN` [2], width and height of the source. Frames without a mask are left out; a sample
without any has no member.

Masks are scaled by taking the nearest pixel. Position (x, y) of a mask is (x * width / w, y * height / h) in the source. One takes h * w
bytes: 7.3 kB at the default height of 64 in 16:9, which is about what the latents of a 480p clip resolve (ours).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.davis import mask_files
from stages.media import Media
from stages.stage import Findings, Item, Scorer, Tier

HEIGHT = 64  # of stored masks, px
MOST_BYTES = 16 << 20  # ours: of the masks of one item, which lie in the manifest's parts


@dataclass(frozen=True)
class KnownMasksConfig:
    """stride: every so many frames of the sample have their mask packed, from the first on. height: of the stored masks in pixels;
    smaller sources keep theirs."""

    stride: int = bounded(1, low=1, high=100_000)
    height: int = bounded(HEIGHT, low=16, high=4096)


class KnownMasks(Scorer):
    """The member masks.npz from the dataset's own files, which are read in the sandbox like footage. No scores and no limits."""

    name = "masks"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video", "masks"})
    Config = KnownMasksConfig
    config: KnownMasksConfig

    def score(self, item: Item, media: Media) -> Findings:
        known = mask_files(item.scene.candidate)
        arrays: dict[str, NDArray[Any]] = {}
        size = 0
        for number, (position, frames) in enumerate(item.selection()):
            index = item.scene.views[position].index
            places = [k for k in range(0, len(frames), self.config.stride) if int(frames[k]) in known]
            rows = min(self.config.height, index.height)
            size += len(places) * rows * round(index.width * rows / index.height)
            if size > MOST_BYTES:
                what = f"masks of {len(places)} frames would take {size / 1e6:.1f} MB; at most {MOST_BYTES / 1e6:.1f} are kept of one item"
                raise CandidateError(Reason.E_TOO_BIG, f"{what}: raise stride, lower height, or cut the source into windows")
            if not places:
                continue
            paths = [str(path) for path in media.local([known[int(frames[k])] for k in places])]
            asked = (paths, (index.width, index.height), self.config.height, media.limits)
            arrays[f"masks_{number:02d}"] = media.run("stages.perception.mask_files:known_masks", *asked)
            arrays[f"frames_{number:02d}"] = np.array(places, np.int64)
            arrays[f"size_{number:02d}"] = np.array([index.width, index.height], np.int64)
        return Findings(members={"masks": arrays} if arrays else {})
