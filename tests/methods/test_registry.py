"""Bases in folders: what is no folder of a base is said, not raised."""

from pathlib import Path

import pytest

from pipeline.bases.registry import BaseError, codec_of, load_base


@pytest.mark.parametrize("index", ["{", "[]", '"x"', "{}", '{"transformer": []}'])
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    for read in (load_base, codec_of):
        with pytest.raises(BaseError, match=r"model_index\.json is no index of a diffusers pipeline .* fetch the whole repository"):
            read(str(tmp_path))
