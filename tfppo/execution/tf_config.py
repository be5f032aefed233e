"""The processes that train one run together, as the environment variable TF_CONFIG names them."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from tfppo.errors import UsageError, one_line

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers of a run, and which of them this process is. Worker 0 is the chief, who writes the run's folder."""

    workers: tuple[str, ...]  # host:port of each
    index: int  # of this one


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads the cluster that TF_CONFIG describes; None: it is not set, or names no cluster.

    Raises:
      UsageError: if it cannot be used, in one line that says why.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _unusable(f"no JSON ({error})") from None
    if not isinstance(config, dict):
        raise _unusable("no JSON object")
    jobs = config.get("cluster")
    if not jobs:
        return None
    if not isinstance(jobs, dict) or set(jobs) != {"worker"}:
        raise _unusable(f"its cluster is {one_line(jobs)}, and must name workers alone")
    workers = jobs["worker"]
    if not isinstance(workers, list) or not workers or not all(map(_is_address, workers)):
        raise _unusable(f"its workers are {one_line(workers)}, and must be a list of host:port")
    if len(set(workers)) < len(workers):
        raise _unusable(f"its workers are {one_line(workers)}, some of them named twice")
    task = config.get("task")
    if not isinstance(task, dict) or task.get("type") != "worker":
        raise _unusable(f"its task is {one_line(task)}, and must be of type worker")
    index = task.get("index")
    if type(index) is not int or not 0 <= index < len(workers):
        raise _unusable(f"its task's index is {one_line(index)}, and must be from 0 to {len(workers) - 1}")
    return Cluster(tuple(workers), index)


def _is_address(worker: object) -> bool:
    if not isinstance(worker, str):
        return False
    host, _, port = worker.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536


def _unusable(reason: str) -> UsageError:
    return UsageError(f"{VARIABLE} cannot be used: {' '.join(reason.split())}; it looks like this: {EXAMPLE}")
