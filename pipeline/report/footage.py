"""Where the frames of a row are: in its shard when it was kept, else in the input folder if that is still there."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.auditing.archive import safe_shard_path
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.show import members_of
from pipeline.binding import Source, source_of
from pipeline.found import Found
from pipeline.plan import discover
from pipeline.store import read_range
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import SceneView
from schemas.recipe import MediaLimits, parse_recipe
from schemas.typed import RecipeError
from schemas.verdict import PROVISIONAL, CandidateError
from stages.media import Media
from stages.storage import ROOT, Tree

_PICTURES = {".jpg", ".png"}


class FootageGone(Exception):
    """There is nothing to draw from. The message says why, for the tile that stands in."""


class FootageAway(FootageGone):
    """The same, and another time there may be."""


@dataclass(frozen=True)
class FootageView:
    """One view of a row. frames: positions in the media's index, or None for all of it."""

    media: Media
    ref: MediaRef
    frames: Sequence[int] | None


class Footage:
    """Finds the footage of rows of one source. Use as a context manager: it owns decoder processes and a temporary folder."""

    def __init__(self, output: OutputFolder, source: str) -> None:
        self._output, self._name = output, source
        self._folder = tempfile.TemporaryDirectory(prefix="parallax-report-")
        self._source = _bound(output, source)
        limits = self._source.media if self._source else MediaLimits()
        self._packed = Media(Path(self._folder.name), limits)
        self._input: Media | None = None
        self._candidates: Found | None = None

    def __enter__(self) -> "Footage":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._packed.close()
        if self._input is not None:
            self._input.close()
        self._folder.cleanup()

    def views(self, row: Mapping[str, Any], most: int) -> Iterator[FootageView]:
        """At most `most` views of the row, in its order; read each before asking for the next. Raises FootageGone."""
        if not row["view_ids"]:
            raise FootageGone("has no views")
        yield from self._from_shard(row, most) if row["shard"] is not None else self._from_input(row, most)

    def _from_shard(self, row: Mapping[str, Any], most: int) -> Iterator[FootageView]:
        shard = safe_shard_path(self._output.path / "shards", row["shard"])
        if shard is None:
            raise FootageAway("shard not available")
        members = [each for each in members_of(self._output, row["shard"], row["sample_id"]) if each["name"].startswith("view")]
        if not members:
            raise FootageGone("the sample holds no picture")
        for i, member in enumerate(members[:most]):
            # Under a name of our own: what a table says must not choose where we write.
            path = Path(self._folder.name) / f"member{i}.media"
            path.write_bytes(read_range(shard, member["offset"], member["size"]))
            stat = path.stat()
            file_ref = MediaFile(path.name, stat.st_size, stat.st_mtime_ns)
            picture = Path(member["name"]).suffix in _PICTURES
            yield FootageView(
                self._packed, MediaRef("images", (file_ref,), pts_ns=(0,)) if picture else MediaRef("video", (file_ref,)), None
            )
            path.unlink()

    def _from_input(self, row: Mapping[str, Any], most: int) -> Iterator[FootageView]:
        tree = self._tree()
        candidate = self._find(tree, row["candidate_id"])
        if not candidate.views:
            raise FootageGone("published without footage")
        if self._input is None:
            self._input = Media(tree, self._packed.limits)
        views = self._seen(tree, candidate, self._input)
        by_name = {view.view_id: view for view in views}
        frames = row["frame_index"]
        for i, name in enumerate(row["view_ids"][:most]):
            # A group drawn from one moving camera names its views itself; they all are that camera's.
            view = by_name.get(name, views[0])
            yield FootageView(self._input, view.media, frames[i] if frames else None)

    def _seen(self, tree: Tree, candidate: Candidate, media: Media) -> Sequence[View | SceneView]:
        """The candidate's views as the stages saw them: where the recipe undistorts, only loading tells the lens."""
        assert self._source is not None  # _tree has checked it
        if getattr(self._source.ingest.options, "undistort", False):
            try:
                return self._source.ingest.load(tree, candidate, media).views
            except CandidateError as error:  # then it had no lens, and no stage saw it
                if error.reason in PROVISIONAL:
                    raise
        return candidate.views

    def _tree(self) -> Tree:
        root = self._output.run.get("inputs", {}).get(self._name)
        if root is None or self._source is None:
            raise FootageAway("source not available")
        if self._input is not None:
            return self._input.tree
        try:
            tree = Tree(root)
            there = tree.exists(ROOT)
        except (OSError, ValueError):  # a store that does not answer, or wants what was not written down
            there = False
        if not there:
            raise FootageAway("source not available")
        return tree

    def _find(self, tree: Tree, candidate_id: str) -> Candidate:
        """Discovery again, once per report: it is cheap, and only it knows how this layout keeps its frames."""
        if self._candidates is None:
            assert self._source is not None  # _tree has checked it
            try:
                self._candidates = discover(self._source, tree, None, (), {})
            except (OSError, ValueError):
                self._candidates = Found()  # the folder is there, but is no longer this layout
        if candidate_id not in self._candidates.places:
            raise FootageAway("source not available")
        return self._candidates[self._candidates.places[candidate_id]]


def _bound(output: OutputFolder, source: str) -> Source | None:
    """The source as the recipe in run.json describes it; None when this version no longer reads that recipe, or its layout."""
    try:
        recipe = parse_recipe(output.run.get("recipe"))
        found = source_of(recipe, source) if source in recipe.sources else None
        return found if found is not None and found.ingest else None
    except RecipeError:
        return None
