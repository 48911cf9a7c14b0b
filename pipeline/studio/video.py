"""H.264 in MP4, the same bytes every time."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

CRF = 18
# Without cpu-independent the lookahead's B-frame decisions follow the alignment of its buffers: 2 results in 300 equal calls.
X264 = "keyint=12:min-keyint=12:scenecut=0:cpu-independent=1"


def write_mp4(path: Path, frames: Iterable[NDArray[np.uint8]], rate: Fraction, first: int = 0, index_first: bool = False) -> int:
    """Encode RGB frames [H,W,3] of even size; returns how many there were. Frame k is shown at (first + k)/rate seconds.

    index_first: put the file's index before its frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    options = {"movflags": "+faststart"} if index_first else {}
    # A late start is an empty edit in the movie's own clock, whose default of 1 ms would shift every frame.
    with av.open(str(path), "w", format="mp4", options={"movie_timescale": "90000", **options}) as container:
        stream = None
        for image in frames:
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.time_base = 1 / rate
                stream.codec_context.thread_count = 1
                stream.options = {"crf": str(CRF), "preset": "veryfast", "threads": "1", "x264-params": X264}
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = first + count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one frame")
        container.mux(stream.encode(None))
    return count
