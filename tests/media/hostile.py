"""Files that stand where a video should: each with the one reason it must end in, or None where it is a good file.

`make_hostile(folder)` writes them all. Import it as tests.media.hostile.
"""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from schemas.verdict import Reason
from tests.media import torture

GOOD_NAMES = (
    "; touch owned; $(touch owned) `touch owned`.mp4",
    "two\nlines.mp4",
    "quote'\"double.mp4",
    "-i.mp4",
    "frame%03d.mp4",
    "concat:a|b.mp4",
    "http:evil.mp4",
    "star*[?]{a,b}.mp4",
    "ünïcode 视频.mp4",
)


def video(path: Path, frames: int = 24, **container: str) -> Path:
    """A small good video."""
    torture.write(path, range(frames), [i * torture.STEP for i in range(frames)], options={"g": "12"}, container=container)
    return path


def motion_jpeg(path: Path) -> Path:
    """A small good video whose every frame is a JPEG."""
    torture.write(path, range(24), range(24), codec="mjpeg", pixel_format="yuvj420p", tick=Fraction(1, 30))
    return path


def audio(path: Path) -> Path:
    """Half a second of a tone and nothing else."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le" if path.suffix == ".wav" else "aac", rate=16_000)
        stream.layout = "mono"
        wave = (np.sin(np.arange(8192) * 0.2) * 8000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def patch(path: Path, source: Path, *edits: tuple[bytes, int, bytes]) -> Path:
    """A copy of `source` with bytes replaced at an offset from the first occurrence of a marker."""
    data = bytearray(source.read_bytes())
    for marker, offset, new in edits:
        at = data.index(marker) + offset
        data[at : at + len(new)] = new
    path.write_bytes(data)
    return path


def cut(path: Path, source: Path, share: float) -> Path:
    """The first `share` of the bytes."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def same_time_twice(path: Path, source: Path) -> Path:
    """The last two frames share one timestamp."""

    def keep(packets: list[av.Packet]) -> list[av.Packet]:
        packets[-1].pts = packets[-2].pts
        return packets

    torture.copy_packets(source, path, keep)
    return path


def make_hostile(folder: Path) -> dict[str, tuple[Path, Reason | None]]:
    """Write the whole set below `folder`. The time and pixel caps it breaks are the defaults of MediaLimits."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, tuple[Path, Reason | None]] = {}

    def add(path: Path, reason: Reason | None) -> None:
        made[path.name] = (path, reason)

    def text(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    good = video(folder / "good.mp4")
    front = video(folder / "index_in_front.mp4", movflags="+faststart")
    mkv, avi, ts = video(folder / "good.mkv"), motion_jpeg(folder / "good.avi"), video(folder / "good.ts")
    for path in (good, front, mkv, avi, ts):
        add(path, None)
    for name in GOOD_NAMES:
        add(patch(folder / name, good), None)

    add(cut(folder / "no_index.mp4", good, 0.5), Reason.E_TRUNCATED)
    add(cut(folder / "cut_off.mp4", front, 0.7), Reason.E_TRUNCATED)
    add(cut(folder / "cut_off.mkv", mkv, 0.6), Reason.E_TRUNCATED)
    add(cut(folder / "cut_off.avi", avi, 0.6), Reason.E_TRUNCATED)
    packets = ts.read_bytes()[: 188 * 40]
    add(text("lost_sync.ts", packets + bytes(70_000)), Reason.E_TRUNCATED)  # FFmpeg: "temporarily unavailable"
    add(patch(folder / "sample_past_the_end.mp4", good, (b"stsz", 16, struct.pack(">I", 1 << 30))), Reason.E_TRUNCATED)
    add(text("empty.mp4", b""), Reason.E_OPEN)
    add(text("zeros.mp4", bytes(100_000)), Reason.E_OPEN)
    add(text("text.mp4", b"This is not a video.\n" * 50), Reason.E_OPEN)
    add(text("noise.mp4", np.random.default_rng(7).bytes(100_000)), Reason.E_OPEN)
    add(text("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n"), Reason.E_OPEN)
    add(text("concat.mp4", b"ffconcat version 1.0\nfile good.mp4\n"), Reason.E_OPEN)
    add(audio(folder / "audio_only.mp4"), Reason.E_NO_VIDEO)
    add(audio(folder / "audio_only.wav"), Reason.E_NO_VIDEO)

    add(patch(folder / "huge_picture.mp4", good, (b"stsd", 44, b"\xff\xff\xff\xff")), Reason.E_TOO_BIG)
    wide = struct.pack("<ii", 100_000, 100_000)
    add(patch(folder / "huge_picture.avi", avi, (b"strf", 12, wide), (b"avih", 40, wide)), Reason.E_TOO_BIG)
    add(patch(folder / "endless.mp4", good, (b"mdhd", 20, struct.pack(">I", 4_000_000_000))), Reason.E_TOO_BIG)
    add(patch(folder / "countless.mp4", good, (b"stsz", 8, struct.pack(">II", 1, 4_000_000_000))), Reason.E_TOO_BIG)
    add(torture.write(folder / "endless.ts", range(30), [i * 27_000_000 for i in range(30)]), Reason.E_TOO_BIG)
    add(same_time_twice(folder / "same_time_twice.mkv", good), Reason.E_PTS)

    os.mkfifo(folder / "pipe.mp4")
    add(folder / "pipe.mp4", Reason.E_UNSAFE_PATH)
    os.symlink("/dev/zero", folder / "link_out.mp4")
    add(folder / "link_out.mp4", Reason.E_UNSAFE_PATH)
    return made
