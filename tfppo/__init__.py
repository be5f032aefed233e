"""PPO for control and for language models in TensorFlow 2 and Keras 3.

The public names are imported on first use, so that the command line can print its help without loading TensorFlow. The
first use of a name for language models asks TensorFlow for oneDNN, if nothing has imported TensorFlow before (see
`execution.onednn`).
"""

import importlib
import sys
from typing import TYPE_CHECKING

from tfppo import deprecated
from tfppo.execution.onednn import choose_onednn

if TYPE_CHECKING:  # the same names as in _PUBLIC, for editors and type checkers
    from tfppo.article import PPO as PPO
    from tfppo.control.config import ControlConfig as ControlConfig
    from tfppo.control.config import ControlRunConfig as ControlRunConfig
    from tfppo.control.envs.environment import register_environment as register_environment
    from tfppo.control.envs.wrappers import MaskFromInfo as MaskFromInfo
    from tfppo.control.export import export_policy as export_policy
    from tfppo.control.policies.actor_critic import ActorCriticPolicy as ActorCriticPolicy
    from tfppo.control.policies.networks import make_actor as make_actor
    from tfppo.control.policies.networks import make_critic as make_critic
    from tfppo.control.recipes import make_control_config as make_control_config
    from tfppo.control.run import train_control as train_control
    from tfppo.control.trainer import ControlTrainer as ControlTrainer
    from tfppo.errors import UsageError as UsageError
    from tfppo.ppo.config import PPOConfig as PPOConfig
    from tfppo.ppo.learner import PPOLearner as PPOLearner
    from tfppo.ppo.types import ActionEvaluation as ActionEvaluation
    from tfppo.ppo.types import Batch as Batch
    from tfppo.ppo.types import Rollout as Rollout
    from tfppo.saved_runs import evaluate as evaluate
    from tfppo.saved_runs import export as export
    from tfppo.saved_runs import generate as generate
    from tfppo.saved_runs import load_policy as load_policy
    from tfppo.saved_runs import resume as resume
    from tfppo.text.config import TextConfig as TextConfig
    from tfppo.text.config import TextRunConfig as TextRunConfig
    from tfppo.text.defaults import make_text_config as make_text_config
    from tfppo.text.presets.folder import load_preset as load_preset
    from tfppo.text.reward_model.config import RewardModelConfig as RewardModelConfig
    from tfppo.text.reward_model.config import RewardModelRunConfig as RewardModelRunConfig
    from tfppo.text.reward_model.run import reward_model as reward_model
    from tfppo.text.rewards.reward_model import RewardModel as RewardModel
    from tfppo.text.rollouts.rollout_file import read_rollouts as read_rollouts
    from tfppo.text.run import train_text as train_text
    from tfppo.text.sft.config import SFTConfig as SFTConfig
    from tfppo.text.sft.config import SFTRunConfig as SFTRunConfig
    from tfppo.text.sft.run import sft as sft
    from tfppo.text.tasks.definition.registry import register_task as register_task
    from tfppo.text.tasks.definition.task import Task as Task
    from tfppo.text.trainer import TextTrainer as TextTrainer
    from tfppo.training.config import RunConfig as RunConfig
    from tfppo.training.pipeline import rollout_dataset as rollout_dataset

__version__ = "0.2.0"

_PUBLIC = {
    "PPO": "tfppo.article",
    "PPOLearner": "tfppo.ppo.learner",
    "rollout_dataset": "tfppo.training.pipeline",
    "ControlTrainer": "tfppo.control.trainer",
    "train_control": "tfppo.control.run",
    "make_control_config": "tfppo.control.recipes",
    "register_environment": "tfppo.control.envs.environment",
    "MaskFromInfo": "tfppo.control.envs.wrappers",
    "ActorCriticPolicy": "tfppo.control.policies.actor_critic",
    "export_policy": "tfppo.control.export",
    "make_actor": "tfppo.control.policies.networks",
    "make_critic": "tfppo.control.policies.networks",
    "TextTrainer": "tfppo.text.trainer",
    "train_text": "tfppo.text.run",
    "sft": "tfppo.text.sft.run",
    "reward_model": "tfppo.text.reward_model.run",
    "RewardModel": "tfppo.text.rewards.reward_model",
    "resume": "tfppo.saved_runs",
    "evaluate": "tfppo.saved_runs",
    "generate": "tfppo.saved_runs",
    "export": "tfppo.saved_runs",
    "load_policy": "tfppo.saved_runs",
    "read_rollouts": "tfppo.text.rollouts.rollout_file",
    "Task": "tfppo.text.tasks.definition.task",
    "register_task": "tfppo.text.tasks.definition.registry",
    "load_preset": "tfppo.text.presets.folder",
    "TextConfig": "tfppo.text.config",
    "TextRunConfig": "tfppo.text.config",
    "SFTConfig": "tfppo.text.sft.config",
    "SFTRunConfig": "tfppo.text.sft.config",
    "RewardModelConfig": "tfppo.text.reward_model.config",
    "RewardModelRunConfig": "tfppo.text.reward_model.config",
    "make_text_config": "tfppo.text.defaults",
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

sys.meta_path.insert(0, deprecated.MovedModules())

if not TYPE_CHECKING:  # with __getattr__, a type checker would accept every name

    def __getattr__(name):
        public = name if name in _PUBLIC else deprecated.new_name(name)
        if public is None:
            raise AttributeError(f"module 'tfppo' has no attribute {name!r}; the public names are {', '.join(_PUBLIC)}")
        if _PUBLIC[public].startswith("tfppo.text."):
            choose_onednn(None, language_model=True)
        return getattr(importlib.import_module(_PUBLIC[public]), public)


def __dir__() -> list[str]:
    return __all__
