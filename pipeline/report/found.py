"""The arrays that stages found in a row: in its shard when it was kept, else in the unit's part, which has them for what was rejected."""

import base64
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.auditing.archive import safe_shard_path
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.show import members_of
from pipeline.parts import list_parts, open_part, part_path
from pipeline.store import read_range

Arrays = Mapping[str, NDArray[Any]]

# A picture without an overlay, then.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class Found:
    """Looks up members by their stem, which is the name of the stage that made them."""

    def __init__(self, output: OutputFolder) -> None:
        self._output = output
        self._parts = list_parts(output.path)
        self._features = lru_cache(maxsize=64)(self._features_of)

    def arrays(self, row: Mapping[str, Any], stem: str) -> Arrays | None:
        """The arrays of member STEM.npz of the row; None where it has none, or they cannot be read."""
        try:
            data = self._packed(row, stem) if row["shard"] is not None else self._stored(row, stem)
            if data is None:
                return None
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except _DAMAGE:
            return None

    def _packed(self, row: Mapping[str, Any], stem: str) -> bytes | None:
        shard = safe_shard_path(self._output.path / "shards", row["shard"])
        member = next((each for each in members_of(self._output, row["shard"], row["sample_id"]) if each["name"] == f"{stem}.npz"), None)
        if shard is None or member is None:
            return None
        return read_range(shard, member["offset"], member["size"])

    def _stored(self, row: Mapping[str, Any], stem: str) -> bytes | None:
        key = dict(row["step_keys"] or ()).get(stem)
        result = self._features(row["unit"], row["parent_id"] or row["sample_id"]).get(str(key), {})
        encoded = result.get("ok", {}).get("members", {}).get(stem)
        return None if encoded is None else base64.b64decode(encoded)

    def _features_of(self, unit: str, sample_id: str) -> dict[str, Any]:
        """Step results of a source row, by key, from every part of its unit."""
        found: dict[str, Any] = {}
        for key in sorted(self._parts.get(unit, ())):
            rows = open_part(part_path(self._output.path, unit, key)).read(["sample_id", "features"])
            for features in rows.filter(ds.field("sample_id") == sample_id).column("features").to_pylist():
                found |= json.loads(features) if features else {}
        return found
