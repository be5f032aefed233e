"""Small runs of each kind for tests of replicas, and a program that trains them in one process.

`replica_runs.py FOLDER PRESET KIND ...` trains runs of the given kinds and saves their weights in FOLDER. With
`mirrored` before the first kind, the process has two devices.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

SHAPE = {"num_envs": 4, "rollout_length": 16, "total_steps": 192, "hidden_units": (8,), "eval_episodes": 0}


def control(distribute="none", control=None, mode="graph", **ppo):
    """Returns the trainer of a small control run with three iterations."""
    from tfppo.control.config import ControlConfig, ControlRunConfig
    from tfppo.control.trainer import ControlTrainer
    from tfppo.ppo.config import PPOConfig
    from tfppo.training.config import RunConfig

    modes = {"compile_rollout": mode, "compile_update": mode}
    return ControlTrainer(
        ControlRunConfig(
            RunConfig(seed=3, device="cpu", distribute=distribute, **modes),
            ControlConfig(**SHAPE | (control or {})),
            PPOConfig(**{"minibatch_size": 32, "num_epochs": 2, "learning_rate": 0.01} | ppo),
        )
    )


def text(preset, distribute="none", **settings):
    """Returns the trainer of a small text run with two iterations."""
    from tfppo.text.defaults import make_text_config
    from tfppo.text.trainer import TextTrainer

    return TextTrainer(
        make_text_config(
            preset=Path(preset),
            task="length",
            distribute=distribute,
            device="cpu",
            iterations=2,
            batch_size=8,
            minibatch_size=4,
            response_length=6,
            num_micro_batches=2,
            learning_rate=3e-3,
            compile_rollout="graph",
            compile_update="graph",
            **settings,
        )
    )


def in_chunks(preset, where):
    """Returns the trainer of a text run that computes logits in chunks and layers again if it is distributed."""
    from tfppo.text.models import vocabulary

    trainer = text(preset, where, rematerialize=where != "none")
    if where != "none":  # in a process of its own
        vocabulary.MAX_LOGITS = 5 * trainer.policy.model.vocabulary_size
    return trainer


NORMALIZED = {"normalize_observations": True, "normalize_rewards": True}
STEPPED = {"backend": "gymnasium", "vectorization": "sync"}
# The only group of a rollout is divided among the replicas.
LEAVE_ONE_OUT = {"advantages": "rloo", "responses_per_prompt": 8, "loss_average": "sequences", "clip_ratio_high": 0.3}
KINDS = {
    "cartpole": lambda preset, where: control(where, NORMALIZED),
    "jitted": lambda preset, where: control(where, NORMALIZED, "xla"),
    "gymnasium": lambda preset, where: control(where, NORMALIZED | STEPPED, num_micro_batches=2),
    "recurrent": lambda preset, where: control(where, {"lstm_units": 4}, target_kl=0.003),
    "text": lambda preset, where: text(preset, where),
    "lora": lambda preset, where: text(preset, where, lora_rank=2, separate_critic=True),
    "rloo": lambda preset, where: text(preset, where, **LEAVE_ONE_OUT),
    "in_chunks": in_chunks,  # the last one: it changes the module
}


def train(kind, preset, distribute="none"):
    """Returns the variables of the trained models, and the metrics of each iteration without times."""
    from tfppo.training.run_folder import shared_settings

    trainer = KINDS[kind](preset, distribute)
    trainer.replicas.start(shared_settings(trainer.config), trainer.state)
    rows = [row for _, row in trainer.iterations()]
    names = sorted(name for name in rows[0] if not name.startswith("time/"))
    weights = [np.asarray(variable.numpy()) for variable in trainer.policy.trainable_variables]
    return weights, np.array([[row[name] for name in names] for row in rows])


def save(path, weights, rows):
    np.savez(path, *weights, rows)


def load(path):
    """Returns what `train` returned."""
    with np.load(path) as arrays:
        *weights, rows = arrays.values()
    return weights, rows


if __name__ == "__main__":
    folder, preset, *kinds = sys.argv[1:]
    mirrored = kinds[:1] == ["mirrored"]
    if mirrored:
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for kind in kinds[mirrored:]:
        save(f"{folder}/{kind}.npz", *train(kind, preset, "mirrored" if mirrored else "multiworker"))
