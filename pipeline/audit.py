"""Look at, check and question what pipeline.curate wrote.

python -m pipeline.audit summary DIR              counts by source, status and reason
python -m pipeline.audit verify DIR               read every byte again and compare it with the manifest
python -m pipeline.audit report DIR               rebuild DIR/report/index.html
python -m pipeline.audit show DIR SAMPLE_ID       everything known of one candidate
python -m pipeline.audit sql DIR "SELECT ..."     SQL over the tables samples, shards and units
python -m pipeline.audit diff DIR DIR2            what differs between two runs, and why
python -m pipeline.audit what-if DIR --set quality.min_sharpness=30    what other limits would keep, from stored scores
python -m pipeline.audit compare DIR DIR2         a page that asks you, blind, which of two sets of samples is better
python -m pipeline.audit export DIR --output DIR2 --license CC0-1.0    shards and manifest of one licence, to give to others
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.auditing.folder import OutputError, OutputFolder
from pipeline.command import DONE, FAILED, USAGE, count
from pipeline.location import Location, OutputFailure, locate

EPILOG = """examples:
  python -m pipeline.audit summary out --json | jq '.sources.clips.reasons'
  python -m pipeline.audit verify out && echo intact
  python -m pipeline.audit report out --output /tmp/look.html
  python -m pipeline.audit show out clips_-dog
  python -m pipeline.audit sql out "SELECT source, status, count(*) FROM samples GROUP BY ALL ORDER BY ALL"
  python -m pipeline.audit sql out "SELECT sample_id, scores.sharpness FROM samples
                                    WHERE list_contains(reasons, 'blurred') ORDER BY 2 DESC LIMIT 20"
  python -m pipeline.audit sql out "DESCRIBE samples"
  python -m pipeline.audit diff out another --tolerance 1e-4
  python -m pipeline.audit compare out --a sharp --b large --pairs 40 --output judge.html
  python -m pipeline.audit what-if out --set quality.min_sharpness=30 --set clips.header.max_duration_s=off --write sharp

exit codes: 0 fine, 1 something is wrong (verify, show: unknown id) or differs (diff), 2 usage, or the folder is no output folder"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        status = int(options.run(OutputFolder(options.dir), options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, `head` say, has seen enough; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OutputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except OutputFailure as error:
        print(f"error: {error.strerror}", file=sys.stderr)
        return FAILED


def _location(text: str) -> Location:
    try:
        return locate(text) if "://" in text else Path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m pipeline.audit", description=__doc__, epilog=EPILOG, formatter_class=shape)
    verbs = parser.add_subparsers(required=True, metavar="{summary,verify,report,show,sql,diff,what-if,compare,export}")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, formatter_class=shape)
        verb.add_argument("dir", metavar="DIR", type=_location, help="the --output of a pipeline.curate run: a folder or a URL")
        verb.set_defaults(run=run)
        return verb

    summary = add("summary", _summary, "Counts by source, status and reason; text; the error budget; shards.")
    summary.add_argument("--json", action="store_true", help="the same numbers as JSON")
    verify = add("verify", _verify, "Recompute the sha256 of every shard and member and check the tables against each other.")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    report = add("report", _report, "Rebuild the HTML report from the folder.")
    report.add_argument("--output", type=_location, metavar="FILE", help="where to write it (default: DIR/report/index.html)")
    show = add("show", _show, "Everything known of one candidate: verdict, scores beside limits, frames, members, family.")
    show.add_argument("sample_id", metavar="SAMPLE_ID", help="a sample_id, or a candidate_id that only one source has")
    sql = add("sql", _sql, "One SELECT over the tables samples, shards and units. Read-only; reaches no other file.")
    sql.add_argument("query", metavar="QUERY", help='e.g. "SELECT status, count(*) FROM samples GROUP BY 1"')
    sql.add_argument("--csv", action="store_true", help="comma-separated values instead of a table")
    diff = add("diff", _diff, "What differs between two runs, row by row, and what made them that could be why.")
    diff.add_argument("other", metavar="DIR2", type=_location, help="the second run's folder")
    diff.add_argument(
        "--tolerance",
        metavar="SHARE",
        type=float,
        default=0.0,
        help="scores that differ by no more than this share are the same (default: 0)",
    )
    diff.add_argument("--json", action="store_true", help="all differences, as JSON")
    what_if = add(
        "what-if", _what_if, "Decide every row again by other limits, from the stored scores. Errors are not judged, nothing is guessed."
    )
    what_if.add_argument(
        "--set", metavar="[SOURCE.]stage.key=value", action="append", required=True, help="a limit, a number or off; repeat for more"
    )
    what_if.add_argument("--write", metavar="NAME", help="keep the answer as DIR/selections/NAME.parquet and NAME.json")
    what_if.add_argument("--json", action="store_true", help="the same numbers as JSON")
    compare = add("compare", _compare, "A page to judge two sets of samples by eye: pairs without names, votes, and what they say.")
    compare.add_argument(
        "other", metavar="DIR2", nargs="?", type=_location, help="another output folder (default: DIR: two selections of it)"
    )
    compare.add_argument("--a", metavar="NAME", help="a selection of DIR (default: what it keeps)")
    compare.add_argument("--b", metavar="NAME", help="a selection of DIR2 (default: what it keeps)")
    compare.add_argument("--pairs", metavar="N", type=count(1), default=30, help="how many pairs at most (default: 30)")
    compare.add_argument("--seed", metavar="N", type=count(0), default=0, help="draws the pairs and their sides (default: 0)")
    compare.add_argument("--output", type=_location, metavar="FILE", help="where to write the page (default: DIR/report/compare.html)")
    export = add("export", _export, "Shards and manifest of the samples of one licence, or of several, in a folder that training reads.")
    export.add_argument("--output", type=_location, metavar="DIR2", required=True, help="a new folder; shards are linked there, or copied")
    export.add_argument("--license", metavar="LICENCE", action="append", default=[], help="as in the recipe, or none; repeat for more")
    export.add_argument("--mixed-licenses", action="store_true", help="samples of several licences may go together")
    export.add_argument("--accept-noncommercial", action="store_true", help="also what was made with weights for non-commercial use")
    return parser


def _summary(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.auditing.summary import format_summary, summarize

    summary = summarize(output)
    print(json.dumps(summary, indent=2) if options.json else format_summary(summary))
    return DONE


def _verify(output: OutputFolder, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from pipeline.auditing.verify import total_bytes, verify

    total = total_bytes(output)
    # disable=None shows the bar on a terminal only.
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=True if options.quiet else None) as bar:

        def progress(count: int) -> None:
            bar.update(count)

        problems = verify(output, progress)
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} problem(s) found in {output.path}")
        return FAILED
    shards, samples = (output.dataset(table).count_rows() for table in ("shards", "samples"))
    print(f"intact: {shards} shards ({total} bytes) and {samples} rows agree")
    return DONE


def _report(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.report import write_report

    print(write_report(output.path, options.output))
    return DONE


def _compare(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.report.ab import CompareError, compare_page, side
    from pipeline.store import write_bytes

    path = options.output or output.path / "report" / "compare.html"
    other = output if options.other is None else OutputFolder(options.other)
    try:
        page, told = compare_page(side(output, options.a), side(other, options.b), options.pairs, options.seed)
        write_bytes(path, page.encode("utf-8", "backslashreplace"))
    except CompareError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"error: {path} could not be written: {error.strerror}", file=sys.stderr)
        return FAILED
    print(f"{told}\n{path}")
    return DONE


def _show(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.auditing.show import UnknownSample, show

    try:
        print(show(output, options.sample_id))
    except UnknownSample as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _sql(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.auditing.layout import text_table
    from pipeline.auditing.sql import QueryError, query

    try:
        header, rows = query(output, options.query)
    except QueryError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    else:
        print(text_table(header, rows))
        print(f"({len(rows)} row{'s' if len(rows) != 1 else ''})")
    return DONE


def _diff(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.auditing.diff import diff, differs, format_diff

    found = diff(output, OutputFolder(options.other), options.tolerance)
    print(json.dumps(found, indent=2) if options.json else format_diff(found))
    return FAILED if differs(found) else DONE


def _what_if(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.auditing.flips import count_flips, format_flips
    from pipeline.auditing.whatif import selected, what_if
    from pipeline.selection import SelectionError, check_name, packing_command, write_selection
    from schemas.typed import RecipeError

    try:
        if options.write is not None:
            check_name(output.path, options.write)
        answer = what_if(output, options.set, full=options.write is not None)
        counts = count_flips(answer)
        if options.write is not None:
            path = write_selection(output.path, options.write, answer.settings, answer.recipe, selected(answer), counts)
    except (SelectionError, RecipeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    if options.json:
        print(json.dumps(counts, indent=2))
        return DONE
    name = options.write or "NAME"
    run = packing_command(str(output.path), output.run, name)
    print(format_flips(counts, run if options.write else f"add --write NAME, then: {run}"))
    if options.write is not None:
        print(f"\n{path}")
    return DONE


def _export(output: OutputFolder, options: argparse.Namespace) -> int:
    from pipeline.auditing.export import ExportError, export, format_export

    try:
        found = export(output, options.output, options.license, options.mixed_licenses, options.accept_noncommercial)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"error: {options.output} could not be written: {error.strerror}", file=sys.stderr)
        return FAILED
    print(format_export(found, options.output))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
