"""Do the hashes hold that say what an output folder was made of? Of the recipe, units, parts, shards' names and selections."""

from collections.abc import Iterator
from typing import Any

from pipeline.auditing.folder import OutputFolder
from pipeline.location import Location
from pipeline.parts import DamagedPart, meta_of, open_part, part_path, parts_folder, reading
from pipeline.selection import FOLDER, SelectionError, file_sha256, read_selection
from pipeline.shards import SHARD_VERSION
from pipeline.store import names, size_of, stable_hash


def check_origin(output: OutputFolder) -> Iterator[tuple[str, str]]:
    """(where, what is wrong). What a folder does not hold, such as parts that were removed, is not checked."""
    yield from _check_recipe(output.run)
    payload_keys: dict[str, str] = {}
    for unit in output.table("units", ["unit", "unit_key"]).to_pylist():
        yield from _check_part(output.path, unit["unit"], unit["unit_key"], payload_keys)
    yield from _check_shard_names(output, payload_keys)
    yield from _check_selections(output.path)


def _check_recipe(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    said = run.get("recipe_sha256")
    if said is not None and (found := stable_hash(run.get("recipe"))) != said:
        yield "run.json", f"recipe_sha256 is {said}, but that of its recipe is {found}"


def _check_part(output: Location, unit: str, unit_key: str, payload_keys: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The unit's key is that of what it was made of; its tar holds the bytes that its name says. Adds its samples' payload keys."""
    path = part_path(output, unit, unit_key)
    if size_of(path) is None:
        return
    where = f"parts/{path.name}"
    try:
        part = open_part(path)
        with reading(path):
            meta = meta_of(part)
            rows = part.read(columns=["sample_id", "payload_key"]).to_pylist()
    except DamagedPart:
        yield where, "is damaged; remove it, then run the same command again"
        return
    except OSError as error:
        yield where, f"cannot be read ({error}); run the same command again"
        return
    payload_keys |= {row["sample_id"]: row["payload_key"] for row in rows if row["payload_key"]}
    if (found := stable_hash(meta["key_parts"])[:16]) != unit_key:
        yield where, f"the unit's key is {unit_key}, but what it was made of has {found}"
    if meta["tar"] is None:
        return
    tar = parts_folder(output) / meta["tar"]
    if size_of(tar) is None:
        yield f"parts/{meta['tar']}", "is not there; a rerun would make it again"
    elif (digest := file_sha256(tar))[:8] != tar.stem.rsplit("-", 1)[-1]:
        yield f"parts/{tar.name}", f"sha256 is {digest}, its name says {tar.stem.rsplit('-', 1)[-1]}..."


def _check_shard_names(output: OutputFolder, payload_keys: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A shard's name holds a hash of the samples in it, in their order."""
    for shard in output.table("shards", ["shard", "members"]).to_pylist():
        ids = list(dict.fromkeys(member["sample_id"] for member in shard["members"]))
        if not all(name in payload_keys for name in ids):
            continue
        found = stable_hash([SHARD_VERSION, [[name, payload_keys[name]] for name in ids]])[:8]
        if found != (said := str(shard["shard"]).removesuffix(".tar").rsplit("-", 1)[-1]):
            yield f"shards/{shard['shard']}", f"its name ends in {said}, but the hash of what is in it begins with {found}"


def _check_selections(output: Location) -> Iterator[tuple[str, str]]:
    for file in names(output / FOLDER, ".json"):
        where = f"{FOLDER}/{file.removesuffix('.json')}.parquet"
        try:
            said = read_selection(output, file.removesuffix(".json")).rows_sha256
            found = file_sha256(output / where)
        except (SelectionError, OSError) as error:
            yield where, str(error)
            continue
        if found != said:
            yield where, f"sha256 is {found}, {file} says {said}"
