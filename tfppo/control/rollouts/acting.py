"""The compiled program in which a policy acts in environments that are stepped from Python."""

from typing import NamedTuple

import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import Normalization
from tfppo.execution.compilation import call_directly, compiled


class Turn(NamedTuple):
    """The inputs of the acting program in one step of B environments."""

    observations: Observations  # [B, ...], as the environments return them
    noise: tf.Tensor  # [T, B, ...], for all steps of the rollout
    time: tf.Tensor  # [], the step
    memory: Memory  # [B, ...]
    starts: tf.Tensor  # [B] bool, True: the step only starts a new episode


class ActingProgram:
    """Normalizes observations and samples the policy's actions.

    Inputs and outputs are flat lists of tensors: flattening a nest in every step would take longer than a small
    network.

    Args:
      policy: The policy that acts.
      normalization: Normalization of observations.
      example: Inputs with the shapes and dtypes of all steps.
      mode: Compilation mode: "xla", "graph" or "eager".
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
        """Acts in one step; `act` is the compiled version of this function.

        Args:
          *inputs: The flattened `Turn`.

        Returns:
          Tensors [B, ...] for the record: the policy's memory after the step (zero where the step only starts a new
          episode), the normalized parts of the observations, and the actions. One more tensor follows if the
          environments take other values than the recorded actions.
        """
        turn = tf.nest.pack_sequence_as(self._example, inputs)
        now = tf.gather(turn.noise, turn.time)  # XLA would compile noise[time] again for every step
        observations = self._normalization.observations(turn.observations)
        actions, _, memory = self._policy.step(observations, now, turn.memory)
        recorded = [*forget(memory, turn.starts), *self._normalization.measured(observations).values(), actions]
        to_environment = self._policy.to_environment(actions)
        return recorded if to_environment is actions else [*recorded, to_environment]

    def normalize_function(self, *shown: tf.Tensor) -> list[tf.Tensor]:
        """Normalizes observations; `normalize` is the compiled version of this function.

        Args:
          *shown: The flattened observations [B, ...], as the environments return them.

        Returns:
          The normalized parts of the observations, [B, ...] each.
        """
        observations = self._normalization.observations(tf.nest.pack_sequence_as(self._example.observations, shown))
        return list(self._normalization.measured(observations).values())
