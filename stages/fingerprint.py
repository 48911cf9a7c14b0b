"""Fingerprints, by which a run tells that two samples show the same footage: of the files' bytes, and of what a few frames look like.

The frames' is the DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2, with
changes of ours: the mean is left out, and detail that is weaker than codec noise counts as none. A unit cannot know the other units, so
nothing is decided here: `pipeline.duplicates` compares the fingerprints of a whole run, in the order of its plan.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import file_digest, sha256
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.candidate import MediaFile
from schemas.frames import SceneView
from schemas.typed import bounded
from stages.media import Media
from stages.quality import spread_over
from stages.stage import Findings, Item, Scorer, Tier
from stages.storage import Tree

SIDE = 32  # pixels: frames are hashed as luma of SIDE x SIDE ...
LOW = 8  # ... by their LOW x LOW lowest frequencies, a bit each
FAINT = 1.0  # grey levels: a coefficient of the orthonormal DCT below it is noise
# A frame without structure (black, a title on white) looks like any other of its kind. Footage is compared where at least half of its
# frames have more than this, the standard deviation over the picture; else only its bytes are.
FLAT = 4.0  # grey levels

_REMEMBERED = 4096  # digests of files that children of the same source, which come one after another, share


@dataclass(frozen=True)
class FingerprintConfig:
    """Which twins of an earlier sample are turned away, within and across the sources that list this stage.

    exact: those made of the same bytes. max_distance: those whose frames differ by so many of 64 bits or fewer, on average over the
    frames that lie at the same place in both; off with null. Both only decide: changed, they compute nothing anew. frames: of one view;
    several views share about as many between them. Only fingerprints of as many views and frames are compared.
    """

    exact: bool = True
    max_distance: float | None = bounded(8.0, low=0.0, high=12.0)
    frames: int = bounded(8, low=1, high=64)


class Fingerprint(Scorer):
    """What a sample is made of and looks like, as a few numbers that are compared over the whole run."""

    name = "fingerprint"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})
    Config = FingerprintConfig
    config: FingerprintConfig

    def __init__(self, config: FingerprintConfig, accept_noncommercial: bool = False) -> None:
        super().__init__(config, accept_noncommercial)
        self._digests: dict[tuple[Tree, MediaFile], str] = {}

    def unused(self) -> frozenset[str]:
        """What says which twins are turned away says nothing to what is computed."""
        return frozenset({"exact", "max_distance"})

    def score(self, item: Item, media: Media) -> Findings:
        """Field "fingerprint": {"content": 32 hex digits, "views": n, "hashes": [views * frames] of 64 bits, view by view, or null
        where there is too little in the pictures to compare}."""
        chosen = [(item.scene.views[position], frames) for position, frames in item.selection()]
        content = sha256()
        for view, frames in chosen:
            content.update(self._content(view, None if item.child is None else frames, media).encode())
        each = max(1, round(self.config.frames / len(chosen)))
        hashes: list[int] = []
        structured = 0
        for view, frames in chosen:
            wanted = spread_over(frames, each)
            found = media.map_frames(view.media, view.index, wanted, "stages.fingerprint:look", size=(SIDE, SIDE), gray=True)
            hashes += found["hashes"]
            structured += found["structured"]
        comparable = 2 * structured >= len(hashes) > 0
        fields = {"content": content.hexdigest()[:32], "views": len(chosen), "hashes": hashes if comparable else None}
        return Findings(fields={"fingerprint": fields})

    def _content(self, view: SceneView, frames: NDArray[np.int64] | None, media: Media) -> str:
        """Of the bytes of the view's files, and of which of its frames are taken (None: all)."""
        ref = view.media
        files = [ref.files[i] for i in frames.tolist()] if ref.kind == "images" and frames is not None else ref.files
        digests = [self._digest(file, media) for file in files]
        taken = "" if frames is None or ref.kind == "images" else ",".join(map(str, frames.tolist()))
        return f"{ref.kind}\0{ref.item}\0{' '.join(digests)}\0{taken}\n"

    def _digest(self, file: MediaFile, media: Media) -> str:
        key = (media.tree, file)
        if key not in self._digests:
            if len(self._digests) >= _REMEMBERED:
                self._digests.clear()
            with media.local([file])[0].open("rb") as stream:
                self._digests[key] = file_digest(stream, "sha256").hexdigest()
        return self._digests[key]


def look(frames: Iterator[NDArray[np.uint8]]) -> dict[str, Any]:
    """{"hashes": of every frame [SIDE,SIDE] luma, "structured": how many of them are not flat}. Runs in the sandbox."""
    hashes, structured = [], 0
    for frame in frames:
        hashes.append(picture_hash(frame))
        structured += float(frame.std()) > FLAT
    return {"hashes": hashes, "structured": structured}


def picture_hash(luma: NDArray[np.uint8]) -> int:
    """64 bits of a picture [SIDE,SIDE], 0..255: which of its lowest frequencies lie above their median, row by row, highest bit first.

    A frequency fainter than FAINT does not, so that noise in a flat picture says nothing. The first bit is the mean's, always 0.
    """
    low = cv2.dct(luma.astype(np.float32))[:LOW, :LOW].ravel()
    bits = low > max(float(np.median(low[1:])), 0.0) + FAINT
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
