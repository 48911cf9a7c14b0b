"""What is to be generated: one text with its cameras, or every sample of a folder of shards."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.viewpoints import Viewpoints, viewpoints

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.loader.catalog import Catalog
    from pipeline.loader.settings import LoaderSettings

    Inputs = tuple[Viewpoints, NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Shape:
    """views: None where nobody said how many; default_views then. stride: every n-th frame of what is read. size: (H, W)."""

    views: int | None
    default_views: int
    frames: int
    stride: int
    size: tuple[int, int]

    @property
    def picture(self) -> tuple[int, int]:
        """(width, height)."""
        return self.size[1], self.size[0]


@dataclass(frozen=True, eq=False)
class Job:
    """One sample to generate. name: the sample id, "" where there is one text alone. source: the part of settings.json that
    says where cameras and video come from. read: the cameras, and the input video [F,H,W,3] or None; may raise ReadError.
    """

    name: str
    folder: Path
    prompt: str
    seed: int
    views: int
    source: dict[str, Any]
    read: "Callable[[], Inputs]"


def single(options: argparse.Namespace, shape: Shape) -> list[Job]:
    """The one text. Raises ValueError, ViewpointsError, OSError."""
    if options.prompt is None or options.cameras is None:
        missing = " and ".join(name for name in ("prompt", "cameras") if getattr(options, name) is None)
        raise ValueError(f"--{missing.replace(' and ', ' and --')} must be given, or --data DIR to take texts and cameras from shards")
    cameras = viewpoints(options.cameras, views=shape.views, default_views=shape.default_views, frames=shape.frames, size=shape.picture)
    source: dict[str, Any] = {"cameras": options.cameras, "camera_names": list(cameras.names), "video": None}
    video = None
    if options.video is not None:
        video = _video(Path(options.video), shape, options.video_start)
        with open(options.video, "rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        source["video"] = {"sha256": digest, "start": options.video_start, "stride": shape.stride}
    return [Job("", Path(options.output), options.prompt, options.seed, cameras.views, source, lambda: (cameras, video))]


def over_shards(options: argparse.Namespace, shape: Shape) -> tuple[list[Job], list[str]]:
    """A job for each sample that has what is needed, in the order of the shards; and notes on what was left out.

    Prompt and cameras are the sample's (its first views), unless --cameras says where they stand. Raises ValueError.
    """
    from pipeline.loader.catalog import Catalog

    catalog = Catalog.open(options.data, options.selection, options.split)
    if "://" not in options.data and Path(options.output).resolve() == Path(options.data).resolve():
        raise ValueError(f"--output {options.output} is the folder that is read; name another")
    if catalog.encoding is not None:
        raise ValueError(f"--data {options.data} holds latents; give the folder of pipeline.curate that they were encoded from")
    cameras = None
    if options.cameras is not None:
        cameras = viewpoints(options.cameras, views=shape.views, default_views=shape.default_views, frames=shape.frames, size=shape.picture)
    views = cameras.views if cameras is not None else shape.views or shape.default_views
    needed = views if cameras is None else 1 if options.video_from_data else 0
    chosen, notes = _with_enough(catalog, needed, (shape.frames - 1) * shape.stride + 1 if needed else 0)
    chosen = chosen[: options.limit]
    captions = _captions(catalog, chosen)
    untexted = sum(not caption for caption in captions)
    if untexted:
        where = f"from --prompt {options.prompt!r}" if options.prompt else "from the empty text; --prompt TEXT would be theirs"
        notes.append(f"{untexted} of {len(chosen)} samples have no text: they are generated {where}")
    settings = _loader_settings(options, shape, views)
    source = {
        "cameras": options.cameras or "the sample's",
        "video": {"view": 0, "start": 0, "stride": shape.stride} if options.video_from_data else None,
    }
    jobs = []
    for i, caption in zip(chosen, captions, strict=True):
        name = catalog.sample_id(i)
        names = list(cameras.names) if cameras is not None else catalog.view_ids(i)[:views]
        read = _reader(catalog, settings, i, views, cameras, options.video_from_data)
        own = {**source, "camera_names": names, "sample_id": name}
        prompt = caption or options.prompt or ""
        jobs.append(Job(name, Path(options.output) / name, prompt, _seed_of(options.seed, name), views, own, read))
    return jobs, notes


def _video(path: Path, shape: Shape, start: int) -> "NDArray[np.uint8]":
    """[F,H,W,3]: every stride-th frame from `start`, resized to cover and cut at the centre. Raises ValueError, OSError."""
    from pipeline.loader.fetch import ReadError
    from pipeline.loader.frames import Footage

    stride = shape.stride
    last = start + (shape.frames - 1) * stride
    try:
        footage = Footage(path.read_bytes(), str(path))
        if last >= len(footage):
            raise ValueError(
                f"--video {path} has {len(footage)} frames; {shape.frames} frames, every {stride}. from {start} on, reach to frame {last}: "
                "give fewer --frames, or a smaller --video-stride or --video-start"
            )
        return footage.read(range(start, last + 1, stride), shape.size)
    except ReadError as error:
        raise ValueError(f"--video {error}") from None


def _with_enough(catalog: "Catalog", views: int, frames: int) -> tuple[list[int], list[str]]:
    """Which samples have so many views and frames, and how many do not. Raises ValueError where none has."""
    few_views = [i for i in range(len(catalog)) if catalog.n_views[i] < views]
    out = set(few_views)
    few_frames = [i for i in range(len(catalog)) if i not in out and (catalog.n_frames(i) or 0) < frames]
    out |= set(few_frames)
    parts = [f"{len(few_views)} have fewer than {views} views"] if few_views else []
    parts += [f"{len(few_frames)} fewer than {frames} frames"] if few_frames else []
    if len(out) == len(catalog):
        raise ValueError(f"none of the {len(catalog)} samples can be used: {', '.join(parts)}; give fewer --views or --frames")
    notes = [f"{len(out)} of {len(catalog)} samples are left out: {', '.join(parts)}"] if out else []
    return [i for i in range(len(catalog)) if i not in out], notes


def _captions(catalog: "Catalog", samples: Sequence[int]) -> list[str]:
    """Texts, "" where a sample has none. Raises ValueError where a shard is not as the manifest says."""
    from pipeline.loader.fetch import ReadError, Store

    members = [catalog.members(i).get("caption.txt") for i in samples]
    store = Store(catalog.location)
    try:
        data = iter(store.fetch([member for member in members if member is not None]))
        return ["" if member is None else next(data).decode("utf-8").strip() for member in members]
    except (ReadError, UnicodeDecodeError) as error:
        raise ValueError(f"the captions of {catalog.location} cannot be read: {error}") from None
    finally:
        store.close()


def _loader_settings(options: argparse.Namespace, shape: Shape, views: int) -> "LoaderSettings":
    from pipeline.loader.settings import LoaderSettings

    return LoaderSettings(
        batch=1, views=views, frames=shape.frames, frame_stride=shape.stride, size=shape.size, curriculum=(), first_view="first"
    )


def _reader(
    catalog: "Catalog", settings: "LoaderSettings", sample: int, views: int, cameras: Viewpoints | None, with_video: bool
) -> "Callable[[], Inputs]":
    """Reads one sample: its cameras unless they are given, its view 0 if that is the input video."""

    def read() -> "Inputs":
        if cameras is not None and not with_video:
            return cameras, None
        from pipeline.loader.draw import Draw
        from pipeline.loader.loader import Loader

        chosen = tuple(range(views)) if cameras is None else (0,)
        frames = tuple(range(0, settings.frames * settings.frame_stride, settings.frame_stride))
        kind = catalog.kind(sample) if cameras is None else "singleview_video"
        batch = Loader.read(catalog, settings, [Draw(0, 0, 0, kind, sample, chosen, frames)])
        own = cameras
        if own is None:
            if batch.c2w is None or batch.K is None:
                raise ValueError(f"{batch.sample_ids[0]} has no cameras; give --cameras")
            height, width = batch.size
            own = Viewpoints(tuple(batch.view_ids[0]), batch.c2w[0], batch.K[0], (width, height), batch.metric[0])
        video = None
        if with_video and batch.video is not None:
            video = batch.video[0, 0].permute(1, 2, 3, 0).contiguous().numpy()
        return own, video

    return read


def _seed_of(seed: int, sample_id: str) -> int:
    """A sample's own: the same whatever else is generated."""
    return int.from_bytes(sha256(f"{seed}/{sample_id}".encode()).digest()[:8], "big") >> 1
