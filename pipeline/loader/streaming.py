"""Shards read from their beginning to their end with the official `webdataset` reader, without the manifest.

For those who want every sample once and no order of ours: the pipeline is made of webdataset's own parts and goes on with its
methods (`.shuffle(100)`, `.batched(4)`). Nothing is ever unpickled: members that only pickle can read are refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.loader.catalog import CatalogError
from pipeline.loader.fetch import ReadError
from pipeline.loader.frames import Footage
from pipeline.loader.sample import CAMERAS, Sample, Wanted, read_sample
from schemas.typed import from_json

if TYPE_CHECKING:
    import webdataset

_READ_AHEAD = 4 << 20
_PICKLES = (".pyd", ".pickle", ".pkl", ".pth", ".pt")


def stream(
    location: str,
    size: tuple[int, int],
    *,
    views: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    shards: Sequence[str] | None = None,
    handler: Callable[[Exception], bool] | None = None,
) -> "webdataset.FluidWrapper":
    """Every sample of an output folder (a path or an fsspec URL) as a `Sample` with its pictures at `size` (H, W).

    views, frames: positions, None for all. shards: names below DIR/shards, None for all of them; a plain web server cannot list
    them. handler: what webdataset does with a sample that cannot be read, e.g. `webdataset.warn_and_continue`; None raises.
    Ranks and DataLoader workers get whole shards: fewer shards than ranks times workers leave some without any.
    Raises CatalogError where there is no shard; while iterating ReadError and what webdataset raises.
    """
    import webdataset as wds
    from webdataset.tariterators import group_by_keys, tar_file_expander

    handler = handler or wds.reraise_exception
    urls = _shard_urls(location, shards)
    samples = wds.FluidWrapper(wds.SimpleShardList(urls)).compose(
        wds.split_by_node,
        wds.split_by_worker,
        partial(_opened, handler=handler),
        partial(tar_file_expander, handler=handler, select_files=_is_ours),
        partial(group_by_keys, handler=handler),
    )
    return samples.map(partial(_decoded, size=size, views=views, frames=frames), handler=handler)


def _shard_urls(location: str, shards: Sequence[str] | None) -> list[str]:
    import fsspec

    fs, root = fsspec.core.url_to_fs(str(location))
    folder = f"{root.rstrip('/')}/shards"
    if shards is None:
        try:
            paths = sorted(path for path in fs.find(folder) if path.endswith(".tar"))
        except OSError as error:
            raise CatalogError(f"{folder}: cannot be listed ({error}); name the shards") from error
    else:
        paths = [f"{folder}/{name}" for name in shards]
    if not paths:
        raise CatalogError(f"{folder}: holds no *.tar; give the --output folder of a finished pipeline.curate run")
    return [str(fs.unstrip_protocol(path)) for path in paths]


def _opened(sources: Iterable[dict[str, Any]], handler: Callable[[Exception], bool]) -> Iterator[dict[str, Any]]:
    """Shards as streams, through fsspec: webdataset's own opener would run `curl` in a shell for a URL."""
    import fsspec

    for source in sources:
        try:
            fs, path = fsspec.core.url_to_fs(source["url"])
            with fs.open(path, "rb", block_size=_READ_AHEAD, cache_type="readahead") as opened:
                yield {**source, "stream": opened}
        except OSError as error:
            if not handler(error):
                return


def _is_ours(name: str) -> bool:
    if name.lower().endswith(_PICKLES):
        raise ReadError(f"{name}: only pickle can read this, and a pickle may run any code; nothing of ours writes it; remove it")
    return True


def _decoded(members: dict[str, Any], size: tuple[int, int], views: Sequence[int] | None, frames: Sequence[int] | None) -> Sample:
    key, data = str(members["__key__"]), {name: value for name, value in members.items() if not name.startswith("__")}
    names = _view_ids(key, data)
    chosen = range(len(names)) if views is None else views
    if frames is None:
        shown = [Footage(value, f"{key}.{name}") for name, value in data.items() if name.startswith("view") and not name.endswith(".npz")]
        frames = range(min((len(each) for each in shown), default=0))
    return read_sample(key, names, Wanted(chosen, frames, size, cameras=CAMERAS in data and len(names) > 1), data)


def _view_ids(key: str, data: dict[str, bytes]) -> list[str]:
    try:
        return [str(view["view_id"]) for view in from_json(data["meta.json"])["views"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ReadError(f"{key}.meta.json: does not say which views there are: {error}") from error
