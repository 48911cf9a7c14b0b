"""ray_cluster.yaml under Ray's own validation, which needs no cloud, and what we promise of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "ray_cluster.yaml"


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return validated(yaml.safe_load(CLUSTER.read_text()))


def test_no_unit_runs_on_the_head(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_with_and_without_gpu_scale_from_nothing_on_spot_nodes(cluster: dict[str, Any]) -> None:
    workers = {name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]}
    assert {kind["resources"].get("GPU", 0) for kind in workers.values()} == {0, 1}
    for kind in workers.values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= cluster["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert cluster["idle_timeout_minutes"] > 0


def test_every_node_is_set_up_from_the_hashed_lock(cluster: dict[str, Any]) -> None:
    locks = [remote for remote, local in cluster["file_mounts"].items() if Path(local).name == "requirements.lock"]
    installs = [each for each in cluster["setup_commands"] if "pip install" in each and f"-r {locks[0]}" in each]
    assert len(installs) == 1
    assert "--no-deps --require-hashes" in installs[0]
    for start in (cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]):
        assert "ulimit -n 65536" in start
        assert "RAY_AUTH_MODE=token" in start


def test_the_validation_is_one_that_can_fail() -> None:
    config = yaml.safe_load(CLUSTER.read_text())
    config["available_node_types"]["cpu_worker"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        validated(config)
