"""python -m benchmarks.fuzz: parsers of untrusted input, with inputs that nobody meant, for as long as it is told.

The targets are those of tests/fuzz: recipes, camera files, data sets as folders and archives, media, weights, and output folders before
training, the report and most of the audit (not export, compare); valid ones with a few things wrong, and plain bytes. A parser may raise
what it declares and nothing else, and whether it takes the input or refuses it, it may not write, start a process, connect, unpickle,
run on, or ask for much memory. Prints a table, and for each failure what makes it happen again, made small; ends with status 1 where
there is one.
"""

import argparse
import faulthandler
import os
import sys
import tempfile
import time
from collections.abc import Sequence

from tests.fuzz.all import targets
from tests.fuzz.run import Outcome, run_examples, run_for

_HANGS_S = 180.0  # beyond a target's share: then a traceback tells where, and the process ends


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together (default: %(default)s)")
    parser.add_argument("--target", metavar="NAME", help="only those whose name has this in it")
    parser.add_argument("--seed", type=int, help="of the first examples (default: from the clock); of these alone with --examples")
    parser.add_argument("--examples", type=int, metavar="N", help="run so many of the seed, as a failure's line says")
    options = parser.parse_args(arguments)
    chosen = [target for target in targets() if options.target is None or options.target in target.name]
    if not chosen:
        parser.error(f"no target has {options.target!r} in its name; there are {', '.join(target.name for target in targets())}")
    first = options.seed if options.seed is not None else int(time.time())
    if options.examples is not None:
        for target in chosen:
            run_examples(target, options.examples, first, Outcome())
        return 0
    seconds = options.minutes * 60 / sum(target.share for target in chosen)
    print(f"seed {first}, {os.cpu_count()} cores, {len(chosen)} targets, {options.minutes:g} minutes\n")
    print("| target | examples | a second | outcomes |\n|---|---|---|---|")
    failures, examples = [], 0
    with _quiet() as told:
        for target in chosen:
            faulthandler.dump_traceback_later(seconds * target.share + _HANGS_S, exit=True, file=told)
            outcome = run_for(target, seconds * target.share, first)
            often = ", ".join(f"{name} {count}" for name, count in outcome.outcomes.most_common(6))
            rate = outcome.examples / max(outcome.seconds, 1e-9)
            print(f"| {target.name} | {outcome.examples} | {rate:.0f} | {often}{' FAILED' if outcome.failures else ''} |", flush=True)
            failures += outcome.failures
            examples += outcome.examples
        faulthandler.cancel_dump_traceback_later()
    print(f"\n{examples} examples, {len(failures)} failures")
    for failure in failures:
        print(f"\npython -m benchmarks.fuzz {failure}")
    return 1 if failures else 0


class _quiet:
    """What libraries written in C say of broken pictures goes to a file that is thrown away; the stream that is given still tells."""

    def __enter__(self):  # type: ignore[no-untyped-def]
        self._kept = os.dup(2)
        self._nowhere = tempfile.TemporaryFile()
        sys.stderr.flush()
        os.dup2(self._nowhere.fileno(), 2)
        self._told = os.fdopen(os.dup(self._kept), "w")
        return self._told

    def __exit__(self, *error: object) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)
        self._told.close()
        self._nowhere.close()


if __name__ == "__main__":
    sys.exit(main())
