"""The same footage in every form that an input may have."""

import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.output import Output
from tests.storage.servers import BUCKET, S3Server


def zipped(folder: Path, path: Path, method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def tarred(folder: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        archive.add(folder, ".")
    return path


def uploaded(s3: S3Server, root: Path, folder: str) -> str:
    """Everything below the folder as objects of its name; their URL."""
    client = s3.client()
    for file in sorted((root / folder).rglob("*")):
        if file.is_file():
            client.upload_file(str(file), BUCKET, str(file.relative_to(root)))
    return f"{s3.url}/{folder}"


def outcome(output: Output) -> dict[str, Any]:
    """What must not depend on where the footage lay: rows by sample with verdict and scores, and sha256 of all members."""
    beside = {"unit", "step_keys", "shard", "media"}  # keys hold sizes and times, media says where the files lie
    rows = {row["sample_id"]: {name: value for name, value in row.items() if name not in beside} for row in output.rows}
    return {"rows": rows, "members": members(output)}


def members(output: Output) -> Mapping[str, str]:
    import pyarrow.dataset as ds

    shards = ds.dataset(output.path / "manifest" / "shards").to_table().to_pylist()
    return {f"{each['sample_id']}.{each['name']}": each["sha256"] for shard in shards for each in shard["members"]}
