"""Targets: whole data sets with something wrong in them, discovered and loaded as a run does."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from schemas.frames import Scene
from schemas.typed import build
from schemas.verdict import CandidateError, Reason
from stages.ingest import ingests
from stages.media import Media
from stages.storage import Tree
from tests.fuzz import seeds
from tests.fuzz.mutate import NASTY, mutated, mutated_json, mutated_text
from tests.fuzz.reading import Reader
from tests.fuzz.target import Target, check_scene, check_text

_LISTS = {
    "davis": ["plaza-01\nbear\n", "/JPEGImages/480p/plaza-01/00000.jpg /Annotations/480p/plaza-01/00000.png\n"],
    "kubric4d": ["scn02900\nscn02901\n"],
    "dl3dv": ["index,hash\n0,3cbef47686bf9f68fa9ebdc4d0212f6102f00f53ea297722ccd220c64027813f\n"],
    "clips": ["file_name,text\nbad_black.mp4,a walk\ngone.mp4,gone\n../x.mp4,out\n"],
}
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "davis": [{}, {"sets": "ImageSets/2017"}, {"masks": "Annotations/480p"}],
    "kubric4d": [{}, {"scenes": "list.txt"}, {"views": [1]}],
    "dl3dv": [{}, {"exclude": "list.txt"}, {"images": "images_4"}, {"undistort": True}, {"undistort": True}],
    "rig": [{}, {"undistort": True}],
    "clips": [{}, {"csv": "list.txt"}, {"glob": "*"}],
}
_LENSES = ("scene1/cameras.json", "transforms.json")
_COEFFICIENTS = (0.0, 1e-12, 0.05, -0.3, 1.0, -9.0, 1e3, 1e9)


@dataclass(frozen=True)
class Folder:
    """files: content by name; links: targets by name. Hostile names are among them."""

    files: dict[str, bytes]
    links: dict[str, str]
    pipes: tuple[str, ...]
    options: dict[str, Any]


@st.composite
def _trees(draw: st.DrawFn, layout: str, ingest: str) -> Folder:
    files = dict(seeds.layout(layout))
    links: dict[str, str] = {}
    pipes: list[str] = []
    if ingest in _LISTS:
        files["list.txt"] = draw(mutated_text(_LISTS[ingest]))
    if ingest == "rig":
        kind = draw(st.integers(0, 4))
        if kind == 0:
            del files["scene1/cameras.json"]
            files["scene1/x.qca.txt"] = draw(mutated([seeds.QUALISYS.encode()]))
        elif kind == 1:
            del files["scene1/cameras.json"]
            files |= {
                f"scene1/sparse/{name}": draw(mutated_text([text]))
                for name, text in zip(("cameras.txt", "images.txt"), seeds.COLMAP, strict=True)
            }
    for name in files:
        if name.endswith(_LENSES) and draw(st.booleans()):
            files[name] = _with_lens(draw, json.loads(files[name]))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(files)))
        kind = draw(st.integers(0, 9))
        if kind <= 3:
            files[name] = draw(_content(name, files[name]))
        elif kind == 4:
            del files[name]
        elif kind == 5:
            links[name] = draw(
                st.sampled_from(("/dev/zero", "/etc/passwd", "..", ".", os.path.basename(name), "nowhere", "../../outside", "/"))
            )
        elif kind == 6:
            pipes.append(name)
        elif kind == 7:
            files[name + "/below"] = files.pop(name)
        else:
            folder, _, last = name.rpartition("/")
            odd = draw(st.one_of(st.sampled_from(NASTY), st.binary(min_size=1, max_size=9).map(os.fsdecode)))
            stem, dot, ending = last.partition(".")
            made = f"{folder}/{draw(st.sampled_from((odd, stem + odd + dot + ending, odd + dot + ending)))}"
            files[made.replace("\0", "")] = files[name] if draw(st.booleans()) else files.pop(name)
        if not files:
            break
    return Folder(files, links, tuple(pipes), draw(st.sampled_from(_OPTIONS.get(ingest, [{}]))))


def _with_lens(draw: st.DrawFn, document: dict[str, Any]) -> bytes:
    """The rig or the DL3DV scene with a lens that distorts: a few of its numbers are a lens's, others nobody's."""
    fisheye = draw(st.booleans())
    numbers = draw(st.lists(st.sampled_from(_COEFFICIENTS[:4] if draw(st.booleans()) else _COEFFICIENTS), min_size=4, max_size=4))
    if "cameras" in document:
        for camera in document["cameras"].values():
            camera |= {"distortion": numbers, "model": "fisheye" if fisheye else "opencv"}
    else:
        names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
        document |= {**dict(zip(names, numbers, strict=True)), "camera_model": "OPENCV_FISHEYE" if fisheye else "OPENCV"}
    return json.dumps(document).encode()


def _content(name: str, data: bytes) -> SearchStrategy[bytes]:
    if name.endswith(".json"):
        with contextlib.suppress(ValueError, RecursionError):
            return mutated_json([json.loads(data)])
    if name.endswith((".txt", ".csv")):
        return mutated_text([data.decode("utf-8", "replace")], separators=" ,")
    return mutated([data])


def _write(tree: Folder, folder: Path) -> None:
    """What the file system refuses is left out."""
    for name, data in tree.files.items():
        path = folder / os.path.normpath(name.lstrip("/"))
        if ".." in path.parts:
            continue
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for name, target in tree.links.items():
        with contextlib.suppress(OSError, ValueError):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)
    for name in tree.pipes:
        with contextlib.suppress(OSError, ValueError):
            (folder / name).unlink(missing_ok=True)
            os.mkfifo(folder / name)


def _run(ingest: str, tree: Folder, folder: Path) -> str:
    cls = ingests()[ingest]
    layout = cls(build(cls.Options, tree.options, "options"))
    root, media = Tree(folder), Reader.of(folder)
    found = list(layout.discover(root))
    assert found, "neither a candidate nor a refusal"
    assert len({candidate.candidate_id for candidate in found}) == len(found)
    outcomes = set()
    for candidate in found:
        check_text(candidate.candidate_id, candidate.caption or "", candidate.split or "", *map(str, candidate.attrs.values()))
        assert 0 < len(candidate.key) <= 100 and candidate.identity()
        if candidate.error is not None:
            reason, message = candidate.error
        else:
            for file in candidate.files():
                path = os.path.realpath(os.path.join(folder, file.path))
                assert path.startswith(os.path.realpath(folder) + os.sep), f"{file.path} leads out"
            try:
                scene = layout.load(root, candidate, media)
                check_scene(scene)
                outcomes.add(_undistorted(scene, media) or "loaded")
                continue
            except CandidateError as error:
                reason, message = error.reason, error.message
        assert message.strip()
        check_text(message)
        assert reason not in (Reason.E_IO, Reason.E_STAGE), f"{reason}: {message}"
        outcomes.add(str(reason))
    return " ".join(sorted(outcomes))


def _undistorted(scene: Scene, media: Media) -> str | None:
    """Looks through the lenses that there are."""
    seen = [view for view in scene.views if view.media.lens is not None]
    for view in seen[:2]:
        index = view.index
        assert media.frames(view.media, index, [0]).shape == (1, index.height, index.width, 3)
    return "undistorted" if seen else None


def targets() -> list[Target]:
    made = []
    for layout, ingest in (
        ("rig", "rig"), ("syncamvideo-v1", "syncamvideo"), ("syncamvideo-v2", "syncamvideo"), ("realestate10k", "realestate10k"),
        ("dl3dv", "dl3dv"), ("kubric4d", "kubric4d"), ("davis", "davis"), ("clips", "clips"),
    ):  # fmt: skip
        refusals = (ValueError, FileNotFoundError)

        def run(tree: Folder, folder: Path, ingest: str = ingest) -> str:
            return _run(ingest, tree, folder)

        made.append(Target(f"data set {layout}", _trees(layout, ingest), run, refusals, _write, sandbox=True, memory_mb=None))
    return made
