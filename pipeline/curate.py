"""python -m pipeline.curate: raw footage in, audited shards out."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.binding import bind, load_recipe, resolved, shipped_recipes
from pipeline.command import DONE, FAILED, USAGE, count
from pipeline.executors.factory import make_executor
from pipeline.explain import describe_plan, explain
from pipeline.location import Location, OutputFailure, holds, locate
from pipeline.plan import PlanError, read_captions
from pipeline.progress import Progress
from pipeline.run import Result, Settings, execute, prepare
from pipeline.selection import check_for_run, read_selection, with_limits
from pipeline.stop import stop_on_signals
from pipeline.store import make_folder, sweep
from schemas.typed import RecipeError, nearest
from schemas.verdict import Reason
from stages.storage import ROOT, Tree, is_url
from stages.storage.cache import sweep_dead
from stages.storage.tree import is_archive

OVER_BUDGET = 3  # beside those that all commands share

_EPILOG = """\
examples:
  python -m pipeline.curate smoke --input clips=footage/ --output out/
  python -m pipeline.curate syncammaster --input syncamvideo=SynCamVideo-Dataset --input realestate10k=re10k \\
      --output out/ --executor ray
  python -m pipeline.curate my_recipe.yaml --input rig=session1/ --output out/ --dry-run
  python -m pipeline.curate smoke --input dl3dv=s3://BUCKET/DL3DV-ALL-960P --input clips=clips.zip --output out/

Run the same command again to resume after a kill, to take in new footage, or to apply a changed recipe: what is done
stays done, and a changed limit decides anew without decoding anything. Then: python -m pipeline.audit summary out/

exit status: 0 done, 1 failed or interrupted (run again to resume), 2 usage, 3 more errors than the error budget allows
"""

_STOPPING = "stopping: units under way are finished or abandoned; run the same command to resume"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        settings = _settings(options)
        progress = Progress(quiet=options.quiet)
        prepared = prepare(settings, progress)
        if options.explain:
            print("\n".join(explain(prepared)))
        if options.dry_run:
            print("\n".join(describe_plan(settings, prepared)))
            return DONE
        make_folder(settings.output)
    except OutputFailure as error:
        print(f"failed: {error.strerror}", file=sys.stderr)
        return FAILED
    except (RecipeError, PlanError, OSError, ValueError) as error:
        print(f"curate: {error}", file=sys.stderr)
        return USAGE
    if prepared.gone:
        progress.note(f"{prepared.gone} candidates of the plan are no longer in the input; they leave the manifest")
    if prepared.unused_captions:
        progress.note(f"{prepared.unused_captions} captions name no sample of this run")
    executor = make_executor(options.executor, options.workers)
    with stop_on_signals(_STOPPING) as stop:
        try:
            result = execute(settings, prepared, executor, stop, progress)
        except OutputFailure as error:
            result = Result("failed", failures=[str(error.strerror)])
        except OSError as error:  # what the driver itself writes: plan, tables, run.json
            result = Result("failed", failures=[f"{settings.output}: {error}"])
        finally:
            executor.close()
            sweep_dead()  # workers are killed, and what they had fetched is left
    report = None
    if result.state == "done" and not options.no_report:
        report = _write_report(settings.output, progress)
    return _close(settings, result, report)


def _followed(path: Path) -> Path:
    """Links followed, but for one to an archive: what it is called by says what it is."""
    return Path(os.path.abspath(path)) if is_archive(path.name) and path.is_file() else path.resolve()


def _settings(options: argparse.Namespace) -> Settings:
    """Everything checked that can be before the input is looked at. Raises RecipeError, ValueError or OSError."""
    recipe = load_recipe(options.recipe)
    output = locate(options.output)
    selection = read_selection(output, options.selection) if options.selection else None
    if selection is not None:
        recipe = with_limits(recipe, selection.settings)
    roots: dict[str, Tree] = {}
    for given in options.input:
        name, separator, path = given.partition("=")
        if not separator or not path:
            raise ValueError(f"--input takes NAME=PATH, got {given!r}")
        tree = Tree(path if is_url(path) else _followed(Path(path)))
        if name not in recipe.sources:
            raise ValueError(f"--input {name}={tree}: the recipe {recipe.name!r} has no source {name!r}{nearest(name, recipe.sources)}")
        if name in roots:
            raise ValueError(f"--input {name} is given twice; one a source")
        if not tree.exists(ROOT):
            raise ValueError(f"--input {name}: there is nothing at {tree}")
        roots[name] = tree
    if not roots:
        raise ValueError(f"no --input; give at least one of: {', '.join(f'--input {name}=PATH' for name in recipe.sources)}")
    for name in recipe.sources:
        if name not in roots and not options.quiet:
            print(f"source {name!r} is left out: no --input {name}=PATH", file=sys.stderr)
    for name, root in roots.items():
        if holds(root.location, output):
            raise ValueError(f"--output {options.output} lies inside the input of {name!r}; it would be read as footage")
        if holds(output, root.location):
            raise ValueError(f"the input of {name!r} lies inside --output {options.output}, which the run keeps in order; name another")
    sources = bind(recipe, options.seed, options.accept_noncommercial)
    taken = {name: sources[name] for name in recipe.sources if name in roots}
    for name, source in taken.items():
        if not options.quiet and (line := source.ingest.notice(roots[name])) is not None:
            print(f"{name}: {line}", file=sys.stderr)
    if selection is not None:
        check_for_run(selection, output, resolved(recipe, taken))
    return Settings(
        recipe=recipe,
        sources=taken,
        roots={name: roots[name] for name in recipe.sources if name in roots},
        output=output,
        captions=read_captions(Path(options.captions)) if options.captions else {},
        limit=options.limit,
        retry_errors=options.retry_errors,
        error_budget=options.error_budget,
        selection=None if selection is None else {"name": selection.name, "digest": selection.digest},
    )


def _write_report(output: Location, progress: Progress) -> Location | None:
    try:
        from pipeline.report import drawn_already, write_report

        sweep(output / "report")
        return drawn_already(output) or write_report(output)
    except Exception as error:  # the shards and the manifest are complete: a drawing that fails must not fail the run
        progress.note(f"the report could not be drawn ({type(error).__name__}: {error}); python -m pipeline.audit report {output}")
        return None


def _close(settings: Settings, result: Result, report: Location | None) -> int:
    for line in result.failures[:20]:
        print(f"failed: {line}", file=sys.stderr)
    if result.state == "interrupted":
        print("interrupted; run the same command to resume", file=sys.stderr)
        return FAILED
    totals = result.totals
    if totals is None:
        print("failed; run the same command to resume", file=sys.stderr)
        return FAILED
    for name in settings.sources:
        counts = ", ".join(f"{totals.counts[name][status]} {status}" for status in ("kept", "rejected", "error", "skipped"))
        print(f"{name}: {counts}; {totals.text[name]['without']} of the kept have no text")
    if unread := sum(reasons[Reason.E_IO] for reasons in totals.reasons.values()):
        print(f"storage failed for {unread} samples (E_IO); run the same command again when it is well", file=sys.stderr)
    print(f"{result.shards} shards, {result.shard_bytes / 1e6:.1f} MB in {settings.output / 'shards'}")
    print(f"manifest: {settings.output / 'manifest'}")
    if report is not None:
        print(f"report: {report}")
    if result.over_budget:
        share = f"{totals.errors} of {totals.judged} samples ({totals.errors / max(totals.judged, 1):.1%})"
        print(f"{share} are errors, more than --error-budget {settings.error_budget:.1%}", file=sys.stderr)
        return OVER_BUDGET
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.curate",
        description="Turn raw footage into WebDataset shards, with a verdict for every candidate in a Parquet manifest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"a recipe file, or one that is shipped: {', '.join(shipped_recipes())}")
    parser.add_argument(
        "--input",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="footage for a source of the recipe: a folder, a .zip or .tar, or a URL of one (s3://, https://, ...); repeat for more",
    )
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="shards, manifest, run.json and report go here: a folder, or s3://BUCKET/PREFIX"
    )
    parser.add_argument("--executor", choices=("inline", "process", "ray"), default="process", help="where units run (default: process)")
    parser.add_argument("--workers", metavar="N", type=count(1), help="units at a time (default: one for each CPU)")
    parser.add_argument("--captions", metavar="FILE", help="texts by sample id: .json {id: text}, or .jsonl/.csv with sample_id and text")
    parser.add_argument("--limit", metavar="N", type=count(1), help="only the first N candidates of every source")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument("--explain", action="store_true", help="say why units run again: which part of their key changed")
    parser.add_argument(
        "--retry-errors",
        action="store_true",
        help="look again at candidates that ended in E_TIMEOUT or E_OOM too; at those in E_IO every run looks again",
    )
    parser.add_argument(
        "--selection", metavar="NAME", help="with the limits of DIR/selections/NAME (audit what-if --write): packs what it keeps"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="instead of the recipe's seed")
    parser.add_argument(
        "--error-budget", metavar="SHARE", type=_share, default=0.05, help="errors that are tolerated, 0 to 1 (default: 0.05)"
    )
    parser.add_argument("--accept-noncommercial", action="store_true", help="load weights whose licence forbids commercial use")
    parser.add_argument("--no-report", action="store_true", help="leave out the report; python -m pipeline.audit report DIR draws it later")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value


if __name__ == "__main__":
    # Candidates and rows are many objects and no cycles: at Python's thresholds, looking for these took a third of a rerun.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    sys.exit(main())
