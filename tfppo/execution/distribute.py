"""The choice of what a run is distributed over: nothing, several GPUs, or several processes."""

import functools

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.mirrored import MirroredReplicas
from tfppo.execution.multiworker import WorkerReplicas
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.execution.tf_config import VARIABLE, Cluster, read_cluster


def make_replicas(setting: str, device: str) -> Replicas:
    """Makes the replicas that "auto", "none", "mirrored" or "multiworker" stands for.

    "auto" is a rule: multiworker where TF_CONFIG names several workers, mirrored where several GPUs are visible and the
    run is on a GPU, otherwise none. Workers meet here, and wait until all of them are there.

    Args:
      setting: one of the four.
      device: of the run: "/GPU:0" or "/CPU:0".

    Raises:
      UsageError: if there is nothing to distribute over, or TF_CONFIG cannot be used.
    """
    kind = device[1:4]
    if setting == "none":
        return ALONE
    if setting in ("auto", "multiworker"):
        cluster = read_cluster()
        if cluster is not None and len(cluster.workers) > 1:
            return _join(cluster, device)
        if setting == "multiworker":
            raise UsageError(f"distribute is multiworker, but {VARIABLE} names no two workers: set it, or leave it out")
    if setting == "mirrored" or kind == "GPU":
        devices = [f"/{kind}:{index}" for index in range(len(tf.config.list_logical_devices(kind)))]
        if len(devices) > 1:
            return MirroredReplicas(devices)
    if setting == "mirrored":
        raise UsageError(f"distribute is mirrored, but the run is on {kind}, of which there is one: leave it out")
    return ALONE


@functools.cache
def _join(cluster: Cluster, device: str) -> WorkerReplicas:
    """Joins the cluster, once a process, however many runs it trains."""
    return WorkerReplicas(cluster, device)
