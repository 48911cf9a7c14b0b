"""Generate the videos of several cameras from a text, or new views of a video; once, or for every sample of a folder of shards."""

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.device import device_of, dtype_of, precision_of
from pipeline.exhausted import is_out_of_memory
from pipeline.generated import is_finished, write_sample
from pipeline.methods.syncammaster.inference_options import EPILOG, TEXT_GUIDANCE, VIDEO_GUIDANCE, add_options, check_together
from pipeline.methods.syncammaster.jobs import Job, Shape, over_shards, single
from schemas.typed import to_plain

if TYPE_CHECKING:
    from pipeline.bases.base import Base, BaseSpec
    from pipeline.methods.syncammaster.config import ViewConfig
    from pipeline.methods.syncammaster.model import SynCamModel
    from pipeline.methods.syncammaster.weights import WeightsConfig

__all__ = ["EPILOG", "Inference", "add_options", "prepare"]

METHOD = "syncammaster"

# (H, W) and frames that the published bases were made for, where the weights say nothing.
_PUBLISHED = {
    "cogvideox-2b": ((480, 720), 49),
    "cogvideox-5b": ((480, 720), 49),
    "wan2.1-1.3b": ((480, 832), 81),
    "wan2.1-14b": ((480, 832), 81),
}
_VIEWS = 2

# Scale and whether it varies (see generate.dynamic_guidance), as the releases sample.
_GUIDANCE: dict[str, tuple[float, bool]] = {"cogvideox": (6.0, True), "wan": (5.0, False)}

# Our training drops text to "", so that is what weights know as no text. The published checkpoint dropped none and is sampled
# with the negative prompt that Wan2.1 ships.
_WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


def prepare(options: argparse.Namespace) -> "Inference":
    """Everything checked that can be without the base's weights. Raises ValueError (of many kinds) and OSError."""
    from pipeline.bases.registry import load_base
    from pipeline.methods.syncammaster.config import ViewConfig
    from pipeline.methods.syncammaster.model import SynCamModel
    from pipeline.methods.syncammaster.weights import digest_of, load_weights

    check_together(options)
    weights = None if options.weights is None else Path(options.weights)
    config = None if weights is None else _config(weights)
    name = options.base or (config.base if config is not None else "")
    shape = _shape(options, name, config)
    probe = load_base(name, device="meta", codec=False, seed=0)
    view = config.view if config is not None else ViewConfig()
    model = SynCamModel(probe, view)
    if weights is not None:
        load_weights(weights, model)  # the model is on no device: this only checks that they fit
    probe.spec.latent_frames(shape.frames)
    probe.spec.latent_size(*shape.size)
    probe.schedule.sampler(options.steps)
    added = sum(parameter.numel() for parameter in model.trained().values())
    jobs, notes = over_shards(options, shape) if options.data is not None else (single(options, shape), [])
    if any(job.source["video"] is not None and job.views < 2 for job in jobs):
        raise ValueError("the input video is view 0, so there must be at least one more view to generate; give --views 2 or more cameras")
    shown = any(job.source["video"] is not None for job in jobs)
    if shown and config is not None and not options.modules_off and not _knows_videos(config):
        notes.append(f"warning: {weights} was not trained in novel-view mode (--novel-view): with an input video expect strange results")
    for note in notes:
        print(f"infer: {note}", file=sys.stderr)
    digest = None if weights is None else digest_of(weights)
    requests = [_request(options, job, shape, name, config, digest, probe.spec, view) for job in jobs]
    return Inference(options, shape, name, weights, view, probe.spec, added, list(zip(jobs, requests, strict=True)))


@dataclass(eq=False)
class Inference:
    """Jobs and the answer each of them asks for. `load`, then `run`."""

    options: argparse.Namespace
    shape: Shape
    base_name: str
    weights: Path | None
    view: "ViewConfig"
    spec: "BaseSpec"
    added: int
    jobs: list[tuple[Job, dict[str, Any]]]

    def __post_init__(self) -> None:
        self.pending = [(job, request) for job, request in self.jobs if not is_finished(job.folder, request)]
        self._base: Base | None = None
        self._model: SynCamModel | None = None

    def describe(self) -> list[str]:
        shape, request = self.shape, self.jobs[0][1]
        latents = (self.spec.channels, self.spec.latent_frames(shape.frames), *self.spec.latent_size(*shape.size))
        views = " or ".join(map(str, sorted({job.views for job, _ in self.jobs})))
        modules = "off" if self.options.modules_off else f"{self.added:,} parameters from {self.weights}"
        return [
            f"base: {self.base_name}, added modules: {modules}",
            f"{views} views of {shape.frames} frames, {shape.size[0]}x{shape.size[1]} (latents {'x'.join(map(str, latents))} a view)",
            f"{self.options.steps} steps, guidance {request['guidance']}",
            f"{len(self.jobs)} samples, {len(self.jobs) - len(self.pending)} of them finished already",
        ]

    def less_memory(self) -> str:
        options, shape = self.options, self.shape
        advice = [] if options.sequential_guidance else ["--sequential-guidance"]
        advice += [f"fewer --frames (now {shape.frames})", f"a smaller --size (now {shape.size[0]}x{shape.size[1]})"]
        advice.append(f"fewer --views (now {max(job.views for job, _ in self.jobs)})")
        return f"try {', '.join(advice)}"

    def load(self) -> None:
        """The base and the added modules, unless nothing is to be done. Raises ValueError."""
        from pipeline.bases.registry import load_base
        from pipeline.methods.syncammaster.model import SynCamModel
        from pipeline.methods.syncammaster.weights import load_weights

        if not self.pending:
            return
        dtype = dtype_of(_precision(self.options))
        base = load_base(self.base_name, dtype=dtype, device=device_of(self.options.device), seed=self.options.random_base)
        model = SynCamModel(base, self.view).eval()
        if self.weights is not None:
            load_weights(self.weights, model)
        if self.options.random_base is not None:
            _check_text_encoder(base)
        self._base, self._model = base, model

    def run(self) -> list[str]:
        """Generate what is not finished; "sample: why" of each that could not be. Raises OSError; OutOfMemoryError of torch."""
        from pipeline.loader.fetch import ReadError, StorageError

        failures = []
        for job, request in self.pending:
            started = time.monotonic()
            try:
                self._one(job, request)
            except (ReadError, ValueError) as error:
                failures.append(f"{job.name or job.folder}: {error}")
            except StorageError as error:
                return [*failures, f"{job.name}: {error}; nothing after it was tried"]
            else:
                if not self.options.quiet:
                    print(f"{job.folder} ({time.monotonic() - started:.1f} s)")
        if not self.options.quiet and len(self.pending) < len(self.jobs):
            print(f"{len(self.jobs) - len(self.pending)} of {len(self.jobs)} samples were finished already")
        return failures

    def _one(self, job: Job, request: dict[str, Any]) -> None:
        import torch
        from tqdm import tqdm

        from pipeline.bases.pictures import from_uint8, to_uint8
        from pipeline.methods.syncammaster.cameras import camera_tensor
        from pipeline.methods.syncammaster.generate import generate

        base, model, options = self._base, self._model, self.options
        assert base is not None and model is not None
        cameras, pictures = job.read()
        told = camera_tensor(cameras.c2w[None], cameras.K[None], [cameras.metric], base.spec, self.view, self.shape.size)
        video = None if pictures is None else from_uint8(torch.from_numpy(pictures).permute(3, 0, 1, 2)[None])
        guidance = request["guidance"]
        hidden = True if options.quiet else None  # None shows the bar on a terminal only
        bar = tqdm(total=options.steps, desc=job.name or METHOD, unit="step", disable=hidden, file=sys.stderr)
        with bar, model.disabled() if options.modules_off else nullcontext():
            made = generate(
                model,
                base,
                texts=[job.prompt],
                cameras=told,
                frames=self.shape.frames,
                size=self.shape.size,
                steps=options.steps,
                guidance=guidance.get("scale", 1.0),
                dynamic=guidance.get("dynamic", False),
                video=video,
                video_guidance=guidance.get("video", 1.0),
                text_guidance=guidance.get("text", 1.0),
                negative=request["negative_prompt"],
                seeds=[job.seed],
                batched=not options.sequential_guidance,
                on_step=lambda step: bar.update(1),
            )
        if not torch.isfinite(made).all():
            raise ValueError(f"what was generated is not finite; the weights, or --precision {_precision(options)}, are at fault")
        views = to_uint8(made[0]).permute(0, 2, 3, 4, 1)
        write_sample(job.folder, views.contiguous().numpy(), cameras, request, self._made_with(), options.fps)

    def _made_with(self) -> dict[str, Any]:
        """What may differ between two machines that answer the same request."""
        from importlib.metadata import version

        import torch

        from pipeline.provenance import code_version

        assert self._base is not None
        device = self._base.device
        return {
            "weights": None if self.weights is None else str(self.weights),
            "data": self.options.data,
            "video": self.options.video,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "sequential_guidance": self.options.sequential_guidance,
            "versions": {"code": code_version(), **{name: version(name) for name in ("torch", "diffusers", "av", "numpy")}},
        }


def _config(weights: Path) -> "WeightsConfig":
    from pipeline.methods.syncammaster.weights import WEIGHTS, read_config

    inside = weights / "weights"
    if weights.is_file() and weights.name == WEIGHTS:
        raise ValueError(f"--weights {weights} is one file of a folder that is needed whole; give --weights {weights.parent}")
    if weights.is_dir() and not (weights / WEIGHTS).is_file() and (inside / WEIGHTS).is_file():
        raise ValueError(f"--weights {weights} is the folder of a training run; give --weights {inside}")
    return read_config(weights)


def _knows_videos(config: "WeightsConfig") -> bool:
    """Whether training showed the model an input video. The published checkpoint was trained from texts alone."""
    objective = config.extra.get("objective")
    return isinstance(objective, dict) and bool(objective.get("novel_view"))


def _shape(options: argparse.Namespace, base: str, config: "WeightsConfig | None") -> Shape:
    """From the options, else as the weights were trained, else as the published base was. Raises ValueError."""
    extra = config.extra if config is not None else {}
    size, frames = _PUBLISHED.get(base, (None, None))
    size = options.size or tuple(extra.get("size") or ()) or size
    frames = options.frames or extra.get("frames") or frames
    if size is None or frames is None:
        raise ValueError(f"the weights do not say at what size they were trained on {base}; give --size HxW and --frames N")
    stride = options.video_stride or int(extra.get("frame_stride") or 1)
    return Shape(options.views, int(extra.get("views") or _VIEWS), int(frames), stride, (int(size[0]), int(size[1])))


def _request(
    options: argparse.Namespace,
    job: Job,
    shape: Shape,
    base: str,
    config: "WeightsConfig | None",
    digest: str | None,
    spec: "BaseSpec",
    view: "ViewConfig",
) -> dict[str, Any]:
    """Everything that decides the result, ready for JSON."""
    if job.source["video"] is not None:
        guidance: dict[str, Any] = {
            "video": VIDEO_GUIDANCE if options.video_guidance is None else options.video_guidance,
            "text": TEXT_GUIDANCE if options.text_guidance is None else options.text_guidance,
        }
    else:
        scale, dynamic = _GUIDANCE[spec.family]
        guidance = {
            "scale": scale if options.guidance is None else options.guidance,
            "dynamic": dynamic if options.dynamic_guidance is None else options.dynamic_guidance,
        }
    negative = _WAN_NEGATIVE if options.weights is not None and Path(options.weights).is_file() else ""
    return {
        **job.source,
        "method": METHOD,
        "base": base,
        "random_base": options.random_base,
        "weights_sha256": digest,
        "trained_on": None if config is None else config.base,
        "view_config": to_plain(view),
        "modules": "off" if options.modules_off else "on",
        "prompt": job.prompt,
        "negative_prompt": negative if options.negative_prompt is None else options.negative_prompt,
        "views": job.views,
        "frames": shape.frames,
        "frame_stride": shape.stride,
        "size": list(shape.size),
        "fps": options.fps,
        "steps": options.steps,
        "guidance": guidance,
        "seed": job.seed,
        "precision": _precision(options),
    }


def _precision(options: argparse.Namespace) -> str:
    return precision_of(options.precision, device_of(options.device))


def _check_text_encoder(base: "Base") -> None:
    """Random weights of a named base come without a text encoder. Raises ValueError."""

    try:
        base.embed([""])
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"--random-base: {error}") from None
