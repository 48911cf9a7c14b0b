"""Checkpoints: which there are, which are here, and how they get here.

python -m pipeline.weights list                 every checkpoint: purpose, licence, size, and where it lies
python -m pipeline.weights fetch NAME...        download what is not here yet; goes on where it stopped
python -m pipeline.weights verify [NAME...]     read every byte again and compare the digests
python -m pipeline.weights path NAME            where it lies, for scripts

fetch and verify also take one name for several: mediapipe (the networks of `poses`), dwpose (its pair).
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from pipeline.command import DONE, FAILED, USAGE
from stages.perception.checkpoints import CHECKPOINTS, GROUPS, Checkpoint
from stages.perception.weights import WeightsError, accepted, cache, digest_of, expected, find, located

EPILOG = """Checkpoints lie below PARALLAX_WEIGHTS (default: ~/.cache/parallax/weights). A checkpoint is looked for there, then in the
installed package that brings it along, then in the hub's own cache; a recipe that names a file or a folder of yours uses that instead.
Models whose licence forbids commercial use are marked and need --accept-noncommercial, here as in `python -m pipeline.curate`.
Where no sha256 is known, the first fetch records it beside the file, and every later use is compared with that.
A machine without internet: fetch on another one and copy its PARALLAX_WEIGHTS folder, or follow what a failed fetch says.

examples:
  python -m pipeline.weights list
  python -m pipeline.weights list --json | jq -r '.[] | select(.path) | .name'
  python -m pipeline.weights fetch mediapipe
  python -m pipeline.weights fetch sam-vit-b dwpose
  python -m pipeline.weights fetch cotracker3-online superpoint --accept-noncommercial
  PARALLAX_WEIGHTS=/data/weights python -m pipeline.weights verify && echo intact
  ls -lh "$(python -m pipeline.weights path transnetv2)"

exit codes: 0 done, 1 something is missing, could not be fetched or is damaged, 2 usage, an unknown name, or a licence not accepted"""

_UNITS = ("B", "kB", "MB", "GB")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        for name in _names(options):  # before anything is done: a list with a wrong name in it is not half fetched
            accepted(name, getattr(options, "accept_noncommercial", True))
    except WeightsError as error:
        print(f"weights: {error}", file=sys.stderr)
        return USAGE
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, `head` say, has seen enough; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("weights: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"weights: {error}; what is here stays, and the same command goes on", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m pipeline.weights", description=__doc__, epilog=EPILOG, formatter_class=shape)
    verbs = parser.add_subparsers(required=True, metavar="{list,fetch,verify,path}")

    def add(name: str, run: object, text: str, names: str | None = None) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, epilog=EPILOG, formatter_class=shape)
        if names is not None:
            verb.add_argument("names", metavar="NAME", nargs=names or None, help="as `list` shows it, or a group")
        verb.set_defaults(run=run)
        return verb

    listing = add("list", _list, "Every checkpoint: purpose, licence, size, and where it lies.")
    listing.add_argument("--json", action="store_true", help="everything known of each, with its source and sha256, as JSON")
    fetch = add("fetch", _fetch, "Download what is not here yet. An interrupted fetch goes on where it stopped.", "+")
    fetch.add_argument("--offline", action="store_true", help="download nothing; say what is missing (so does HF_HUB_OFFLINE=1)")
    fetch.add_argument("--quiet", action="store_true", help="no progress bars")
    verify = add("verify", _verify, "Read every byte again and compare the sha256; of all that is here, or of those named.", "*")
    path = add("path", _path, "Print where a checkpoint lies. Downloads nothing.", "")
    for verb in (fetch, path):
        verb.add_argument("--accept-noncommercial", action="store_true", help="I may use what forbids commercial use")
    verify.set_defaults(accept_noncommercial=True)  # to read a file's bytes is no use of the model
    return parser


def _names(options: argparse.Namespace) -> list[str]:
    names = getattr(options, "names", [])
    if isinstance(names, str):  # `path` prints one
        return [names]
    return list(dict.fromkeys(each for name in names for each in GROUPS.get(name, (name,))))


def _list(options: argparse.Namespace) -> int:
    from pipeline.auditing.layout import text_table

    described = [_described(known) for known in CHECKPOINTS.values()]
    if options.json:
        print(json.dumps(described, indent=2))
        return DONE
    rows = [(each["name"], "yes" if each["path"] else "", _readable(each["size"]), _license(each), each["purpose"]) for each in described]
    print(text_table(("name", "here", "size", "licence", "purpose"), rows))
    print(f"cache: {cache()}", file=sys.stderr)
    return DONE


def _described(known: Checkpoint) -> dict[str, Any]:
    path = located(known)
    values = dataclasses.asdict(known)
    values |= {"source": str(known.source), "sha256": expected(known), "path": str(path) if path is not None else None}
    return values


def _fetch(options: argparse.Namespace) -> int:
    from stages.perception.fetch import Fetcher

    failed = 0
    with Fetcher(accept_noncommercial=options.accept_noncommercial, offline=options.offline, quiet=options.quiet) as fetcher:
        for name in _names(options):
            try:
                weights, is_new = fetcher.fetch(name)
            except WeightsError as error:
                print(f"weights: {error}", file=sys.stderr)
                failed += 1
                continue
            print(f"{name}: {'fetched to' if is_new else 'is here already:'} {weights.path} (sha256 {weights.sha256}, {weights.license})")
    return FAILED if failed else DONE


def _verify(options: argparse.Namespace) -> int:
    named = _names(options)
    found = {name: located(CHECKPOINTS[name]) for name in named or CHECKPOINTS}
    problems = 0
    for name, path in found.items():
        if path is None:
            if named:
                print(f"missing   {name}")
                problems += 1
            continue
        known = CHECKPOINTS[name]
        wanted, digest = expected(known), digest_of(path, known.files, again=True)
        state = "ok" if digest == wanted else "unknown" if wanted is None else "damaged"
        print(f"{state:10}{name} {path} {digest}" + (f" instead of {wanted}" if state == "damaged" else ""))
        problems += state == "damaged"
    if problems:
        print(f"{problems} problem(s); `python -m pipeline.weights fetch NAME` fetches again what is missing or damaged")
    return FAILED if problems else DONE


def _path(options: argparse.Namespace) -> int:
    try:
        print(find(options.names, accept_noncommercial=options.accept_noncommercial).path)
    except WeightsError as error:
        print(f"weights: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _license(described: dict[str, Any]) -> str:
    return f"{described['license']}{' (non-commercial)' if described['noncommercial'] else ''}"


def _readable(size: float | None) -> str:
    if size is None:
        return ""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"


if __name__ == "__main__":
    sys.exit(main())
