"""A node that goes away in the middle of a task, as spot nodes do. In a process of its own: the session has its cluster."""

import os
import subprocess
import sys

import pytest

DRIVER = """
import os, time
from ray.cluster_utils import Cluster

cluster = Cluster(head_node_args=dict(num_cpus=0, include_dashboard=False, object_store_memory=100 * 2**20), initialize_head=True)
node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
os.environ["RAY_ADDRESS"] = cluster.address

from pipeline.executors import Task
from pipeline.executors.factory import make_executor

executor = make_executor("ray")
executor.submit(Task("first", "executor_jobs:sleep", 0.1))
print("OUTCOME", [(each.key, each.state) for each in executor.wait(120.0)])
executor.submit(Task("second", "executor_jobs:sleep", 600.0))
assert executor.wait(3.0) == []
cluster.remove_node(node, allow_graceful=False)
print("OUTCOME", [(each.key, each.state) for each in executor.wait(120.0)])
executor.close()
cluster.shutdown()
"""


@pytest.mark.long
def test_a_task_on_a_node_that_goes_away_is_lost_and_not_to_blame() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.run([sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=280, check=False)
    said = [line for line in driver.stdout.splitlines() if line.startswith("OUTCOME")]
    assert said == ["OUTCOME [('first', 'done')]", "OUTCOME [('second', 'lost')]"], driver.stdout + driver.stderr
