"""Keeps the names of version 0.1 importable, with a `DeprecationWarning`, until version 0.3."""

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")

NAMES = {  # public names of the package: old to new
    "control_run": "make_control_config",
    "text_run": "make_text_config",
    "ControlRun": "ControlRunConfig",
    "TextRun": "TextRunConfig",
    "Evaluation": "ActionEvaluation",
}
SETTINGS = {"kl_rule": "kl_controller", "kl_target": "adaptive_kl_target", "length": "max_length"}
_KEPT = {  # (old folder, new folder) of modules that moved but kept their own names
    ("", "ops"): "masking random divergences distributions normals returns losses",
    ("", "execution"): "xla_cache replicas mirrored multiworker distribute",
    ("", "ppo"): "types schedules objective learner",
    ("", "reporting"): "tensorboard diagnoses curves",
    ("", "training"): "pipeline loop checkpoints",
    ("", "cli"): "parsing seeds comparison startup",
    ("commands", "cli"): "bench models runs train",
    ("control", "control.envs"): "classic vector envpool workers snapshots archive",
    ("control.classic", "control.envs.classic"): "acrobot cartpole mountain_car pendulum",
    ("control", "control.policies"): "encoders networks lstm recurrent",
    ("control", "control.rollouts"): "normalization statistics gymnasium stepping fused transitions",
    ("text", "text.models"): "language_model gpt2 lstm transformer reference",
    ("text", "text.presets"): "vetting",
    ("text.models", "text.presets"): "vetting",
    ("text", "text.data"): "codec corpus tokenizer likelihood metrics",
    ("text", "text.rollouts"): "rollout sampling batch",
    ("data", "text.data"): "rebuild",
}
_RENAMED = {
    **{"state": "execution.variables", "cluster": "execution.tf_config", "guards": "ppo.guard", "data": "assets"},
    **{"sessions": "training.driver", "runs": "training.run_folder", "locks": "training.lock", "commands": "cli"},
    **{"modules": "training.user_modules", "placement": "execution.devices", "config": ""},
    "control.environments": "control.envs.environment",
    "control.replay": "control.envs.episode_replay",
    "control.actions": "control.policies.heads",
    "control.policy": "control.policies.actor_critic",
    "control.rollout": "control.rollouts.graph",
    "control.train": "control.trainer",
    "text.lora": "text.models.adapters",
    "text.preferences": "text.rewards.reward_model",
    "text.train": "text.trainer",
    "text.models.presets": "text.presets",
}


def _below_package(name: str) -> str:
    return f"tfppo.{name}".rstrip(".").replace("..", ".")


MODULES = {_below_package(old): _below_package(new) for old, new in _RENAMED.items()} | {
    _below_package(f"{old}.{name}"): _below_package(f"{new}.{name}")
    for (old, new), names in _KEPT.items()
    for name in names.split()
}


def new_name(name: str) -> str | None:
    """Returns the current name of a public name of version 0.1, and warns if the name is deprecated.

    Args:
      name: Name of the attribute of `tfppo`.

    Returns:
      The current name, or None if version 0.1 had no such public name or did not rename it.
    """
    if name in NAMES:
        _warn(f"tfppo.{name}", f"tfppo.{NAMES[name]}", stacklevel=4)
    return NAMES.get(name)


def with_new_names(settings: Mapping[str, T]) -> dict[str, T]:
    """Returns settings by their current names, and warns about each renamed setting.

    Args:
      settings: Values by current name or by name of version 0.1.
    """
    for name in SETTINGS.keys() & settings.keys():
        _warn(f"the setting {name}", SETTINGS[name], stacklevel=5)
    return {SETTINGS.get(name, name): value for name, value in settings.items()}


class MovedModules(MetaPathFinder, Loader):
    """Imports the current module, with a warning, when a module is imported by its name of version 0.1."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns a module spec for an old name, or None for any other name."""
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Replaces the old module by the current one in `sys.modules`."""
        old = module.__name__
        _warn(old, MODULES[old], stacklevel=3)
        sys.modules[old] = importlib.import_module(MODULES[old])


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is now called {new}; the old name will be removed in version 0.3", DeprecationWarning, stacklevel
    )
