"""Reads the environment variable TF_CONFIG, which names the processes that train a run together."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from tfppo.errors import UsageError, one_line

VARIABLE = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:12345", "10.0.0.2:12345"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True, slots=True)
class Cluster:
    """The workers of a run. Worker 0 is the chief, which writes the folder of the run."""

    workers: tuple[str, ...]  # host:port of each
    index: int  # of this process


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads the cluster from TF_CONFIG.

    Args:
      environment: The environment variables.

    Returns:
      The cluster, or None if TF_CONFIG is not set or names no cluster.

    Raises:
      UsageError: If TF_CONFIG is invalid. The message says why.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _unusable(f"it is not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise _unusable("it is not a JSON object")
    jobs = config.get("cluster")
    if not jobs:
        return None
    if not isinstance(jobs, dict) or set(jobs) != {"worker"}:
        raise _unusable(f"its cluster is {one_line(jobs)}, but it must have workers only")
    workers = jobs["worker"]
    if not isinstance(workers, list) or not workers or not all(map(_is_address, workers)):
        raise _unusable(f"its workers are {one_line(workers)}, but they must be a list of host:port")
    if len(set(workers)) < len(workers):
        raise _unusable(f"its workers are {one_line(workers)}, but each must be named once")
    task = config.get("task")
    if not isinstance(task, dict) or task.get("type") != "worker":
        raise _unusable(f"its task is {one_line(task)}, but it must have the type worker")
    index = task.get("index")
    if type(index) is not int or not 0 <= index < len(workers):
        raise _unusable(f"the index of its task is {one_line(index)}, but it must be from 0 to {len(workers) - 1}")
    return Cluster(tuple(workers), index)


def _is_address(worker: object) -> bool:
    if not isinstance(worker, str):
        return False
    host, _, port = worker.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536


def _unusable(reason: str) -> UsageError:
    return UsageError(f"{VARIABLE} is invalid: {' '.join(reason.split())}; a valid example: {EXAMPLE}")
