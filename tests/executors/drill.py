"""Curates on a Ray cluster whose nodes come and go, and reports what the output came to.

Run as `python -m tests.executors.drill WORK losses|growth|blind` in a process of its own: the session that runs the tests has its
own cluster. Prints one JSON line.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import yaml

from pipeline.curate import main as curate
from stages.media import Media
from stages.stage import Findings, Item, Scorer, Tier, placement
from tests.engine.storm import digest
from tests.engine.toy import make_numbers
from tests.executors.heads import end_session, free_ports

MEMORY = 100 * 2**20
COUNT = 24
PREEMPTION = 2  # autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION


class Sites(Scorer):
    """Notes where each candidate is looked at, a line "NODE PID CANDIDATE", and takes its time over it."""

    name = "sites"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        log: str = placement("")
        seconds: float = placement(0.0)

    def score(self, item: Item, media: Media) -> Findings:
        if self.config.log:
            import ray

            node = ray.get_runtime_context().get_node_id()
            with Path(self.config.log).open("a") as log:
                log.write(f"{node} {os.getpid()} {item.scene.candidate.candidate_id}\n")
        time.sleep(self.config.seconds)
        return Findings()


def run(work: Path, executor: str, seconds: float = 0.0) -> int:
    """Curate WORK/in to WORK/EXECUTOR."""
    sites = {"log": str(work / "log") if executor == "ray" else "", "seconds": seconds}
    stages = [{"tests.executors.drill:Sites": sites}, {"tests.engine.toy:Touchy": {"max_brightness": 0.02, "fail": [7]}}]
    source = {"ingest": "tests.engine.toy:Numbers", "license": "CC0-1.0", "stages": stages}
    recipe = {"name": "toy", "units": {"size": 2}, "shards": {"target_mb": 0.01}, "sources": {"numbers": source}}
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    options = [f"--input=numbers={work / 'in'}", f"--output={work / executor}", f"--executor={executor}", "--no-report"]
    return curate([str(work / "recipe.yaml"), *options])


class Log:
    """Where candidates were looked at so far."""

    def __init__(self, work: Path) -> None:
        self.path = work / "log"

    def lines(self) -> list[tuple[str, int, str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [(node, int(pid), name) for node, pid, name in (line.split() for line in text.splitlines())]

    def next_on(self, node: str) -> tuple[int, str]:
        """The process and the candidate that it has just begun with, on that node: the first of a unit of two."""
        seen = len(self.lines())
        while True:
            for where, pid, name in self.lines()[seen:]:
                if where == node and int(name.lstrip("n")) % 2 == 0:
                    return pid, name
            time.sleep(0.02)


def losses(work: Path) -> dict[str, Any]:
    """Three nodes; one is killed with a unit on it, one is preempted with a unit on it, one is left."""
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    first, second, _ = (cluster.add_node(**node) for _ in range(3))
    log, interrupted = Log(work), []

    def disturb() -> None:
        interrupted.append(log.next_on(first.node_id)[1])
        cluster.remove_node(first, allow_graceful=False)
        pid, name = log.next_on(second.node_id)
        interrupted.append(name)
        assert GcsClient(address=cluster.address).drain_node(second.node_id, PREEMPTION, "spot", time.time_ns() // 10**6 + 1000)[0]
        os.kill(pid, signal.SIGTERM)  # as every process does when a machine goes down, the raylet a moment later
        cluster.remove_node(second, allow_graceful=False)

    code = beside(disturb, cluster.address, lambda: run(work, "ray", seconds=0.6))
    cluster.shutdown()
    times = Counter(name for _, _, name in log.lines())
    return {"code": code, "interrupted": [times[name] for name in interrupted]}


def beside(disturb: Callable[[], None], address: str, work: Callable[[], int]) -> int:
    os.environ["RAY_ADDRESS"] = address
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    code = work()
    thread.join(60)
    return code


def growth(work: Path) -> dict[str, Any]:
    """A head without CPUs, and an autoscaler that may start two nodes of one CPU. Not AutoscalingCluster, which runs `ray stop`."""
    port, client = free_ports(2)
    address = f"127.0.0.1:{port}"
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, "object_store_memory": MEMORY}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    provider = {"type": "fake_multinode", "gcs_address": address, "disable_node_updaters": True, "disable_launch_config_check": True}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    config = {"cluster_name": "growth", "max_workers": 2, "upscaling_speed": 1.0, "idle_timeout_minutes": 5, "provider": provider}
    config |= {"available_node_types": kinds, "head_node_type": "ray.head.default", "auth": {}, "file_mounts": {}}
    config |= {f"{name}_commands": [] for name in commands} | {"cluster_synced_files": [], "file_mounts_sync_continuously": False}
    config |= {"rsync_exclude": [], "rsync_filter": []}
    (work / "autoscaler.json").write_text(json.dumps(config))
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=0"]
    command += ["--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={client}"]
    command += [f"--object-store-memory={MEMORY}", f"--autoscaling-config={work / 'autoscaler.json'}"]
    environment = os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    head = subprocess.Popen(command, env=environment, start_new_session=True, stdout=2)
    try:
        await_head(address)
        os.environ["RAY_ADDRESS"] = address
        return {"code": run(work, "ray", seconds=0.4)}
    finally:
        end_session(head)


def await_head(address: str) -> None:
    from ray._raylet import GcsClient

    for _ in range(60):
        try:
            GcsClient(address=address).check_alive([], timeout=1)
            return
        except Exception:  # whatever Ray says of a head that is not up yet
            time.sleep(0.5)
    raise TimeoutError(f"no head at {address}")


def blind(work: Path) -> dict[str, Any]:
    """Two nodes; one has a folder of its own where the others have the output."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    (work / "ray").mkdir()
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--address={cluster.address}", "--num-cpus=1"]
    command = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'mount -t tmpfs none {work / "ray"} && "$@" & wait',
        "sh",
        *ray,
        f"--object-store-memory={MEMORY}",
        "--disable-usage-stats",
    ]
    other = subprocess.Popen(command, start_new_session=True, stdout=2)
    try:
        cluster.add_node(**node)
        os.environ["RAY_ADDRESS"] = cluster.address
        code = run(work, "ray", seconds=0.4)
        there = Path(f"/proc/{other.pid}/root{work / 'ray'}")  # as that node sees it
        assert os.path.ismount(there)
        return {"code": code, "elsewhere": os.listdir(there)}
    finally:
        cluster.shutdown()
        end_session(other)


def main(work: Path, scenario: str) -> None:
    make_numbers(work / "in", COUNT)
    assert run(work, "inline") == 0
    found = {"losses": losses, "growth": growth, "blind": blind}[scenario](work)
    rows = ds.dataset(work / "ray" / "manifest" / "samples").to_table(columns=["candidate_id", "status", "reasons"]).to_pylist()
    found |= {
        "same": digest(work / "ray") == digest(work / "inline"),
        "rows": sorted(row["candidate_id"] for row in rows) == [f"n{number:05d}" for number in range(COUNT)],
        "errors": {row["candidate_id"]: row["reasons"] for row in rows if row["status"] == "error"},
        "nodes": len({node for node, _, _ in Log(work).lines()}),
        "left": [path.name for path in (work / "ray").rglob(".tmp-*")],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
