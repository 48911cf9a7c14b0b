"""python -m pipeline.infer: trained weights, texts and cameras in, videos out."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from schemas.typed import nearest

DONE, FAILED, USAGE = 0, 1, 2

# Method -> module with EPILOG, add_options(parser) and prepare(options) -> an object with describe(), load(), run() and less_memory().
METHODS: dict[str, str] = {"syncammaster": "pipeline.methods.syncammaster.inference"}


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    try:
        return _infer(options)
    except KeyboardInterrupt:
        print("infer: interrupted; the same command goes on with what is not finished", file=sys.stderr)
        return FAILED
    except ImportError as error:
        print(f"infer: {error}; inference needs the packages of the extra 'train': uv pip install -e '.[train]'", file=sys.stderr)
        return FAILED


def _infer(options: argparse.Namespace) -> int:
    from pipeline.training.errors import is_full, is_out_of_memory

    try:
        work: Any = import_module(METHODS[options.method]).prepare(options)
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
    """Only the named method's module is imported, and none of them imports torch for its options: --help is instant."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.infer",
        description="Generate videos with what was trained. `python -m pipeline.infer METHOD --help` lists the options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    methods = parser.add_subparsers(dest="method", metavar="METHOD", required=True, help=", ".join(METHODS))
    name = arguments[0] if arguments else ""
    if name in METHODS:
        module = import_module(METHODS[name])
        shape = argparse.RawDescriptionHelpFormatter
        module.add_options(
            methods.add_parser(name, description=module.__doc__, epilog=module.EPILOG, formatter_class=shape, allow_abbrev=False)
        )
    elif name and not name.startswith("-"):
        parser.error(f"unknown method {name!r}{nearest(name, METHODS)}")
    elif name and name not in ("-h", "--help"):
        parser.error(f"the method comes first: python -m pipeline.infer {{{','.join(METHODS)}}} {name} ...")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
