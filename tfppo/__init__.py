"""PPO for control and for language models in TensorFlow 2 and Keras 3.

The public names are imported on first use, so that the command line answers before TensorFlow is loaded.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "PPO": "tfppo.article",
    "PPOLearner": "tfppo.ppo.learner",
    "rollout_dataset": "tfppo.training.pipeline",
    "ControlTrainer": "tfppo.control.trainer",
    "make_control_config": "tfppo.control.recipes",
    "register_environment": "tfppo.control.envs.environment",
    "ActorCriticPolicy": "tfppo.control.policies.actor_critic",
    "export_policy": "tfppo.control.export",
    "make_actor": "tfppo.control.policies.networks",
    "make_critic": "tfppo.control.policies.networks",
    "TextTrainer": "tfppo.text.trainer",
    "train_text": "tfppo.text.run",
    "Task": "tfppo.text.tasks.task",
    "register_task": "tfppo.text.tasks.task",
    "load_preset": "tfppo.text.models.presets",
    "TextConfig": "tfppo.text.config",
    "TextRunConfig": "tfppo.text.config",
    "make_text_config": "tfppo.text.config",
    "ControlConfig": "tfppo.control.config",
    "ControlRunConfig": "tfppo.control.config",
    "PPOConfig": "tfppo.ppo.config",
    "RunConfig": "tfppo.training.config",
    "UsageError": "tfppo.errors",
    "Batch": "tfppo.ppo.types",
    "ActionEvaluation": "tfppo.ppo.types",
    "Rollout": "tfppo.ppo.types",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tfppo' has no attribute {name!r}; its public names are {', '.join(_PUBLIC)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
