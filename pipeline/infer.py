"""python -m pipeline.infer: trained weights, texts and cameras in, videos out."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pipeline.command import DONE, FAILED, USAGE, guarded, parse_method
from pipeline.exhausted import is_full, is_out_of_memory
from pipeline.methods.registry import INFERENCE


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(list(sys.argv[1:] if arguments is None else arguments))
    return guarded("infer", lambda: _infer(options), "the same command goes on with what is not finished")


def _infer(options: argparse.Namespace) -> int:
    try:
        work: Any = import_module(INFERENCE[options.method]).prepare(options)
        if options.dry_run:
            print("\n".join(work.describe()))
            return DONE
    except (ValueError, OSError) as error:
        print(f"infer: {error}", file=sys.stderr)
        return USAGE
    try:
        try:
            work.load()
        except ValueError as error:
            print(f"infer: {error}", file=sys.stderr)
            return USAGE
        failures: list[str] = work.run()
    except (RuntimeError, OSError, MemoryError) as error:
        if not (is_out_of_memory(error) or is_full(error)):
            if not isinstance(error, OSError):
                raise
            print(f"infer: {error}; what is finished stays, and the same command goes on", file=sys.stderr)
            return FAILED
        advice = work.less_memory() if is_out_of_memory(error) else "make room"
        what = "out of memory" if is_out_of_memory(error) else f"no space left for --output {options.output}"
        print(f"infer: {what}: {advice}; what is finished stays, and the same command goes on", file=sys.stderr)
        return FAILED
    for line in failures[:20]:
        print(f"failed: {line}", file=sys.stderr)
    if failures:
        print(f"infer: {len(failures)} failed; the same command tries them again", file=sys.stderr)
        return FAILED
    return DONE


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.infer",
        description="Generate videos with what was trained. `python -m pipeline.infer METHOD --help` lists the options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parse_method(parser, INFERENCE, arguments)


if __name__ == "__main__":
    sys.exit(main())
