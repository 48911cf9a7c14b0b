"""What lies in an output, in a folder or on the store of the tests."""

import re
from pathlib import Path

from tests.storage.servers import BUCKET

CLOCKS = re.compile(r"manifest/units/.*|parts/u\d+-[0-9a-f]{16}\.parquet")  # they say when and where a unit ran


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not CLOCKS.fullmatch(name) and found[name] != expected[name]] == []


def objects(s3, prefix: str) -> dict[str, bytes]:
    return {key.removeprefix(prefix): data for key, data in s3.objects().items() if key.startswith(prefix)}


def put(s3, folder: Path, prefix: str) -> None:
    client = s3.client()
    for name, data in files(folder).items():
        client.put_object(Bucket=BUCKET, Key=prefix + name, Body=data)


def uploads(s3) -> list[str]:
    return [each["Key"] for each in s3.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())]
