"""What every test directory may use."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster of two CPUs for the whole session, started as the ray executor starts its own."""
    import ray

    from pipeline.executors.ray import connect

    os.environ.pop("RAY_ADDRESS", None)  # never a cluster that somebody works on
    connect(workers=2)
    yield
    ray.shutdown()
