"""DAVIS: short sequences of pictures with masks of their moving objects; no cameras.

Layout of the 2016 and 2017 releases, below the dataset's folder or below a folder that holds several of them:

    JPEGImages/480p/bear/00000.jpg      also 1080p, Full-Resolution
    Annotations/480p/bear/00000.png     indexed, 0 is the background; not every frame need have one
    ImageSets/2017/{train,val,...}.txt  a sequence's name a line; 2016's ImageSets/480p/*.txt: the paths of a frame and its mask

and the form in which tools for video objects take it: images/bear/00000.jpg, masks/bear/00000.png.

Masks are side-cars, so that they are part of a candidate's identity; the stage `masks` packs them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar

from schemas.candidate import Candidate, MediaFile, View
from schemas.frames import Scene, SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.files import files, folders, natural_key, read_listing, require_folder, unique
from stages.ingest.numbered import numbered, sequence
from stages.media import Media
from stages.storage import ROOT, Tree
from stages.storage.paths import storage_error

PICTURES = (".jpg", ".jpeg", ".png")
FRAMES = ("JPEGImages/480p", "JPEGImages/1080p", "JPEGImages/Full-Resolution", "images")
MASKS = {"JPEGImages": "Annotations", "images": "masks"}  # the first part of the path of what goes with it
SETS = ("ImageSets/2017", "ImageSets/2016", "ImageSets/480p", "ImageSets/1080p")
# A sequence in several lists is what the first one says: nothing that is tested on is trained on.
LISTS = (("test-challenge", "test"), ("test-dev", "test"), ("test", "test"), ("val", "val"), ("train", "train"))
MAX_LIST_BYTES = 4 << 20  # 2016's name every frame of a split
VIEW = "cam"
MASK = "mask "  # a side-car's name, before the position of its frame

_SEQUENCE = re.compile(r"[^/\0]{1,200}")


@dataclass(frozen=True)
class DavisOptions:
    """frames, masks, sets: folders relative to the dataset's. frames None: the first there is of JPEGImages/480p, /1080p,
    /Full-Resolution, and images; masks None: what goes with it, Annotations/... or masks; sets None: the first there is of
    ImageSets/2017, /2016, /480p, /1080p. fps: of the frames, by their numbers.
    """

    frames: str | None = None
    masks: str | None = None
    sets: str | None = None
    fps: float = bounded(24.0, low=0.01, high=1000.0)

    def __post_init__(self) -> None:
        for name in ("frames", "masks", "sets"):
            value = getattr(self, name)
            if value is not None and (not value or PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts):
                raise ValueError(f"{name} is {value!r}; it must be relative to the dataset's folder and stay below it")


class Davis(Ingest):
    format: ClassVar[str] = "davis"
    provides: ClassVar[frozenset[str]] = frozenset({"video", "masks"})
    Options: ClassVar[type] = DavisOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        datasets = [folder for folder in [ROOT, *folders(tree, ROOT)] if self._frames(tree, folder) is not None]
        if not datasets:
            looked_for = self.options.frames or ", ".join(FRAMES)
            raise ValueError(
                f"{tree} is no DAVIS folder: looked for {looked_for} with folders in it, in it and in the folders directly below"
            )
        datasets = datasets[:1] if datasets[0] == ROOT else datasets
        yield from unique(candidate for dataset in datasets for candidate in self._dataset(tree, dataset))

    def _frames(self, tree: Tree, dataset: PurePosixPath) -> str | None:
        """Where the sequences' folders lie."""
        places = FRAMES if self.options.frames is None else (self.options.frames,)
        return next((place for place in places if folders(tree, dataset / place)), None)

    def _dataset(self, tree: Tree, dataset: PurePosixPath) -> Iterator[Candidate]:
        frames = self._frames(tree, dataset) or FRAMES[0]
        first, *rest = PurePosixPath(frames).parts
        masks = self.options.masks or (str(PurePosixPath(MASKS[first], *rest)) if first in MASKS else None)
        splits = self._splits(tree, dataset)
        for name in sorted({folder.name for folder in folders(tree, dataset / frames)} | splits.keys(), key=natural_key):
            place = dataset / frames / name
            yield _candidate(tree, dataset, place, dataset / masks / name if masks else None, splits, self.options.fps)

    def _splits(self, tree: Tree, dataset: PurePosixPath) -> dict[str, str]:
        """Sequence to split, of every list. Raises FileNotFoundError where the option names none."""
        places = SETS if self.options.sets is None else (self.options.sets,)
        place = next((dataset / place for place in places if files(tree, dataset / place, (".txt",))), None)
        if place is None:
            if self.options.sets is not None:
                raise FileNotFoundError(f"the option sets names {self.options.sets!r}; {dataset} has no list (*.txt) there")
            return {}
        found: dict[str, str] = {}
        for stem, split in LISTS:
            for name in _listed(tree, place / f"{stem}.txt"):
                found.setdefault(name, split)
        return found

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        (view,) = candidate.views
        index = media.index(view.media)
        return Scene(
            candidate, (SceneView(view.view_id, view.media, index),), {"masks": f"{len(candidate.sidecars)} of {len(index)} frames"}
        )


def mask_files(candidate: Candidate) -> Mapping[int, MediaFile]:
    """A candidate's masks by the position of their frame in its view's index."""
    return {int(name.removeprefix(MASK)): file for name, file in candidate.sidecars.items() if name.startswith(MASK)}


def _candidate(
    tree: Tree, dataset: PurePosixPath, frames: PurePosixPath, masks: PurePosixPath | None, splits: Mapping[str, str], fps: float
) -> Candidate:
    name = str(dataset / frames.name)
    made = Candidate("davis", name, "video", (), split=splits.get(frames.name))
    try:
        pictures = numbered(tree, files(tree, frames, PICTURES))
        if not pictures:
            raise CandidateError(Reason.NO_FOOTAGE, f"{frames} holds no picture ({', '.join(PICTURES)})")
        made = replace(made, views=(View(VIEW, sequence(pictures, fps)),))
        known = {} if masks is None else numbered(tree, files(tree, masks, (".png",)))
        alone = next((number for number in known if number not in pictures), None)
        if alone is not None:
            raise CandidateError(Reason.E_FRAMECOUNT, f"{known[alone].path} is a mask of frame {alone}, which is not there")
        positions = {number: position for position, number in enumerate(pictures)}
        made = replace(made, sidecars={f"{MASK}{positions[number]:05d}": file for number, file in known.items()})
    except (CandidateError, OSError) as caught:
        problem = caught if isinstance(caught, CandidateError) else storage_error(caught, made.candidate_id)
        return replace(made, error=(problem.reason, problem.message))
    return made


def _listed(tree: Tree, path: PurePosixPath) -> list[str]:
    """The sequences of a list, each once; none where there is no list. Raises ValueError for what is no list."""
    if not tree.is_file(path):
        return []
    names = []
    for number, line in enumerate(read_listing(tree, path, MAX_LIST_BYTES, "a list of sequences").splitlines(), 1):
        first = line.strip().split(" ")[0]
        if not first:
            continue
        name = PurePosixPath(first).parent.name if "/" in first else first
        if not _SEQUENCE.fullmatch(name) or name in (".", ".."):
            raise ValueError(f"{path}: line {number} names no sequence: {line!r:.80}")
        names.append(name)
    return list(dict.fromkeys(names))
