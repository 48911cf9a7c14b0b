"""python -m pipeline.evaluate: what a method generates against what was filmed."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pipeline.command import DONE, FAILED, USAGE, guarded, parse_method
from pipeline.exhausted import is_full, is_out_of_memory
from pipeline.methods.registry import EVALUATION

_EPILOG = """\
examples:
  python -m pipeline.evaluate syncammaster --weights runs/novel/weights --data held_out/ --output eval/

exit status: 0 done, 1 failed or interrupted (run again to go on), 2 usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(list(sys.argv[1:] if arguments is None else arguments))
    return guarded("evaluate", lambda: _evaluate(options), "the same command goes on with what is not finished")


def _evaluate(options: argparse.Namespace) -> int:
    from pipeline.loader.fetch import StorageError
    from pipeline.metrics.comparison import EvaluationError, table_of

    try:
        results: Any = import_module(EVALUATION[options.method]).run(options)
    except (ValueError, RuntimeError, OSError, MemoryError, StorageError) as error:
        if is_out_of_memory(error):
            print(
                "evaluate: out of memory: try a smaller --batch, fewer --frames, a smaller --size; what is finished stays", file=sys.stderr
            )
            return FAILED
        if is_full(error):
            print(f"evaluate: --output {options.output}: no space is left; make room and run the same command again", file=sys.stderr)
            return FAILED
        if isinstance(error, RuntimeError) and not isinstance(error, EvaluationError):
            raise
        print(f"evaluate: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ValueError) else FAILED
    print(table_of(results.lines))
    print(f"results in {options.output}")
    for line in results.left_out[:10]:
        print(f"left out: {line}", file=sys.stderr)
    if results.left_out:
        print(f"{len(results.left_out)} clips could not be read and are in no number above", file=sys.stderr)
    return DONE


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate",
        description="Compare what was generated with what was filmed. `python -m pipeline.evaluate METHOD --help` lists the options.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parse_method(parser, EVALUATION, arguments)


if __name__ == "__main__":
    sys.exit(main())
