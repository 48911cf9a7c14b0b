"""What a layout is asked for, and what all layouts share: filming views, and writing the ground truth beside them."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.studio import truth as known
from pipeline.studio.render import Frame, paint, render
from pipeline.studio.scene import Array, Scene
from schemas.camera import CameraTrack, intrinsics

Size = tuple[int, int]
Footage = Literal["video", "frames", "torch"]
Calibration = Literal["json", "colmap", "qualisys"]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Defaults:
    """cameras and the limits on them are per scene; layouts with one camera have 1 and 1."""

    scenes: int
    cameras: int
    frames: int
    size: Size
    max_cameras: int


@dataclass(frozen=True)
class Order:
    """One call of `write_layout` with the defaults filled in."""

    layout: str
    output: Path
    scenes: int
    cameras: int
    frames: int
    size: Size
    seed: int
    truth: Path | None
    footage: Footage
    calibration: Calibration
    trajectories: Path | None
    progress: bool
    _bars: list[Any] = field(default_factory=list, repr=False)

    @staticmethod
    def of(
        layout: str, defaults: Defaults, output: Path,
        scenes: int | None, cameras: int | None, frames: int | None, size: Size | None, seed: int,
        truth: Path | None, footage: Footage, calibration: Calibration, trajectories: Path | None, progress: bool,
    ) -> "Order":  # fmt: skip
        """Checked. Raises ValueError that names the number, its value and what is allowed."""
        chosen = {
            "scenes": (defaults.scenes if scenes is None else scenes, 1, 100_000),
            "cameras": (defaults.cameras if cameras is None else cameras, 1, defaults.max_cameras),
            "frames": (defaults.frames if frames is None else frames, 2, 100_000),
            "seed": (seed, 0, 2**63 - 1),
        }
        for what, (value, low, high) in chosen.items():
            if not low <= value <= high:
                raise ValueError(f"{what} is {value}; this layout takes {low} to {high}")
        width, height = defaults.size if size is None else size
        if width % 2 or height % 2 or not 32 <= width <= 4096 or not 32 <= height <= 4096:
            raise ValueError(f"size is {width}x{height}; width and height must be even and from 32 to 4096")
        for what, given, allowed in (("footage", footage, get_args(Footage)), ("calibration", calibration, get_args(Calibration))):
            if given not in allowed:
                raise ValueError(f"{what} is {given!r}; it must be one of {', '.join(allowed)}")
        scenes, cameras, frames = (chosen[what][0] for what in ("scenes", "cameras", "frames"))
        return Order(
            layout, Path(output), scenes, cameras, frames, (width, height), seed, truth, footage, calibration, trajectories, progress
        )  # fmt: skip

    def prepare(self) -> None:
        """Make the folders. Raises FileExistsError rather than mixing two datasets."""
        if self.truth is not None and self.truth.resolve().is_relative_to(self.output.resolve()):
            raise ValueError(f"the truth folder {self.truth} lies inside the dataset {self.output}; put it beside the dataset")
        for folder in (self.output, self.truth):
            if folder is None:
                continue
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise FileExistsError(f"{folder} is not an empty folder; name a new one, or remove it first")
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def bar(self, name: str) -> Iterator[None]:
        """Count rendered frames on stderr when it is a terminal."""
        if not (self.progress and sys.stderr.isatty()):
            yield
            return
        with tqdm(desc=name, unit="frame", file=sys.stderr) as bar:
            self._bars.append(bar)
            yield

    def rng(self, scene: int, use: int) -> np.random.Generator:
        """A generator for one use within one scene of this layout; the number of scenes does not change it."""
        return np.random.default_rng([self.seed, crc32(self.layout.encode()), scene, use])

    def scene_seed(self, scene: int) -> int:
        return int(self.rng(scene, 99).integers(2**31))

    def film(self, scene: Scene, camera: CameraTrack, times: Iterable[float]) -> Iterator[Image]:
        """The frames of one view, [H,W,3] RGB."""
        for c2w, K, time in zip(camera.c2w, camera.K, times, strict=True):
            for bar in self._bars:
                bar.update()
            yield paint(scene, time, c2w, K, (camera.width, camera.height))

    def measure(self, scene: Scene, camera: CameraTrack, times: Iterable[float]) -> Iterator[Frame]:
        """The frames of one view with their depth and instances, for layouts that publish them."""
        for c2w, K, time in zip(camera.c2w, camera.K, times, strict=True):
            for bar in self._bars:
                bar.update()
            yield render(scene, time, c2w, K, (camera.width, camera.height))

    def write_truth(self, name: str, scene: Scene, cameras: Mapping[str, CameraTrack], times: NDArray[np.float64]) -> None:
        """`{truth}/{name}.npz`, when asked for: views [V], times [T] seconds, c2w [V,T,4,4] metres, K [V,T,3,3], depth
        [V,T,H,W] float32 metres (inf: sky), instance [V,T,H,W] int16, instances (their names), joint_names [17],
        joints [T,P,17,3], joint_pixels [V,T,P,17,2], joint_visible [V,T,P,17].
        """
        if self.truth is None:
            return
        views = list(cameras.values())
        frames = [
            [render(scene, time, c2w, K, (view.width, view.height)) for time, c2w, K in zip(times, view.c2w, view.K, strict=True)]
            for view in views
        ]
        figures = known.skeleton(scene, views, list(times))
        self.truth.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            self.truth / f"{name}.npz",
            views=np.array(list(cameras)),
            times=times,
            c2w=np.stack([view.c2w for view in views]),
            K=np.stack([view.K for view in views]),
            depth=np.stack([[frame.depth for frame in row] for row in frames]),
            instance=np.stack([[frame.instance for frame in row] for row in frames]),
            instances=np.array(scene.instances),
            joint_names=np.array(figures.names),
            joints=figures.joints,
            joint_pixels=figures.pixels,
            joint_visible=figures.visible,
        )


def camera_track(c2w: Array, focal: float, size: Size) -> CameraTrack:
    """A pinhole with square pixels and a centred principal point. focal: pixels."""
    width, height = size
    return CameraTrack(c2w, intrinsics(focal, focal, width / 2, height / 2, len(c2w)), width, height, "metres", up=(0.0, 0.0, 1.0))


def frame_times(frames: int, rate: Fraction) -> NDArray[np.float64]:
    """[frames] seconds from 0."""
    return np.array([float(k / rate) for k in range(frames)])


def write_text(path: Path, text: str) -> None:
    """UTF-8 with plain newlines on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def csv_rows(rows: Iterable[tuple[str, str]]) -> str:
    """file_name,text with quoted captions."""
    return "file_name,text\n" + "".join(f'{name},"{text.replace(chr(34), chr(34) * 2)}"\n' for name, text in rows)
