"""An object store for the tests of storage, empty for each of them."""

import pytest

from pipeline.curate import DONE, main
from tests.engine import toy
from tests.storage.servers import s3_server


@pytest.fixture
def s3(monkeypatch):
    """This process and what it starts find it by their environment."""
    import fsspec
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        yield server
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """A recipe that keeps, rejects and fails, and its footage; what it comes to in a folder."""
    work = tmp_path_factory.mktemp("numbers")
    footage = toy.make_numbers(work / "in", 23)
    recipe = toy.recipe(work, touchy={"max_brightness": 0.015, "fail": [2]}, unit=4, target_mb=0.008)
    command = [str(recipe), f"--input=numbers={footage}", "--quiet", "--no-report", "--error-budget=1"]
    assert main([*command, f"--output={work / 'out'}", "--executor=inline"]) == DONE
    return command, work / "out"
