"""The acting program of environments in Python: what they show goes in, actions come out, once a step."""

from typing import NamedTuple

import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import Normalization
from tfppo.execution.compilation import call_directly, compiled


class Turn(NamedTuple):
    """What the policy acts on in a step of all B environments."""

    observations: Observations  # [B, ...] as the environments show them
    noise: tf.Tensor  # [T, B, ...]
    time: tf.Tensor  # []
    memory: Memory  # [B, ...]
    starts: tf.Tensor  # [B] bool: the step only starts a new episode


class ActingProgram:
    """Normalises observations and lets a policy act on them.

    Tensors are given and returned one by one: taking nests apart would take longer than running a small network.

    Args:
      policy: acts.
      normalization: of the observations.
      example: a turn of the shapes and types of all turns.
      mode: "xla", "graph" or "eager".
    """

    def __init__(self, policy: ControlPolicy, normalization: Normalization, example: Turn, mode: str):
        self._policy = policy
        self._normalization = normalization
        self._example = example
        inputs = tf.nest.flatten(example)
        self.act = call_directly(compiled(self.act_function, mode), inputs)
        self.normalize = compiled(self.normalize_function, mode)
        actions = self.act(*inputs)[len(example.memory) + len(normalization.measured(example.observations))]
        self.actions_spec = tf.TensorSpec(actions.shape, actions.dtype)

    def act_function(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        """Acts in a turn; `act` is this function, compiled.

        Returns what is recorded, [B, ...] each: the policy's memory, zero where this step only starts a new episode;
        the parts of observations that were normalised; and actions. Behind them stands what the environments get, where
        that is not the actions themselves.
        """
        turn = tf.nest.pack_sequence_as(self._example, inputs)
        now = tf.gather(turn.noise, turn.time)  # XLA would compile noise[time] again for every time
        observations = self._normalization.observations(turn.observations)
        actions, _, memory = self._policy.step(observations, now, turn.memory)
        recorded = [*forget(memory, turn.starts), *self._normalization.measured(observations).values(), actions]
        to_environment = self._policy.to_environment(actions)
        return recorded if to_environment is actions else [*recorded, to_environment]

    def normalize_function(self, *shown: tf.Tensor) -> list[tf.Tensor]:
        """Normalises the parts of observations [B, ...] that are normalised, and returns them; `normalize` is this
        function, compiled."""
        observations = self._normalization.observations(tf.nest.pack_sequence_as(self._example.observations, shown))
        return list(self._normalization.measured(observations).values())
