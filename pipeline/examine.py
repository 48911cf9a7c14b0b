"""One candidate through its source's stages: one source row, and one row for every child."""

import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.binding import Source, class_name
from pipeline.location import OutputFailure
from pipeline.parts import MemberStore, members_to_json
from pipeline.payload import PAYLOAD_VERSION, describe, make_members, members_from_plain, members_to_plain
from pipeline.rows import Row, child_fields, child_to_plain, scene_fields
from pipeline.steps import StepStore, step_key
from schemas.candidate import Candidate, child_key
from schemas.frames import Scene
from schemas.scores import SCORES
from schemas.typed import RecipeError, to_plain
from schemas.verdict import STORAGE, CandidateError, Reason
from stages.media import Media, SandboxError
from stages.stage import Findings, Item, Sampler, Scorer, Stage, Tier, Watcher
from stages.storage import Tree
from stages.watch import watch

INGEST_VERSION = 1


@dataclass
class Examiner:
    """What all candidates of a unit share: the source, its media, the results of earlier runs, and the part's writer."""

    source: Source
    root: Tree
    media: Media
    store: StepStore
    unit: str
    parts: MemberStore
    captions: Mapping[str, str] = field(default_factory=dict)  # by sample id
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    storage_failed: bool = False  # for the candidate that was examined last, be it only that its payload could not be stored

    def examine(self, candidate: Candidate) -> list[dict[str, Any]]:
        """Rows in a fixed order, the source's first. Never raises for anything that is wrong with the candidate."""
        row = Row(candidate.key, candidate, candidate.kind, is_sample=self.source.sampler is None)
        row.fields["caption"] = self.captions.get(candidate.key, candidate.caption)
        self.storage_failed = False
        lazy, rows = _LazyScene(self, candidate), [row]
        try:
            with self._guard(row, "ingest"):
                self._admit(row, lazy)
            if row.error_message is None:
                with self._guard(row, self.source.sampler.name if self.source.sampler else "ingest"):
                    rows += self._run_stages(row, lazy)
            records = self._finish(rows, lazy)
        finally:
            self.media.release()
        features = self.store.take(row.sample_id)
        if self.source.keep_rejected != "none" or any(each.clean for each in rows):
            records[0]["features"] = features
        return records

    def exclude(self, candidate: Candidate, reason: Reason, message: str) -> list[dict[str, Any]]:
        """The row of a candidate that must not be looked at again: it killed the process that did."""
        row = Row(candidate.key, candidate, candidate.kind, is_sample=self.source.sampler is None, attempts=2)
        self.storage_failed = False
        row.fail(CandidateError(reason, message), "unit")
        return [row.record(self.source.spec.license, self.unit)]

    def _admit(self, row: Row, lazy: "_LazyScene") -> None:
        """Discovery's own findings, then headers and cameras."""
        candidate = row.candidate
        if candidate.error is not None:
            raise CandidateError(*candidate.error)
        splits = self.source.spec.splits
        if splits is not None and candidate.split is not None and candidate.split not in splits:
            raise CandidateError(Reason.SPLIT_EXCLUDED, f"split {candidate.split!r} is not among the recipe's {list(splits)}")
        settings = {**self.source.ingest_key(), "media": to_plain(self.source.media)}
        key = step_key("ingest", INGEST_VERSION, settings, candidate.identity())
        row.step_keys["ingest"] = key
        with self._timed("ingest"):
            row.add({}, self.store.get(key, lambda: scene_fields(lazy.get())))

    def _run_stages(self, row: Row, lazy: "_LazyScene") -> list[Row]:
        """Every stage in the recipe's order: on the source until a sampler has run, then on its children."""
        current = [row]
        failed_at: dict[str, Tier] = {}
        for stage, together in _groups(self.source.stages):
            if isinstance(stage, Sampler):
                if not row.clean:
                    row.stopped_at = stage.name
                    return []
                current = self._sample(stage, row, lazy)
                failed_at = {child.sample_id: Tier.HEADER for child in current if not child.clean}
            elif isinstance(stage, Scorer):
                for each in current:
                    self._score_all(together, each, lazy, failed_at)
        return [each for each in current if each is not row]

    def _sample(self, stage: Sampler, row: Row, lazy: "_LazyScene") -> list[Row]:
        candidate, seed = row.candidate, self.source.seed
        key = step_key(class_name(stage), stage.version, {**self._settings(stage, row), "seed": seed}, row.identity())
        row.step_keys[stage.name] = key
        row.touched_by(self.source.weights_of(stage))

        def compute() -> list[dict[str, Any]]:
            scene = lazy.get()
            children = stage.sample(scene, _mix(seed, candidate), self.media)
            suffixes = Counter(child.suffix for child in children)
            if suffixes and max(suffixes.values()) > 1:
                twice = suffixes.most_common(1)[0][0]
                raise ValueError(f"{stage.name} gave several children the suffix {twice!r}; suffixes must be unique")
            return [child_to_plain(child, scene) for child in children]

        with self._timed(stage.name):
            children = [self._child(row, plain) for plain in self.store.get(key, compute)]
        row.n_children = len(children)
        if not children:
            row.reject([Reason.NO_CHILDREN])
        for child in children:
            child.reject(stage.decide(child.scores))
        return children

    def _child(self, row: Row, plain: dict[str, Any]) -> Row:
        candidate = row.candidate
        sample_id = child_key(row.sample_id, plain["suffix"])
        child = Row(sample_id, candidate, plain["kind"], parent_id=row.sample_id, plain=plain)
        child.fields["notes"] = row.fields.get("notes", {})
        child.fields["caption"] = self.captions.get(sample_id, row.fields["caption"])
        child.add(plain["scores"], child_fields(plain))
        child.reject([Reason(reason) for reason in plain["reasons"]])
        child.step_keys.update(row.step_keys)
        child.weights.update(row.weights)
        return child

    def _score_all(self, scorers: Sequence[Scorer], row: Row, lazy: "_LazyScene", failed_at: dict[str, Tier]) -> None:
        """Scorers that stand together: one, or several Watchers, which look at one decode of the item."""
        seen = _Seen(self, row, lazy, [each for each in scorers if isinstance(each, Watcher)])
        for stage in scorers:
            self._score(stage, row, lazy, failed_at, seen)

    def _score(self, stage: Scorer, row: Row, lazy: "_LazyScene", failed_at: dict[str, Tier], seen: "_Seen") -> None:
        """One scorer on one item, unless a cheaper tier has already failed it."""
        failed = failed_at.get(row.sample_id)
        if row.error_message is not None or (failed is not None and failed < stage.tier and not self.source.spec.exhaustive):
            row.stopped_at = row.stopped_at or stage.name
            return
        key = row.step_keys[stage.name] = self._key(stage, row)
        row.touched_by(self.source.weights_of(stage))

        def compute() -> dict[str, Any]:
            found: Findings = seen.of(stage) if isinstance(stage, Watcher) else stage.score(_item(row, lazy), self.media)
            unknown = sorted(set(found.scores) - set(SCORES))
            if unknown:
                raise ValueError(f"{stage.name} gave the scores {unknown}, which schemas.scores does not list")
            return {"scores": dict(found.scores), "fields": dict(found.fields), "members": members_to_plain(found.members)}

        # Watchers run at once, over frames that none of them decoded: `watch` knows what each took.
        with self._guard(row, stage.name), nullcontext() if isinstance(stage, Watcher) else self._timed(stage.name):
            found = self.store.get(key, compute)
            row.add(found["scores"], found["fields"])
            if twice := sorted(set(found["members"]) & set(row.arrays)):
                raise RecipeError(f"{stage.name!r} packs {twice[0]}.npz, which a stage before it packs too; a source takes one of them")
            row.arrays.update(found["members"])
            row.reject(stage.decide(row.scores))
        if not row.clean:
            failed_at.setdefault(row.sample_id, stage.tier)

    def _key(self, stage: Scorer, row: Row) -> str:
        settings = {**self._settings(stage, row), "media": to_plain(self.source.media)}
        return step_key(class_name(stage), stage.version, settings, row.identity())

    def _settings(self, stage: Stage, row: Row) -> dict[str, Any]:
        """With what the stage reads beside the candidate's own files."""
        settings, inputs = self.source.settings_of(stage), stage.inputs(row.candidate)
        return {**settings, "inputs": inputs} if inputs else settings

    def _finish(self, rows: list[Row], lazy: "_LazyScene") -> list[dict[str, Any]]:
        """Payload of what is kept, and every row as a record."""
        for row in rows:
            if row.is_sample and row.error_message is None and (row.clean or self.source.keep_rejected == "payload"):
                # What is rejected anyway does not become an error because its payload cannot be made.
                blamed = row if row.clean else replace(row, reasons=[])
                with self._guard(blamed, "payload"), self._timed("payload"):
                    self._pack(row, lazy)
                if blamed is not row and blamed.error_message is not None:
                    row.add({}, {"notes": {"payload": f"not stored: {blamed.error_message}"}})
        return [row.record(self.source.spec.license, self.unit) for row in rows]

    def _pack(self, row: Row, lazy: "_LazyScene") -> None:
        record = row.record(self.source.spec.license, self.unit)
        caption = row.fields["caption"]
        described = {name: record[name] for name in ("split", "license", "angle_bins", "pairs", "notes", "weights")}
        settings = {
            "payload": to_plain(self.source.spec.payload),
            "sample_id": row.sample_id,
            "caption": caption,
            "described": described,
            "media": to_plain(self.source.media),
            "arrays": row.arrays,
        }
        row.payload_key = step_key("payload", PAYLOAD_VERSION, settings, row.identity())
        members = self.parts.reuse(row.payload_key)
        if members is None:
            item = _item(row, lazy)
            made = make_members(item, self.source.spec.payload, self.media, describe(item, record), caption)
            members = self.parts.add(sorted([*made, *members_from_plain(row.arrays)], key=lambda member: member.name))
        row.members = members_to_json(members)

    @contextmanager
    def _guard(self, row: Row, stage: str) -> Iterator[None]:
        """What goes wrong with one candidate becomes its row. Storage trouble is E_IO; the unforeseen is our bug, E_STAGE.

        A missing package, a checkpoint that does not fit, or an output that cannot be written is no candidate's fault: the unit fails, and
        runs again once that is mended.
        """
        try:
            yield
        except (RecipeError, OutputFailure):
            raise
        except CandidateError as error:
            self.storage_failed |= error.reason in STORAGE
            row.fail(error, stage)
        except SandboxError as error:  # its message is a traceback from the child; the last line says what
            row.fail(CandidateError(Reason.E_STAGE, str(error).strip().splitlines()[-1]), stage)
        except OSError as error:
            self.storage_failed = True
            row.fail(CandidateError(Reason.E_IO, f"{type(error).__name__}: {error}"), stage)
        except Exception as error:
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
                row.fail(CandidateError(Reason.E_OOM, f"{stage}: {str(error).strip() or 'no memory left'}"), stage)
                return
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {error} (in {where.name}, {Path(where.filename).name}:{where.lineno})"
            row.fail(CandidateError(Reason.E_STAGE, message), stage)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started


def _groups(stages: Sequence[Stage]) -> list[tuple[Stage, list[Scorer]]]:
    """(the stage, or the first of several Watchers that follow each other, and the scorers that run together)."""
    groups: list[tuple[Stage, list[Scorer]]] = []
    for stage in stages:
        if isinstance(stage, Watcher) and groups and isinstance(groups[-1][0], Watcher):
            groups[-1][1].append(stage)
        else:
            groups.append((stage, [stage] if isinstance(stage, Scorer) else []))
    return groups


def _item(row: Row, lazy: "_LazyScene") -> Item:
    return Item(row.sample_id, row.kind, lazy.get(), row.child)


class _Seen:
    """What the Watchers of a group found in one item, all of those whose results are not stored in one pass."""

    def __init__(self, examiner: Examiner, row: Row, lazy: "_LazyScene", watchers: Sequence[Watcher]) -> None:
        self._examiner, self._row, self._lazy, self._watchers = examiner, row, lazy, watchers
        self._found: dict[Watcher, Findings | Exception] | None = None

    def of(self, stage: Watcher) -> Findings:
        """Called when the stage's result is not stored. Raises what the stage raised."""
        examiner, row = self._examiner, self._row
        if self._found is None:
            missing = [each for each in self._watchers if each is stage or not examiner.store.knows(examiner._key(each, row))]
            self._found = dict(zip(missing, watch(missing, _item(row, self._lazy), examiner.media, examiner.seconds), strict=True))
        found = self._found[stage]
        if isinstance(found, Exception):
            if len(self._found) == 1:
                raise found
            # Perhaps only a frame that another one asked for is damaged: what a stage finds must not depend on its neighbours.
            return stage.score(_item(row, self._lazy), examiner.media)
        return found


class _LazyScene:
    """The candidate's scene, loaded when a step first needs it: a rerun that finds every result loads nothing."""

    def __init__(self, examiner: Examiner, candidate: Candidate) -> None:
        self._examiner, self._candidate = examiner, candidate
        self._scene: Scene | None = None

    def get(self) -> Scene:
        if self._scene is None:
            examiner = self._examiner
            self._scene = examiner.source.ingest.load(examiner.root, self._candidate, examiner.media)
        return self._scene


def _mix(seed: int, candidate: Candidate) -> int:
    """A seed of the candidate's own that depends on its name and not on its place in the input."""
    return int.from_bytes(sha256(f"{seed}/{candidate.source}/{candidate.candidate_id}".encode()).digest()[:8], "little")
