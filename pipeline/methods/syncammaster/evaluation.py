"""Novel views of held-out clips against the footage that was filmed there.

View 0 is the input video; the other views are generated and compared with the true ones, under conditions that share the clip,
the noise and the text:

full: as trained. modules-off: the base alone, which sees neither the input nor the cameras. cameras-shuffled: the cameras of
another clip of the set (all of them: only poses relative to view 0 reach the model), by a seeded derangement.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bases.base import Base
from pipeline.bases.pictures import to_uint8
from pipeline.loader.batch import Batch
from pipeline.loader.catalog import Catalog
from pipeline.loader.draw import Draw
from pipeline.loader.fetch import ReadError
from pipeline.loader.loader import Loader
from pipeline.loader.seeded import key_of, permutation
from pipeline.loader.settings import LoaderSettings, Phase
from pipeline.loader.views import choose_views, partners, span
from pipeline.methods.syncammaster.cameras import camera_tensor
from pipeline.methods.syncammaster.generate import generate
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.weights import digest_of, load_weights, read_config
from pipeline.metrics.comparison import MOST_DB, EvaluationError, Line, Score, compare
from pipeline.metrics.image import psnr, ssim
from pipeline.metrics.sheet import contact_sheet
from pipeline.store import stable_hash, write_bytes, write_json, write_table
from schemas.typed import bounded, object_from_json, to_plain

FULL, OFF, SHUFFLED = "full", "modules-off", "cameras-shuffled"
COMPARED = (OFF, SHUFFLED)
RESULTS, SUMMARY, SHEET = "results.parquet", "summary.json", "sheet.png"

_ROWS = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),  # which of the weights, and the noise
        pa.field("condition", pa.string(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),  # 1, 2, ...: place among the views that were used
        pa.field("view_id", pa.string(), nullable=False),
        pa.field("input_id", pa.string(), nullable=False),  # the view that was the input video
        pa.field("psnr", pa.float64(), nullable=False),  # mean over frames, identical frames counted as 100 dB
        pa.field("ssim", pa.float64(), nullable=False),
        pa.field("psnr_frames", pa.list_(pa.float64()), nullable=False),
        pa.field("ssim_frames", pa.list_(pa.float64()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Protocol:
    """What is generated of every clip, and how. All of it decides the results.

    views: of a clip, the input included; which ones is drawn by `seed`. frames: from the clip's first, every frame_stride-th.
    angles: degrees between the input and each generated view, None for any. seed: of the draw, the derangement, the bootstrap,
    and of the noise under the first weights (the n-th weights have seed + n).
    """

    frames: int = bounded(low=1)
    size: tuple[int, int] = (384, 672)
    views: int = bounded(2, low=2, high=64)
    frame_stride: int = bounded(1, low=1)
    steps: int = bounded(50, low=1)
    video_guidance: float = 1.8
    text_guidance: float = 7.5
    compare: tuple[str, ...] = COMPARED
    angles: tuple[float, float] | None = None
    seed: int = bounded(0, low=0)

    def __post_init__(self) -> None:
        for name in self.compare:
            if name not in COMPARED:
                raise ValueError(f"compare: unknown condition {name!r}; allowed: {', '.join(COMPARED)}")

    @property
    def conditions(self) -> tuple[str, ...]:
        return (FULL, *dict.fromkeys(self.compare))


@dataclass(frozen=True, eq=False)
class Clip:
    """One held-out sample: which views of it are used, view 0 first, and what the model is told."""

    sample: int
    sample_id: str
    views: tuple[int, ...]
    view_ids: tuple[str, ...]
    caption: str
    c2w: NDArray[np.float64]  # [V,F,4,4]
    K: NDArray[np.float64]  # [V,F,3,3]
    metric: bool


@dataclass(frozen=True)
class Results:
    """lines: full first, then what it is compared with. left_out: "sample id: why" of clips that could not be read."""

    lines: list[Line]
    scores: list[Score]
    left_out: list[str]


def eligible(catalog: Catalog, protocol: Protocol) -> list[int]:
    """Multi-view videos that are long enough and have views at the asked angles. Raises ValueError where there is none."""
    reach = span(protocol.frames, protocol.frame_stride)
    long = [i for i in range(len(catalog)) if catalog.kind(i) == "multiview_video" and (catalog.n_frames(i) or 0) >= reach]
    found = [i for i in long if (_allowed(catalog, i, protocol).sum(axis=1) >= protocol.views - 1).any()]
    if not found:
        angles = "" if protocol.angles is None else f" at {protocol.angles[0]:g} to {protocol.angles[1]:g} degrees of each other"
        raise ValueError(
            f"{catalog.location}: none of {len(catalog)} samples is multi-view video of at least {reach} frames ({len(long)} are) with "
            f"{protocol.views} views{angles}; give fewer --frames or --views, other --angles, or other data"
        )
    return found


def evaluate(
    base: Base,
    weights: Sequence[Path],
    catalog: Catalog,
    output: Path,
    protocol: Protocol,
    *,
    samples: Sequence[int] | None = None,
    batch: int = 1,
    shown: int = 6,
    done: Callable[[int], object] = lambda clips: None,
) -> Results:
    """Generate what is not there yet, write results.parquet, summary.json and sheet.png into `output`, and compare.

    weights: folders that training wrote, one for each training seed. samples: positions in the catalog (default: all that are
    eligible). batch: clips generated at once. shown: clips on the sheet. done: told of clips x conditions x weights as they are
    finished. A clip that cannot be read is left out and named. Raises ValueError (also for weights of another base), EvaluationError,
    StorageError, OSError, and PyTorch's own where memory is short; what is finished stays.
    """
    clips, left_out = read_clips(catalog, protocol, eligible(catalog, protocol) if samples is None else samples)
    done(len(left_out) * len(weights) * len(protocol.conditions))
    if len(clips) < 2 and SHUFFLED in protocol.conditions:
        raise ValueError(f"{SHUFFLED} needs the cameras of another clip, and there is {len(clips)}; give more clips, or --compare {OFF}")
    run = _Run(base, catalog, clips, output, protocol, max(batch, 1), shown, done)
    rows = [row for number, folder in enumerate(weights) for row in run.of_weights(number, folder)]
    write_table(output / RESULTS, pa.Table.from_pylist(rows, schema=_ROWS))
    scores = [Score(row["sample_id"], row["seed"], row["condition"], row["view"], row["psnr"], row["ssim"]) for row in rows]
    lines = compare(scores, protocol.conditions, protocol.seed)
    settings = {"protocol": to_plain(protocol), "base": base.spec.name, "weights": [str(folder) for folder in weights]}
    write_json(output / SUMMARY, {**settings, "data": catalog.digest, "lines": [line.plain() for line in lines], "left_out": left_out})
    run.write_sheet()
    return Results(lines, scores, left_out)


def read_clips(catalog: Catalog, protocol: Protocol, samples: Sequence[int]) -> tuple[list[Clip], list[str]]:
    """Every clip with its cameras and text, and "sample id: why" of those that cannot be read. Raises StorageError."""
    clips, left_out = [], []
    for i in samples:
        key = key_of("evaluate", protocol.seed, catalog.sample_id(i))
        views = choose_views(_allowed(catalog, i, protocol), protocol.views, "random", key)
        try:
            batch = _read(catalog, protocol, i, views)
        except ReadError as error:
            left_out.append(f"{catalog.sample_id(i)}: {error}")
            continue
        assert batch.c2w is not None and batch.K is not None, "multi-view video has cameras"
        names = tuple(batch.view_ids[0])
        clips.append(Clip(i, batch.sample_ids[0], views, names, batch.captions[0], batch.c2w[0], batch.K[0], batch.metric[0]))
    return clips, left_out


def derangement(n: int, seed: int) -> list[int]:
    """Another place for each of 0..n-1: a seeded cycle through all of them. n must be at least 2."""
    order = permutation(key_of("derangement", seed), n).tolist()
    other = [0] * n
    for a, b in zip(order, order[1:] + order[:1], strict=True):
        other[a] = b
    return other


class _Run:
    """One evaluation under way. Finished pieces lie in output/parts, one file for a clip under a condition and seed."""

    def __init__(
        self,
        base: Base,
        catalog: Catalog,
        clips: list[Clip],
        output: Path,
        protocol: Protocol,
        batch: int,
        shown: int,
        done: Callable[[int], object],
    ) -> None:
        self._base, self._catalog, self._clips, self._output = base, catalog, clips, output
        self._protocol, self._batch, self._done = protocol, batch, done
        self._donors = derangement(len(clips), protocol.seed) if SHUFFLED in protocol.conditions else list(range(len(clips)))
        self._shown = range(min(shown, len(clips)))

    def of_weights(self, number: int, folder: Path) -> list[dict[str, Any]]:
        """The rows of all clips and conditions under one set of weights."""
        config = read_config(folder)
        model = SynCamModel(self._base, config.view).eval()
        try:
            load_weights(folder, model)
            key = stable_hash(
                [to_plain(self._protocol), self._catalog.digest, self._base.spec.name, str(self._base.dtype), digest_of(folder)]
            )
            return [row for name in self._protocol.conditions for row in self._of_condition(model, name, number, key)]
        finally:
            model.detach()

    def _of_condition(self, model: SynCamModel, condition: str, number: int, key: str) -> list[dict[str, Any]]:
        found = {place: self._finished(place, condition, number, key) for place in range(len(self._clips))}
        self._done(sum(rows is not None for rows in found.values()))
        missing = [place for place, rows in found.items() if rows is None]
        for start in range(0, len(missing), self._batch):
            places = missing[start : start + self._batch]
            found |= dict(zip(places, self._generate(model, condition, number, key, places), strict=True))
            self._done(len(places))
        return [row for rows in found.values() for row in rows or []]

    def _generate(self, model: SynCamModel, condition: str, number: int, key: str, places: Sequence[int]) -> list[list[dict[str, Any]]]:
        protocol, seed = self._protocol, self._protocol.seed + number
        clips = [self._clips[place] for place in places]
        told = [self._clips[self._donors[place]] if condition == SHUFFLED else self._clips[place] for place in places]
        truth = torch.stack(
            [_read(self._catalog, protocol, clip.sample, clip.views).pictures(torch.device("cpu"), torch.float32)[0] for clip in clips]
        )
        with model.disabled() if condition == OFF else nullcontext():
            made = generate(
                model,
                self._base,
                texts=[clip.caption for clip in clips],
                cameras=self._cameras(told, model),
                frames=protocol.frames,
                size=protocol.size,
                steps=protocol.steps,
                guidance=1.0,
                video=truth[:, 0],
                video_guidance=protocol.video_guidance,
                text_guidance=protocol.text_guidance,
                seeds=[_noise_seed(seed, clip.sample_id) for clip in clips],
            )
        rows = []
        for place, clip, real, ours in zip(places, clips, truth, made, strict=True):
            rows.append(_rows(clip, seed, condition, real, ours))
            if place in self._shown and number == 0:
                self._keep_picture(place, condition, real, ours)
            write_json(self._part(place, condition, number), {"key": key, "rows": rows[-1]})
        return rows

    def _cameras(self, clips: Sequence[Clip], model: SynCamModel) -> Tensor:
        return torch.cat(
            [
                camera_tensor(clip.c2w[None], clip.K[None], [clip.metric], self._base.spec, model.config, self._protocol.size)
                for clip in clips
            ]
        )

    def _part(self, place: int, condition: str, number: int) -> Path:
        return self._output / "parts" / f"{self._clips[place].sample_id}.{number}.{condition}.json"

    def _finished(self, place: int, condition: str, number: int, key: str) -> list[dict[str, Any]] | None:
        try:
            part = object_from_json(self._part(place, condition, number).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return list(part["rows"]) if part.get("key") == key else None

    def _picture(self, place: int, name: str) -> Path:
        return self._output / "pictures" / f"{self._clips[place].sample_id}.{name}.png"

    def _keep_picture(self, place: int, condition: str, real: Tensor, ours: Tensor) -> None:
        """The middle frame of the input, of the first generated view, and of its truth."""
        middle = real.shape[2] // 2
        for name, picture in (("input", real[0, :, middle]), ("truth", real[1, :, middle]), (condition, ours[1, :, middle])):
            write_bytes(self._picture(place, name), _png(picture))

    def write_sheet(self) -> None:
        import cv2

        columns = ["input", "truth", *self._protocol.conditions]
        rows, names = [], []
        for place in self._shown:
            pictures = [cv2.imread(str(self._picture(place, name))) for name in columns]
            if all(picture is not None for picture in pictures):
                rows.append([np.asarray(picture[..., ::-1], np.uint8) for picture in pictures if picture is not None])
                names.append(self._clips[place].sample_id)
        if rows:
            write_bytes(self._output / SHEET, contact_sheet(rows, columns, names))


def _rows(clip: Clip, seed: int, condition: str, real: Tensor, ours: Tensor) -> list[dict[str, Any]]:
    """A row for each generated view. real, ours [V,3,F,H,W] in [-1,1], compared as the 8-bit pictures that people see."""
    if not torch.isfinite(ours).all():
        raise EvaluationError(
            f"{clip.sample_id}: what was generated under {condition} holds NaN; the weights, or --precision, are at fault"
        )
    made = []
    for view in range(1, len(clip.views)):
        a, b = (to_uint8(video[view]).permute(1, 0, 2, 3) for video in (real, ours))
        quality = {"psnr": psnr(a, b, data_range=255).clamp(max=MOST_DB), "ssim": ssim(a, b, data_range=255)}
        made.append(
            {
                "sample_id": clip.sample_id,
                "seed": seed,
                "condition": condition,
                "view": view,
                "view_id": clip.view_ids[view],
                "input_id": clip.view_ids[0],
                **{name: float(values.mean()) for name, values in quality.items()},
                **{f"{name}_frames": values.tolist() for name, values in quality.items()},
            }
        )
    return made


def _allowed(catalog: Catalog, i: int, protocol: Protocol) -> NDArray[np.bool_]:
    phase = None if protocol.angles is None else Phase(0, *protocol.angles)
    return partners(catalog.angle(i), phase)


def _read(catalog: Catalog, protocol: Protocol, i: int, views: tuple[int, ...]) -> Batch:
    settings = LoaderSettings(
        batch=1, views=len(views), frames=protocol.frames, frame_stride=protocol.frame_stride, size=protocol.size, curriculum=()
    )
    frames = tuple(range(0, span(protocol.frames, protocol.frame_stride), protocol.frame_stride))
    return Loader.read(catalog, settings, [Draw(0, 0, 0, "multiview_video", i, views, frames)])


def _noise_seed(seed: int, sample_id: str) -> int:
    """The same under every condition, whatever else is generated."""
    return int.from_bytes(sha256(f"{seed}/{sample_id}".encode()).digest()[:8], "big") >> 1


def _png(picture: Tensor) -> bytes:
    """[3,H,W] in [-1,1]."""
    import cv2

    done, data = cv2.imencode(".png", to_uint8(picture).permute(1, 2, 0).numpy()[..., ::-1])
    assert done, "OpenCV encodes PNG"
    return data.tobytes()
