"""One row decided again by other limits, without looking at the footage: what `pipeline.examine` would say of it.

Nothing is guessed. A stage that did not run on the row, because a cheaper tier had failed it, has left no scores: where the new
limits would let the row come that far, what becomes of it is unknown until the stage has run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.verdict import ERRORS, SKIPS, Reason, Status, status_of
from stages.stage import Limit, Stage, Tier

UNKNOWN, GONE = "unknown", "gone"  # beside the statuses of a row: it needs a run; it would not be there
RANKING, TWINS, SAMPLER, PAYLOAD = "ranking", "twins", "its sampler's reasons", "payload"  # what an unknown row may need beside a stage

Test = tuple[str, str, float]  # score, op, value


@dataclass(frozen=True)
class Step:
    """A stage with the limits that decided and those that shall."""

    name: str
    tier: Tier
    before: tuple[Limit, ...]
    after: tuple[Limit, ...]


@dataclass(frozen=True)
class Chain:
    """The stages that a row passes, in order.

    role: "whole" for a source without a sampler; "source" for one whose children are sampled (the last step is the sampler, which
    runs only on what is clean); "child" (the first step is the sampler, whose scores and reasons the child was born with).
    """

    role: Literal["whole", "source", "child"]
    steps: tuple[Step, ...]
    exhaustive: bool

    def tests(self) -> list[Test]:
        """Every comparison of a score with a limit, each once."""
        return list(dict.fromkeys(test_of(limit) for step in self.judged() for limit in (*step.before, *step.after)))

    def changed(self) -> bool:
        return any(step.before != step.after for step in self.judged())

    def judged(self) -> tuple[Step, ...]:
        """The stages whose limits are held against the row itself."""
        return self.steps[:-1] if self.role == "source" else self.steps


@dataclass(frozen=True)
class State:
    """What the manifest says of a row, apart from its scores. reasons: without those of the run as a whole: ranking and twins."""

    reasons: tuple[str, ...]
    stage: str | None
    stopped_at: str | None


@dataclass(frozen=True)
class Outcome:
    """What becomes of a row. status: of schemas.verdict.Status, UNKNOWN or GONE; needs: what would have to run to tell."""

    status: str
    reasons: tuple[str, ...] = ()
    stopped_at: str | None = None
    needs: str | None = None


class OwnReasonsNeeded(Exception):
    """A child's reasons may be its sampler's own as well as a limit's; the manifest alone does not say which."""


def test_of(limit: Limit) -> Test:
    return limit.score, limit.op, limit.value


def chains(before: Sequence[Stage], after: Sequence[Stage], sampler: str | None, exhaustive: bool) -> tuple[Chain, ...]:
    """The ways that rows of a source go: one, or with a sampler one for the source's rows and one for their children."""
    steps = tuple(Step(old.name, old.tier, tuple(old.limits()), tuple(new.limits())) for old, new in zip(before, after, strict=True))
    at = next((i for i, step in enumerate(steps) if step.name == sampler), None)
    if at is None:
        return (Chain("whole", steps, exhaustive),)
    return Chain("source", steps[: at + 1], exhaustive), Chain("child", steps[at:], exhaustive)


def decide(chain: Chain, state: State, violated: Mapping[Test, bool], own: Sequence[str] | None = None) -> Outcome:
    """The row by the limits that shall be. own: a child's reasons from its sampler, None where they are not known.

    violated: for every test whether the row's score lies outside; not where there is no score. Raises OwnReasonsNeeded.
    """
    names = [step.name for step in chain.steps]
    failed = next((reason for reason in state.reasons if reason in ERRORS or reason in SKIPS), None)
    if failed is not None and state.stage not in (*names, "payload"):
        return Outcome(str(status_of([Reason(failed)])), state.reasons, state.stopped_at)  # ingest, or a killer: nothing was judged
    reached = _reached(names, state)
    if chain.role == "child" and own is None:
        own = _own(chain, state, violated, reached)
    reasons = list(own or ())
    tier = Tier.HEADER if reasons else None
    for number, step in enumerate(chain.steps):
        samples = chain.role == "source" and number == len(names) - 1
        if reasons and (samples or (tier is not None and tier < step.tier and not chain.exhaustive)):
            return _ended(reasons, step.name)
        if number >= reached:
            return Outcome(UNKNOWN, tuple(reasons), None, step.name)
        if failed is not None and state.stage == step.name:
            reasons += [failed] if failed not in reasons else []
            later = names[-1] if chain.role == "source" and not samples else next(iter(names[number + 1 :]), None)
            return _ended(reasons, later)
        found = [str(Reason.NO_CHILDREN)] * (str(Reason.NO_CHILDREN) in state.reasons) if samples else _violated(step.after, violated)
        reasons += [reason for reason in found if reason not in reasons]
        if reasons and tier is None:
            tier = step.tier
    if failed is not None and state.stage == "payload" and not reasons:
        reasons.append(failed)
    return _ended(reasons, None)


def _reached(names: Sequence[str], state: State) -> int:
    """How many of the stages ran on the row."""
    if state.stage in names:
        return names.index(state.stage) + 1
    return names.index(state.stopped_at) if state.stopped_at in names else len(names)


def _own(chain: Chain, state: State, violated: Mapping[Test, bool], reached: int) -> list[str]:
    """A child's reasons that no limit explains. Raises OwnReasonsNeeded where one would fall that its sampler may have given too."""
    ran = chain.steps[:reached]
    explained = {reason for step in ran for reason in _violated(step.before, violated)}
    own = [reason for reason in state.reasons if reason not in explained and reason not in ERRORS and reason not in SKIPS]
    if not chain.exhaustive and any(step.tier > Tier.HEADER for step in ran):
        return own  # it passed its sampler's tier clean
    if explained & set(state.reasons) - set(_violated(chain.steps[0].after, violated)):
        raise OwnReasonsNeeded
    return own


def _violated(limits: Sequence[Limit], violated: Mapping[Test, bool]) -> list[str]:
    return list(dict.fromkeys(str(limit.reason) for limit in limits if violated[test_of(limit)]))


def _ended(reasons: Sequence[str], stopped_at: str | None) -> Outcome:
    status: Status = status_of([Reason(reason) for reason in reasons])
    return Outcome(str(status), tuple(reasons), stopped_at)
