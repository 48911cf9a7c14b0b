"""Real recordings against an independent sequential decode by plain PyAV."""

import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from schemas.candidate import MediaRef
from stages.media import Media

ROOT = Path(os.environ.get("PARALLAX_REAL_DATA", "/nonexistent"))
FILES = sorted(
    str(path.relative_to(ROOT)) for folder in ("decode", "sav_videos", "pose2sim_single") for path in (ROOT / folder).rglob("*.mp4")
)

pytestmark = pytest.mark.skipif(not FILES, reason="PARALLAX_REAL_DATA does not name the folder of real recordings")


@pytest.mark.parametrize("name", FILES or ["none"])
def test_same_frames_as_a_sequential_decode(name: str, open_media: Callable[..., Media], video_ref: Callable[[str], MediaRef]) -> None:
    media, ref = open_media(ROOT), video_ref(name)
    index = media.index(ref)
    wanted = sorted({0, len(index) // 2, len(index) // 2 + 1, len(index) - 1})
    truth, pts = {}, []
    with av.open(str(ROOT / name)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            pts.append(frame.pts)
            if i in wanted:
                truth[i] = frame.to_ndarray(format="rgb24")
    assert index.pts.tolist() == pts
    for i, picture in zip(wanted, media.frames(ref, index, wanted), strict=True):
        # Chroma is interpolated here and repeated there, so colours differ a little; a neighbouring frame differs in luma.
        difference = np.abs(picture.astype(int).mean(-1) - truth[i].astype(int).mean(-1)).mean()
        assert difference < 3
