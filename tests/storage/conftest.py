"""An object store for the tests of storage, empty for each of them."""

import pytest

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
