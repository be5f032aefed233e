"""Chooses how a run is distributed: not at all, over several GPUs, or over several processes."""

import functools

import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.execution.mirrored import MirroredReplicas
from tfppo.execution.multiworker import WorkerReplicas
from tfppo.execution.replicas import ALONE, Replicas
from tfppo.execution.tf_config import VARIABLE, Cluster, read_cluster


def make_replicas(setting: str, device: str) -> Replicas:
    """Makes the replicas of a run.

    "auto" is a rule: "multiworker" if TF_CONFIG names several workers, "mirrored" if the run is on a GPU and several
    GPUs are visible, and otherwise "none". With several workers, this call waits until all of them have started.

    Args:
      setting: "auto", "none", "mirrored" or "multiworker".
      device: The device of the run, "/GPU:0" or "/CPU:0".

    Returns:
      The replicas. With "none" there is one.

    Raises:
      UsageError: If there is only one worker or device for the setting, or if TF_CONFIG is invalid.
    """
    kind = device[1:4]
    if setting == "none":
        return ALONE
    if setting in ("auto", "multiworker"):
        cluster = read_cluster()
        if cluster is not None and len(cluster.workers) > 1:
            return _join(cluster, device)
        if setting == "multiworker":
            raise UsageError(
                f"distribute is multiworker, but {VARIABLE} does not name two or more workers: set {VARIABLE}, or "
                "leave distribute out"
            )
    if setting == "mirrored" or kind == "GPU":
        devices = [f"/{kind}:{index}" for index in range(len(tf.config.list_logical_devices(kind)))]
        if len(devices) > 1:
            return MirroredReplicas(devices)
    if setting == "mirrored":
        raise UsageError(f"distribute is mirrored, but TensorFlow sees only one {kind}: leave distribute out")
    return ALONE


@functools.cache
def _join(cluster: Cluster, device: str) -> WorkerReplicas:
    """Joins the cluster. A process does so once, also if it trains several runs."""
    return WorkerReplicas(cluster, device)
