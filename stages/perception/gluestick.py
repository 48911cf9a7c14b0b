"""GlueStick as a LineMatcher: segments and keypoints of two images in, matched segments out."""

import contextlib
import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError, nearest
from stages.perception.device import Precision
from stages.perception.results import Image, LineMatches, Points
from stages.perception.state import load_strict, read_state
from stages.perception.superpoint import SuperPoint, sample, to_magic_leap
from stages.perception.weights import WeightsError
from stages.perception.wireframe import Segments, Wireframe, aligned, clear_of_ends, detect, given, luma, wire

if TYPE_CHECKING:
    from torch import nn

    from stages.perception.gluestick_net import GlueStickNet, Graph

_PRECISIONS = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}  # and torch's names
_LEAST_SIDE = 8  # pixels: SuperPoint has nothing to say about less


class GlueStick:
    """Line matches by GlueStick (Pautrat, Suárez et al., ICCV 2023), as FCVG uses it.

    path: the official checkpoint_GlueStick_MD.tar; superpoint_path: see superpoint.SuperPoint. Segments are the strongest `max_lines`
    of each image that OpenCV's LSD finds, wired together where their ends meet; beside their junctions go up to `max_keypoints`
    SuperPoint keypoints. device: "auto", "cpu", "cuda", "cuda:1"; on a GPU, PyTorch lets convolutions use TF32.

    precision: of the matcher, less its attention and the comparison at the end; SuperPoint stays in float32, or it would find other
    keypoints. The similarities of segments then differ by less than 1 % (bf16) or 0.2 % (fp16) of their norm.

    upstream: let the authors' own package do it, where it is installed (it brings pytlsd, whose segments are not OpenCV's). Its own
    segments are up to 1.2 pixels off, because pytlsd shrinks an image about the centre of its first pixel; they come as they are.

    Raises WeightsError for files that do not fit, RecipeError where a package or the device is missing.
    """

    def __init__(
        self,
        path: Path,
        superpoint_path: Path,
        *,
        max_lines: int = 300,
        max_keypoints: int = 1000,
        device: str = "auto",
        precision: Precision = "fp32",
        upstream: bool = False,
    ) -> None:
        if precision not in _PRECISIONS:
            raise RecipeError(f"no precision {precision!r}{nearest(precision, _PRECISIONS)}")
        self._precision = precision
        self._max_lines = max_lines
        self._superpoint = SuperPoint(superpoint_path, max_keypoints=max_keypoints, device=device)
        self._upstream: nn.Module | None = None
        self._net: GlueStickNet | None = None
        if upstream:
            self._upstream = _upstream_pipeline(path, self._superpoint.model, max_lines, max_keypoints).to(self._superpoint.device)
        else:
            self._net = load_gluestick(path).to(self._superpoint.device)

    def match(self, first: Image, second: Image, lines: tuple[Points, Points] | None = None) -> LineMatches:
        """Matched segments, from junction to junction, in the order of the first image's; their ends as FCVG pairs them.

        lines: the caller's own segments of both images [L,2,2] instead of detected ones; all of them are used, and which end comes
        first says nothing. Nothing to match with gives empty arrays. Raises ValueError for segments that are none.
        """
        images = (first, second)
        segments = None if lines is None else [given(each) for each in lines]
        if any(min(image.shape[:2]) < _LEAST_SIDE for image in images):
            return _nothing()
        if self._net is None:
            return self._match_upstream(images, segments)
        segments = segments or [detect(image, self._max_lines) for image in images]
        if not all(len(each.lines) for each in segments):
            return _nothing()
        import torch

        wireframes = [wire(each) for each in segments]
        with torch.inference_mode():
            graphs = [self._graph(*each) for each in zip(images, segments, wireframes, strict=True)]
            kind = _PRECISIONS[self._precision]
            with torch.autocast(self._superpoint.device.type, getattr(torch, kind or "bfloat16"), enabled=kind is not None):
                found = self._net(*graphs).lines
            return _chosen([each.lines for each in wireframes], found.first.cpu().numpy(), found.first_scores.cpu().numpy())

    def _graph(self, image: Image, segments: Segments, wireframe: Wireframe) -> "Graph":
        """Junctions, then keypoints clear of them, with their descriptors. The network's positions count from the first pixel's centre."""
        import torch

        from stages.perception.gluestick_net import Graph

        features = self._superpoint(luma(image))

        def put(values: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(values).to(self._superpoint.device)

        kept = put(clear_of_ends(features.xy.cpu().numpy() + np.float32(0.5), segments))
        xy = torch.cat([put(wireframe.junctions - np.float32(0.5)), features.xy[kept]])
        return Graph(
            xy,
            torch.cat([put(wireframe.junction_scores), features.scores[kept]]),
            sample(features.dense, xy),
            put(wireframe.ends),
            put(wireframe.line_scores),
            (image.shape[1], image.shape[0]),
        )

    def _match_upstream(self, images: Sequence[Image], segments: Sequence[Segments] | None) -> LineMatches:
        import torch

        assert self._upstream is not None
        device = self._superpoint.device
        inputs: dict[str, torch.Tensor] = {}
        for i, image in enumerate(images):
            inputs[f"image{i}"] = torch.from_numpy(luma(image)).to(device).float()[None, None] / 255
            if segments is not None:
                own = segments[i]
                if not len(own.lines):
                    return _nothing()
                inputs[f"lines{i}"] = torch.from_numpy(own.lines - np.float32(0.5)).to(device)[None]
                inputs[f"line_scores{i}"] = torch.from_numpy(own.scores).to(device)[None]
                inputs[f"valid_lines{i}"] = torch.ones_like(inputs[f"line_scores{i}"], dtype=torch.bool)
        with torch.inference_mode():
            found = self._upstream(inputs)
        offset = np.float32(0 if segments is None else 0.5)
        ends = [found[f"lines{i}"][0].float().cpu().numpy().reshape(-1, 2, 2) + offset for i in range(2)]
        return _chosen(ends, found["line_matches0"][0].cpu().numpy(), found["line_match_scores0"][0].float().cpu().numpy())


def load_gluestick(path: Path) -> "GlueStickNet":
    """The matcher of the official checkpoint, on the CPU, ready to infer.

    The file nests its tensors under `model`; those of `matcher.` are the network's, what else there is belongs to the training's front
    end. Raises WeightsError.
    """
    from stages.perception.gluestick_net import GlueStickNet

    model = read_state(path).get("model")
    if not isinstance(model, Mapping):
        raise WeightsError(
            f"{path} is not GlueStick's: it has no mapping named 'model'; fetch it with: python -m pipeline.weights fetch gluestick"
        )
    names = {name: name.removeprefix("module.") for name in model}
    state = {
        short.removeprefix("matcher.").removeprefix("module."): model[name] for name, short in names.items() if short.startswith("matcher.")
    }
    net = GlueStickNet()
    load_strict(net, state, str(path))
    return net.eval()


def _chosen(segments: Sequence[Points], match: NDArray[np.int64], scores: NDArray[np.float32]) -> LineMatches:
    """The segments of which the match [L] of the first image's names one of the second's."""
    chosen = match >= 0
    first, second = segments[0][chosen], segments[1][match[chosen]]
    return LineMatches(first, aligned(first, second), scores[chosen])


def _nothing() -> LineMatches:
    return LineMatches(np.zeros((0, 2, 2), np.float32), np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32))


def upstream_package() -> Path:
    """The folder of the authors' own package. Raises RecipeError where it is not installed."""
    package = importlib.util.find_spec("gluestick")
    places = [Path(each) for each in package.submodule_search_locations or []] if package is not None else []
    found = next((each for each in places if (each / "models").is_dir()), None)
    if found is None:
        other = "; the package of that name that is installed is another one, an ETL tool of the package index" if places else ""
        raise RecipeError(
            f"upstream: the authors' package gluestick is not installed (install it from their repository, cvg/GlueStick){other}"
        )
    return found


def _upstream_pipeline(path: Path, superpoint: "nn.Module", max_lines: int, max_keypoints: int) -> "nn.Module":
    """The authors' two-view pipeline, with the weights given here. Raises RecipeError where their package is not there."""
    upstream_package()
    load_gluestick(path)  # theirs would not name the tensors that do not fit
    try:
        return _load_upstream(path, superpoint, max_lines, max_keypoints)
    except ImportError as error:
        raise RecipeError(f"upstream: the authors' package gluestick needs the package {error.name}, which is not installed") from None


def _load_upstream(path: Path, superpoint: "nn.Module", max_lines: int, max_keypoints: int) -> "nn.Module":
    import torch
    from gluestick.models import superpoint as upstream_superpoint
    from gluestick.models.two_view_pipeline import TwoViewPipeline

    extractor = {
        "name": "wireframe",
        "sp_params": {"force_num_keypoints": False, "max_num_keypoints": max_keypoints},
        "wireframe_params": {"merge_points": True, "merge_line_endpoints": True},
        "max_n_lines": max_lines,
    }
    matcher = {"name": "gluestick", "weights": str(path), "trainable": False}
    # Their SuperPoint reads one file at a fixed place beside the package, or fetches it: the place is moved for as long as that takes.
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as after:
        file = Path(folder) / "resources" / "weights" / "superpoint_v1.pth"
        file.parent.mkdir(parents=True)
        torch.save(to_magic_leap(superpoint.state_dict()), file)
        after.callback(setattr, upstream_superpoint, "GLUESTICK_ROOT", upstream_superpoint.GLUESTICK_ROOT)
        upstream_superpoint.GLUESTICK_ROOT = Path(folder)
        pipeline = TwoViewPipeline(
            {"use_lines": True, "extractor": extractor, "matcher": matcher, "ground_truth": {"from_pose_depth": False}}
        )
    return pipeline.eval()
