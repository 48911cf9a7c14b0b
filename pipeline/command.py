"""What the commands share: exit statuses, values of options, a method's subcommand, and how a run that was broken off ends."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType

from schemas.typed import nearest

DONE, FAILED, USAGE = 0, 1, 2


def size(text: str) -> tuple[int, int]:
    """(height, width) of an option HxW."""
    height, _, width = text.partition("x")
    if not height.isdigit() or not width.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW (height x width), such as 384x672")
    return int(height), int(width)


def count(low: int) -> Callable[[str], int]:
    """The parser of a whole number of at least `low`."""

    def number(text: str) -> int:
        if not text.isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least {low}")
        return int(text)

    return number


def add_method(
    parser: argparse.ArgumentParser, methods: Mapping[str, str], arguments: Sequence[str]
) -> tuple[argparse.ArgumentParser, ModuleType] | None:
    """The subparser of the method that the arguments name, with the module of its options; None where they name none.

    methods: name -> module, whose __doc__ and (where it has one) EPILOG the subparser shows. Only the named method's module is
    imported, and none of them imports torch: --help is instant. Ends the process for an unknown method.
    """
    shape = argparse.RawDescriptionHelpFormatter
    parsers = parser.add_subparsers(dest="method", metavar="METHOD", required=True, help=", ".join(methods))
    name = arguments[0] if arguments else ""
    if name in methods:
        module = import_module(methods[name])
        epilog = getattr(module, "EPILOG", parser.epilog)
        return parsers.add_parser(name, description=module.__doc__, epilog=epilog, formatter_class=shape, allow_abbrev=False), module
    if name and not name.startswith("-"):
        parser.error(f"unknown method {name!r}{nearest(name, methods)}")
    if name and name not in ("-h", "--help"):
        parser.error(f"the method comes first: {parser.prog} {{{','.join(methods)}}} {name} ...")
    return None


def parse_method(parser: argparse.ArgumentParser, methods: Mapping[str, str], arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command that has none beside its method's own."""
    found = add_method(parser, methods, arguments)
    if found is not None:
        of_method, module = found
        module.add_options(of_method)
    return parser.parse_args(arguments)


def guarded(command: str, run: Callable[[], int], go_on: str) -> int:
    """What `run` returns. A missing package and Ctrl-C end it with a message; go_on: how to continue after the latter."""
    try:
        return run()
    except ImportError as error:
        print(f"{command}: {error}; it needs the packages of the extra 'train': uv pip install -e '.[train]'", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{command}: interrupted; {go_on}", file=sys.stderr)
    return FAILED
