"""python -m pipeline.encode_latents: pictures and texts through a base's codec once, so that training need not."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.command import DONE, FAILED, USAGE, count, guarded, size
from pipeline.device import PRECISIONS, device_of, dtype_of
from pipeline.exhausted import is_full
from pipeline.progress import Progress
from schemas.typed import object_from_json

if TYPE_CHECKING:
    from pipeline.bases.base import Base
    from pipeline.encoding.run import Result
    from pipeline.encoding.shard import Folder
    from pipeline.encoding.source import ShardWork
    from pipeline.loader.catalog import Catalog

_EPILOG = """\
examples:
  python -m pipeline.encode_latents --data out/ --base wan2.1-1.3b --size 480x832 --frames 81 --output latents/ --dry-run
  python -m pipeline.encode_latents --data out/ --base wan2.1-1.3b --size 480x832 --frames 81 --output latents/ --device cuda
  python -m pipeline.train syncammaster --data latents/ --payload latents --base wan2.1-1.3b --size 480x832 --frames 81 --output run/

DIR2 is a folder like the one that was read, with latents instead of videos: viewNN_latent.npz (`latent` [C,f,h,w] float16),
text.npz (`text` [L,D] float16), cameras.npz whose K fits the encoded picture; null_text.npz holds the empty text's embedding.
Check it with python -m pipeline.audit verify DIR2. Videos are encoded from their first frame on, all at one length; shorter ones
and those that cannot be read are left out, named, and have a row that says why. Run the same command again to resume.

exit status: 0 done, 1 failed, interrupted or nothing could be encoded (run again to resume), 2 usage: nothing was written
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return guarded("encode_latents", lambda: _encode(options), "finished shards stay, the same command goes on after them")


def _encode(options: argparse.Namespace) -> int:
    from pipeline.encoding.run import pending, run
    from pipeline.loader.fetch import StorageError
    from pipeline.loader.manifest import Manifest

    try:
        folder, works, base = _prepare(options)
    except (ValueError, OSError) as error:
        print(f"encode_latents: {error}", file=sys.stderr)
        return USAGE
    if options.dry_run:
        print("\n".join(describe(folder, works, base)))
        return DONE
    about = {name: getattr(options, name) for name in ("data", "selection", "split", "limit")}
    try:
        left = pending(folder, works, options.retry_errors)
        source_run = Manifest(folder.catalog.location).run()
        result = run(folder, works, left, base, about, source_run, Progress(quiet=options.quiet))
    except (StorageError, OSError, MemoryError) as error:
        print(f"encode_latents: {_advice(error, options)}", file=sys.stderr)
        return FAILED
    return _close(folder, result)


def _prepare(options: argparse.Namespace) -> "tuple[Folder, list[ShardWork], Base]":
    """Everything that can be checked before a picture is decoded. Raises ValueError or OSError for a usage error."""
    from pipeline.bases.registry import load_base
    from pipeline.encoding.settings import Encoding, weights_digest
    from pipeline.encoding.shard import Folder
    from pipeline.encoding.source import Rows, children_of, works
    from pipeline.loader.catalog import Catalog

    output = Path(options.output)
    _check_output(options.data, output)
    catalog = Catalog.open(options.data, options.selection, options.split)
    if catalog.encoding is not None:
        raise ValueError(
            f"--data {options.data}: holds latents already ({catalog.encoding.get('base')}); give the folder that they came from"
        )
    device = device_of(options.device)
    base = load_base(options.base, dtype=dtype_of(options.precision), device=device, codec=not options.dry_run, seed=options.random_base)
    spec = base.spec
    spec.latent_size(*options.size)
    rows = Rows(catalog.location, catalog)
    chosen = works(catalog, rows, options.limit)
    frames = options.frames or longest(catalog, chosen, options.frame_stride, spec.temporal)
    spec.latent_frames(frames)
    encoding = Encoding(
        base=options.base, weights=weights_digest(base), size=options.size, frames=frames, frame_stride=options.frame_stride,
        precision=options.precision, spatial=spec.spatial, temporal=spec.temporal, channels=spec.channels,
        text_tokens=spec.text_tokens, text_dim=spec.text_dim,
    )  # fmt: skip
    return Folder(catalog, rows, children_of(catalog, rows, chosen), encoding, output), chosen, base


def _check_output(data: str, output: Path) -> None:
    """Raises ValueError for a folder that holds anything but earlier latents."""
    if "://" not in data and output.resolve() == Path(data).resolve():
        raise ValueError(f"--output {output}: is the folder that is read; give another")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: is a file; give a folder")
    if not output.is_dir() or not any(output.iterdir()):
        return
    try:
        encoded = "encoding" in object_from_json((output / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        encoded = False
    if not encoded:
        raise ValueError(f"--output {output}: holds something else than latents; give a new folder, or one of this command")


def longest(catalog: "Catalog", chosen: "Sequence[ShardWork]", stride: int, temporal: int) -> int:
    """The most frames that every chosen video has and the codec takes: training reads clips of one length."""
    known = [catalog.n_frames(i) or 1 for work in chosen for i in work.samples if catalog.kind(i) != "multiview_images"]
    most = -(-min(known, default=1) // stride)
    return most - (most - 1) % temporal


def describe(folder: "Folder", works: "Sequence[ShardWork]", base: "Base") -> list[str]:
    """What a run would do, for people."""
    from pipeline.auditing.layout import human_bytes
    from pipeline.encoding.shard import too_short

    encoding, catalog, spec = folder.encoding, folder.catalog, base.spec
    samples = [i for work in works for i in work.samples]
    taken = [i for i in samples if too_short(catalog, i, encoding) is None]
    cells = spec.channels * spec.latent_size(*encoding.size)[0] * spec.latent_size(*encoding.size)[1]
    latent = sum(
        2 * cells * len(catalog.view_ids(i)) * (1 if catalog.kind(i) == "multiview_images" else spec.latent_frames(encoding.frames))
        for i in taken
    )
    text = 2 * spec.text_tokens * spec.text_dim * len(taken)
    height, width = encoding.size
    shape = [spec.channels, spec.latent_frames(encoding.frames), *spec.latent_size(height, width)]
    short = len(samples) - len(taken)
    clip = f"{encoding.frames} frames{f', every {encoding.frame_stride}.' if encoding.frame_stride > 1 else ''}"
    return [
        f"{len(taken)} of {len(samples)} samples in {len(works)} shards; {short} have fewer than {encoding.span} frames",
        f"base {encoding.base}: {clip} of {height}x{width} -> latents {shape} float16 a view",
        f"latents {human_bytes(latent)}, text embeddings {human_bytes(text)}",
    ]


def _advice(error: Exception, options: argparse.Namespace) -> str:
    stays = "finished shards stay, the same command goes on after them"
    if is_full(error):
        return f"--output {options.output}: no space is left; make room and run the same command again; {stays}"
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error).splitlines()[0]}; try --precision bf16, a smaller --size or fewer --frames; {stays}"
    return f"{error}; {stays}"


def _close(folder: "Folder", result: "Result") -> int:
    from pipeline.auditing.layout import human_bytes

    print(
        f"{result.samples} samples encoded, {len(result.failures)} left out; {result.shards} shards, {human_bytes(result.bytes)}, "
        f"{folder.encoding.frames} frames of {folder.encoding.size[0]}x{folder.encoding.size[1]} -> {folder.output}"
    )
    for sample_id, failure in list(result.failures.items())[:10]:
        print(f"left out: {sample_id}: {failure.reason}: {failure.message}", file=sys.stderr)
    if any(failure.reason.startswith("E_") for failure in result.failures.values()):
        print("after repairing the input, --retry-errors encodes the missing samples", file=sys.stderr)
    return DONE if result.samples else FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.encode_latents",
        description="Encode the videos and captions of curated shards once, into shards of latents and text embeddings.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="output folder of pipeline.curate: a path or an fsspec URL")
    parser.add_argument("--selection", metavar="NAME", help="only the samples of DIR/selections/NAME.txt or .parquet")
    parser.add_argument("--split", metavar="NAME", help="only samples of this split")
    parser.add_argument("--base", required=True, metavar="NAME|PATH", help="cogvideox-2b, wan2.1-1.3b, tiny, ... or a folder of diffusers")
    parser.add_argument("--output", required=True, metavar="DIR2", help="where the shards go; run again with the same one to resume")
    parser.add_argument("--size", required=True, type=size, metavar="HxW", help="height x width of the encoded picture, e.g. 480x832")
    parser.add_argument(
        "--frames", type=count(1), metavar="N", help="frames of every video; shorter ones are left out (default: of the shortest)"
    )
    parser.add_argument("--frame-stride", type=count(1), default=1, metavar="N", help="take every N-th frame (default: 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="no", help="the base's arithmetic (default: no, float32)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    parser.add_argument("--limit", type=count(1), metavar="N", help="only the first N samples")
    parser.add_argument("--random-base", type=int, metavar="SEED", help="random weights of the true architecture (tests, benchmarks)")
    parser.add_argument("--retry-errors", action="store_true", help="encode shards again that miss samples by errors")
    parser.add_argument("--dry-run", action="store_true", help="say what would be encoded and how large it would be; write nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


if __name__ == "__main__":
    sys.exit(main())
