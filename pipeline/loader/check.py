"""Before the first step: can this data fill every step that the settings will draw? From the manifest alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.batch import KINDS, Kind
from pipeline.loader.catalog import UNKNOWN, Catalog
from pipeline.loader.settings import LoaderSettings, Phase
from pipeline.loader.views import eligible, enough_frames, enough_views, most_partners, phase_at

# Ours. A phase is thin where every pair of views is drawn more often than MAX_REPEATS, or where fewer than MIN_SHARE of the samples
# that have the views and frames have the angles too.
MAX_REPEATS = 100.0
MIN_SHARE = 0.05
LEFT_OUT = 0.5  # of a kind's samples: more than this without the views or frames asked for is worth a word


@dataclass(frozen=True)
class KindCount:
    """One kind of the mix. eligible: samples with the views and frames asked for, at any angle. with_text: of these.
    epochs: how often each is drawn in the whole run, on average; NaN where none is eligible.
    """

    kind: Kind
    share: float
    samples: int
    eligible: int
    with_text: int
    epochs: float


@dataclass(frozen=True)
class PhaseCount:
    """One phase that the run reaches, steps begin..end-1. pairs: view pairs of its samples within [low, high] degrees.
    repeats: how often each pair is drawn, on average; NaN where there is none.
    """

    begin: int
    end: int
    low: float
    high: float
    samples: int
    pairs: int
    repeats: float


@dataclass
class Check:
    """problems: training cannot run, each says what to change. warnings: it can, but probably not as meant."""

    kinds: list[KindCount] = field(default_factory=list)
    phases: list[PhaseCount] = field(default_factory=list)
    licenses: Mapping[str, int] = field(default_factory=dict)  # samples of the data by licence, whatever the mix draws
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The data mix as aligned tables, the licences in one line, then the warnings."""
        head: Sequence[Any] = ("kind", "share", "samples", "eligible", "with text", "epochs")
        rows = [(c.kind, f"{c.share:.0%}", c.samples, c.eligible, _percent(c.with_text, c.eligible), _number(c.epochs)) for c in self.kinds]
        lines = _table([head, *rows])
        if self.phases:
            head = ("steps", "view angles", "samples", "pairs", "draws of a pair")
            lines += _table(
                [head, *((f"{p.begin}-{p.end}", f"{p.low:g}-{p.high:g}°", p.samples, p.pairs, _number(p.repeats)) for p in self.phases)]
            )
        if self.licenses:
            lines.append("licences: " + ", ".join(f"{name}: {count} samples" for name, count in self.licenses.items()))
        return lines + [f"warning: {warning}" for warning in self.warnings]


def check(catalog: Catalog, settings: LoaderSettings, steps: int, max_untexted: float = 0.5) -> Check:
    """Look for everything that would stop or spoil `steps` steps. max_untexted: largest share of a kind's eligible samples
    that may lack text without a warning.
    """
    result = Check(licenses=catalog.licenses)
    for kind in KINDS:
        of_kind = catalog.kinds == KINDS.index(kind)
        samples = eligible(catalog, settings, kind, None)
        share, with_text = settings.share(kind), int(catalog.texts[samples].sum())
        epochs = _ratio(share * settings.batch * steps, len(samples))
        result.kinds.append(KindCount(kind, share, int(of_kind.sum()), len(samples), with_text, epochs))
        if share == 0:
            continue
        if len(samples) == 0:
            result.problems.append(_nothing(catalog, settings, kind, of_kind))
            continue
        if kind == "multiview_video" and settings.curriculum:
            _check_phases(catalog, settings, steps, samples, result)
        result.warnings += _kind_warnings(catalog, settings, kind, of_kind, samples)
        if len(samples) - with_text > max_untexted * len(samples):
            result.warnings.append(
                f"{len(samples) - with_text} of {len(samples)} {kind} samples have no text "
                f"({_percent(len(samples) - with_text, len(samples))}; at most {max_untexted:.0%} is wanted): "
                "they train with the empty text; add captions and curate again, or leave the samples out with --selection"
            )
    return result


def _nothing(catalog: Catalog, settings: LoaderSettings, kind: Kind, of_kind: NDArray[np.bool_]) -> str:
    """Why no sample of the kind can be drawn, and what would help."""
    mix = _mix_without(catalog, settings)
    without = f"--mix {mix}" if mix else "other data"
    start = f"the mix asks for {settings.share(kind):.0%} {kind}, but"
    if not of_kind.any():
        there = ", ".join(f"{int((catalog.kinds == number).sum())} {each}" for number, each in enumerate(KINDS) if each != kind)
        return f"{start} {catalog.location} has no such sample (but {there}); use {without}"
    views, count = settings.views_of(kind), int(of_kind.sum())
    if not (of_kind & enough_views(catalog, settings, kind, None)).any():
        option = "--image-views" if kind == "multiview_images" and settings.image_views else "--views"
        return f"{start} none of its {count} samples has {views} views; use {option} {catalog.n_views[of_kind].max()} or less, or {without}"
    long_enough = of_kind & enough_frames(catalog, settings, kind)
    if long_enough.any():
        most = int(catalog.n_views[long_enough].max())
        return (
            f"{start} none of its {count} samples has both {views} views and {settings.frames} frames; "
            f"use --views {most} or less, fewer --frames, or {without}"
        )
    lengths = np.sort(catalog.frames[of_kind & (catalog.frames != UNKNOWN) & (catalog.n_views >= views)])
    every = f", every {settings.frame_stride}." if settings.frame_stride > 1 else ""
    if len(lengths) == 0:
        return f"{start} the length of none of its {count} samples is known; curate them again, or use {without}"
    longest, half = (int((n - 1) // settings.frame_stride + 1) for n in (lengths[-1], lengths[(len(lengths) - 1) // 2]))
    return (
        f"{start} none of its {count} samples has {settings.frames} frames{every}: the longest has {longest}, half of them have {half} "
        f"or more; use at most --frames {half}, or {without}"
    )


def _mix_without(catalog: Catalog, settings: LoaderSettings) -> str:
    """The mix over the kinds that can be drawn, in their old proportions; empty where there is none."""
    left = [kind for kind in KINDS if settings.share(kind) and len(eligible(catalog, settings, kind, None))]
    if not left:
        return ""
    total = sum(settings.share(kind) for kind in left)
    shares = [round(settings.share(kind) / total, 4) for kind in left[:-1]]
    return ",".join(f"{kind}={share:.4g}" for kind, share in zip(left, [*shares, 1 - sum(shares)], strict=True))


def _check_phases(catalog: Catalog, settings: LoaderSettings, steps: int, samples: NDArray[np.int64], result: Check) -> None:
    """Every phase that begins before the run ends must find samples; few of them are worth a warning."""
    kind: Kind = "multiview_video"
    last = phase_at(settings, max(0, steps - 1)) or 0
    ends = [phase.start for phase in settings.curriculum[1 : last + 1]] + [steps]
    partners_wanted = settings.views_of(kind) - 1
    for phase, end in zip(settings.curriculum[: last + 1], ends, strict=True):
        chosen = eligible(catalog, settings, kind, phase)
        pairs = _pairs_inside(catalog, phase, chosen)
        draws = settings.share(kind) * settings.batch * (end - phase.start)
        count = PhaseCount(phase.start, end, phase.low, phase.high, len(chosen), pairs, _ratio(draws * partners_wanted, pairs))
        result.phases.append(count)
        what = f"steps {count.begin}-{count.end} draw view pairs at {phase.low:g}-{phase.high:g} degrees"
        if len(chosen) == 0:
            result.problems.append(_empty_phase(catalog, settings, phase, samples, what))
        elif len(chosen) < MIN_SHARE * len(samples):
            result.warnings.append(
                f"{what}, which only {len(chosen)} of {len(samples)} {kind} samples have: each is drawn "
                f"{_number(draws / len(chosen))} times; add data with such angles or change the curriculum"
            )
        elif count.repeats > MAX_REPEATS:
            result.warnings.append(
                f"{what}: there are {pairs}, each is drawn {_number(count.repeats)} times (more than {MAX_REPEATS:g}); "
                "add data with such angles, change the curriculum, or train fewer steps"
            )
    unknown = int((np.diff(catalog.pairs.start)[samples] == 0).sum())
    if unknown and partners_wanted:
        result.warnings.append(
            f"the angles between the views of {unknown} of {len(samples)} {kind} samples are unknown, so no phase of the curriculum "
            "draws them; curate them with cameras, or train without a curriculum"
        )


def _empty_phase(catalog: Catalog, settings: LoaderSettings, phase: Phase, samples: NDArray[np.int64], what: str) -> str:
    most = int(most_partners(catalog, phase, settings.first_view)[samples].max())
    if most >= 1:
        return f"{what}, but no sample has {settings.views} views with such angles to view 0; use --views {most + 1} or less"
    start = catalog.pairs.start
    angles = catalog.pairs.angle[_ranges(start[samples], start[samples + 1])]
    there = f"they lie at {angles.min():.3g}-{angles.max():.3g}" if len(angles) else "their angles are unknown"
    return (
        f"{what}, but none of {len(samples)} multiview_video samples has such a pair ({there}); "
        f"use data with such angles, another curriculum or none{', or fewer --steps' if phase.start else ''}"
    )


def _kind_warnings(
    catalog: Catalog, settings: LoaderSettings, kind: Kind, of_kind: NDArray[np.bool_], samples: NDArray[np.int64]
) -> list[str]:
    warnings, count = [], int(of_kind.sum())
    if count - len(samples) > LEFT_OUT * count:
        few = int((of_kind & ~enough_views(catalog, settings, kind, None)).sum())
        short = int((of_kind & ~enough_frames(catalog, settings, kind)).sum())
        warnings.append(
            f"only {len(samples)} of {count} {kind} samples can be drawn: {few} have fewer than {settings.views_of(kind)} views, "
            f"{short} fewer than {settings.frames_of(kind)} frames"
        )
    unknown = int((of_kind & (catalog.frames == UNKNOWN)).sum())
    if unknown:
        warnings.append(f"the manifest does not say how many frames {unknown} of {count} {kind} samples have: they are never drawn")
    return warnings


def _pairs_inside(catalog: Catalog, phase: Phase, samples: NDArray[np.int64]) -> int:
    angle = catalog.pairs.angle
    inside = np.concatenate([[0], np.cumsum((angle >= phase.low) & (angle <= phase.high))])
    return int((inside[catalog.pairs.start[samples + 1]] - inside[catalog.pairs.start[samples]]).sum())


def _ranges(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """start[0]..end[0]-1, start[1]..end[1]-1, ... in one array."""
    count = end - start
    return np.arange(count.sum()) + np.repeat(start - np.concatenate([[0], np.cumsum(count)[:-1]]), count)


def _ratio(a: float, b: int) -> float:
    return a / b if b else float("nan")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _table(rows: Iterable[Sequence[Any]]) -> list[str]:
    """First column to the left, numbers to the right."""
    text = [[str(each) for each in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in text]
