"""Tracks by CoTracker3 through upstream's package `cotracker`, whose licence forbids commercial use: the user brings it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schemas.typed import RecipeError, nearest
from schemas.verdict import CandidateError, Reason
from stages.perception.device import Precision, lower, torch_device
from stages.perception.results import Image, Points, Tracks
from stages.perception.state import load_strict, read_state
from stages.perception.weights import WeightsError

if TYPE_CHECKING:
    import torch

Mode = Literal["offline", "online"]
_WINDOWS = {"offline": 60, "online": 16}  # of the official checkpoints; time_emb has this length
_AT_ONCE = 4  # frames in the image encoder, which takes some 100 MB for each
_MANY_POINTS = 256  # from where on memory is mostly theirs
_MAX_FRAMES = 120  # of the offline mode, for so many points
_importing = Lock()


def most_frames(points: int, max_frames: int = _MAX_FRAMES) -> int:
    """Frames that the offline mode takes with so many points."""
    return max(max_frames * _MANY_POINTS // max(points, _MANY_POINTS), 1)


class CoTracker:
    """CoTracker3 with its official checkpoints (`cotracker3-offline`, `cotracker3-online`), and upstream's own predictors.

    path: the checkpoint of that mode, a flat state dict or one under "model". code: the folder of upstream's package, as `find` has it
    for `cotracker-code`; it counts even where the package is installed as well, for results depend on it.
    offline: sees the whole clip at once and is the more accurate one where points vanish and come back. A point is visible where
    visibility > 0.9. Memory grows with the clip, by 52 MiB for each frame of 256 points: one of more than max_frames frames, or fewer
    in proportion where there are more points than that, raises CandidateError. The default keeps below 8 GiB.
    online: windows of 16 frames every 8; frames are dropped behind them, so that memory does not grow with the clip (1.8 GiB on a
    CPU, the process included, with 256 points). A point is visible where visibility * confidence > 0.6.
    precision: of the networks; positions and correlations stay in float32. With bf16 and random weights, half of the points differ by
    less than 5 % of how far they moved. One video at a time: an object is not for two threads.
    Raises WeightsError for a checkpoint that does not fit and for a folder without the package, RecipeError for a missing torch and a
    package that cannot be imported.
    """

    def __init__(
        self,
        path: str | Path,
        mode: Mode = "offline",
        *,
        code: str | Path,
        device: str = "auto",
        precision: Precision = "fp32",
        max_frames: int = _MAX_FRAMES,
    ) -> None:
        if mode not in _WINDOWS:
            raise RecipeError(f"no mode {mode!r} of CoTracker{nearest(mode, _WINDOWS)}")
        try:
            import torch
        except ImportError:
            raise RecipeError("CoTracker needs torch; install it with: uv pip install -e '.[perception]'") from None
        self._device = torch_device(device)
        self._online = mode == "online"
        self._max_frames = max_frames
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):  # upstream seeds torch as it is imported
            upstream = _upstream(Path(code))
            kind = upstream.CoTrackerOnlinePredictor if self._online else upstream.CoTrackerPredictor
            self._predictor = kind(checkpoint=None, window_len=_WINDOWS[mode])
        model = self._predictor.model
        state = read_state(Path(path))
        load_strict(model, state["model"] if isinstance(state.get("model"), dict) else state, str(path))
        self._predictor.to(self._device).requires_grad_(False).eval()
        for part in (model.fnet, model.corr_mlp, model.updateformer):
            lower(part, precision)
        self._encoder = _Encoder(model.fnet)

    def track(self, frames: Iterator[Image], points: Points) -> Tracks:
        """Tracks of points [N,2] of the first frame through frames [H,W,3] of one size. No frames, or no points, give empty tracks."""
        points = np.asarray(points, np.float32).reshape(-1, 2)
        if not len(points):
            count = sum(1 for _ in frames)
            return Tracks(np.zeros((count, 0, 2), np.float32), np.zeros((count, 0), np.bool_))
        clip = _Clip(frames, tuple(self._predictor.interp_shape), self._device)
        found = self._track_online(clip, points) if self._online else self._track_offline(clip, points)
        if found is None:
            return Tracks(np.zeros((0, len(points), 2), np.float32), np.zeros((0, len(points)), np.bool_))
        xy, visible = found
        return Tracks((xy[0].cpu() / clip.scale + 0.5).numpy(), visible[0].cpu().numpy())

    def _track_offline(self, clip: "_Clip", points: Points) -> "tuple[torch.Tensor, torch.Tensor] | None":
        import torch

        most = most_frames(len(points), self._max_frames)
        pictures: list[torch.Tensor] = []
        for picture in clip:
            if len(pictures) == most:
                raise CandidateError(
                    Reason.E_TOO_BIG,
                    f"the clip has more than {most} frames for {len(points)} points, and CoTracker offline holds it in memory all at once; "
                    "use its online mode, take fewer frames or points, or raise max_frames where there is the memory",
                )
            pictures.append(picture)
        if not pictures:
            return None
        found: tuple[torch.Tensor, torch.Tensor] = self._predictor(torch.stack(pictures)[None], queries=clip.queries(points))
        return found

    def _track_online(self, clip: "_Clip", points: Points) -> "tuple[torch.Tensor, torch.Tensor] | None":
        import torch

        window, step = self._predictor.model.window_len, self._predictor.step
        held: list[torch.Tensor] = []
        seen = 0  # how many of those held were in a window already
        found = None
        try:
            for picture in clip:
                if not held:
                    self._predictor(picture[None, None], is_first_step=True, queries=clip.queries(points))
                held.append(picture)
                if len(held) == window:
                    with self._encoder.window(seen, window):
                        found = self._predictor(torch.stack(held)[None])
                    held, seen = held[step:], window - step
            if len(held) > seen:
                with self._encoder.window(seen, len(held)):
                    found = self._predictor(torch.stack(held)[None])
        finally:  # the next video starts anew, and this one's features are let go
            self._predictor.model.init_video_online_processing()
            self._encoder.forget()
        return found


class _Clip:
    """The frames at the size that the network works at, one at a time: what upstream's predictors do to a whole clip at once."""

    def __init__(self, frames: Iterator[Image], shape: tuple[int, ...], device: "torch.device") -> None:
        self._frames, self._shape, self._device = frames, shape, device
        self.scale: Any = None  # (x, y), from the source's pixels to the network's; known after the first frame

    def __iter__(self) -> "Iterator[torch.Tensor]":
        """[3,H,W] float32, 0 to 255. The centres of corner pixels stay centres of corner pixels, as upstream has it."""
        import torch
        from torch.nn.functional import interpolate

        for frame in self._frames:
            height, width = frame.shape[:2]
            if self.scale is None:
                self.scale = torch.tensor([(self._shape[1] - 1) / max(width - 1, 1), (self._shape[0] - 1) / max(height - 1, 1)])
            picture = torch.tensor(frame).to(self._device).permute(2, 0, 1)[None].float().contiguous()
            yield interpolate(picture, self._shape, mode="bilinear", align_corners=True)[0]

    def queries(self, points: Points) -> "torch.Tensor":
        """[1,N,3]: frame 0 and (x, y) of the network's picture, which has pixel centres at integers."""
        import torch

        xy = (torch.tensor(points) - 0.5) * self.scale
        return torch.cat([torch.zeros(len(points), 1), xy], 1)[None].to(self._device)


class _Encoder:
    """Stands before the image encoder of a model: a few frames at a time, where upstream gives it 200, which is 20 GB; and online each
    frame once, although windows overlap by half, and are filled up with copies of the last frame."""

    def __init__(self, encoder: "torch.nn.Module") -> None:
        self._plain = encoder.forward
        encoder.forward = self._forward
        self._seen = 0
        self._distinct: int | None = None
        self._keep = False
        self._last: Any = None  # the features of the window before

    @contextmanager
    def window(self, seen: int, distinct: int) -> Iterator[None]:
        """The pictures within: as many as `seen` are the last of the window before, and those after `distinct` are copies."""
        self._seen, self._distinct, self._keep = seen, distinct, True
        try:
            yield
        finally:
            self._seen, self._distinct, self._keep = 0, None, False

    def forget(self) -> None:
        self._last = None

    def _forward(self, pictures: "torch.Tensor") -> "torch.Tensor":
        import torch

        fresh = pictures[self._seen : self._distinct]
        found = [self._plain(fresh[first : first + _AT_ONCE]) for first in range(0, len(fresh), _AT_ONCE)]
        if self._seen:
            found.insert(0, self._last[-self._seen :])
        copies = len(pictures) - self._seen - len(fresh)
        features = torch.cat([*found, found[-1][-1:].expand(copies, -1, -1, -1)])
        if self._keep:
            self._last = features
        return features


def _upstream(code: Path) -> ModuleType:
    """The module cotracker.predictor of that folder, whatever else of that name is installed. Nothing that lies beside it is imported.

    What another folder's models were made of stays with them, but is no longer what `import cotracker` gives.
    """
    folder = (code if (code / "predictor.py").is_file() else code / "cotracker").resolve()
    if not (folder / "predictor.py").is_file():
        raise WeightsError(
            f"{code} holds no package cotracker (no {folder / 'predictor.py'}); "
            "fetch it with: python -m pipeline.weights fetch cotracker-code --accept-noncommercial"
        )
    with _importing:
        present = sys.modules.get("cotracker")
        if present is None or Path(present.__file__ or "").parent.resolve() != folder:
            _forget()
            spec = spec_from_file_location("cotracker", folder / "__init__.py", submodule_search_locations=[str(folder)])
            assert spec is not None and spec.loader is not None  # of a .py file, always
            package = module_from_spec(spec)
            sys.modules["cotracker"] = package
            try:
                spec.loader.exec_module(package)
                return _predictors(import_module("cotracker.predictor"))
            except ImportError as error:
                _forget()
                raise RecipeError(f"upstream's package cotracker in {folder} cannot be imported: {error}") from None
            except BaseException:
                _forget()
                raise
        return _predictors(import_module("cotracker.predictor"))


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cotracker"]:
        del sys.modules[name]


def _predictors(module: ModuleType) -> ModuleType:
    """The module, if it is CoTracker3's: its first releases had the same name and other networks."""
    build = import_module("cotracker.models.build_cotracker")
    if not hasattr(build, "CoTrackerThreeOffline"):
        raise RecipeError(f"{module.__file__} is of a release before CoTracker3; install the package's current state")
    return module
