"""Exports a policy as a SavedModel, which maps observations to actions without this package."""

import re
from pathlib import Path

import gymnasium
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.envs.wrappers import ACTION_MASK
from tfppo.control.policies.empty_masks import has_mask, rows_without_action
from tfppo.control.policies.encoders import action_mask_of, observation_dtype, observation_shape
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import WHOLE, Normalization
from tfppo.errors import UsageError, one_line
from tfppo.ops.nest import Nest
from tfppo.training.file_errors import FILE_ERRORS
from tfppo.training.files import replacing

MEMORY = ("memory_h", "memory_c")
STARTS, SEED = "episode_starts", "seed"
MARK = "saved_model.pb"  # a folder that contains this file may be replaced


def export_policy(
    policy: ControlPolicy,
    observation_space: gymnasium.Space,
    folder: Path | str,
    normalization: Normalization | None = None,
) -> None:
    """Exports a policy as a SavedModel with the signatures `act` and `sample`.

    An older export in the folder is replaced after the new one is complete. Example::

        loaded = tf.saved_model.load(folder)
        actions = loaded.signatures["act"](observations=tf.constant(observations))["actions"]

    `act` returns the most probable actions. `sample` samples actions; it has one more input, `seed`, int64 [2], which
    must be different in every call. Noise that lasts for several steps in training (gSDE) is drawn in every call.

    Both normalize observations with the statistics of the training, exclude actions that an action_mask forbids, and
    return `actions` [B, ...] as the environment takes them: clipped or scaled to a Box, or counted from the start of a
    Discrete space.

    Inputs are tensors [B, ...] for any B: `observations`, or one input for each key of a Dict, with `_` for characters
    that a name cannot contain. Boxes are float32, images uint8, and discrete observations int32.

    The signatures of a recurrent policy have three more inputs: `memory_h` and `memory_c`, float32 [B, U], and
    `episode_starts`, bool [B]. The memory is zeros in the first call, and the output of the same name in later calls.
    Where `episode_starts` is True, the observation is the first of a new episode, and the memory is cleared before the
    policy acts.

    Args:
      policy: The policy.
      observation_space: The space of a single environment's observations.
      folder: The folder to write; its parents are created.
      normalization: Normalization of observations; None leaves them unchanged.

    Raises:
      UsageError: If the folder contains something else, if it cannot be written to, or if two inputs would have the
        same name.
    """
    exported = _Exported(policy, observation_space, normalization or Normalization())
    specs = input_specs(policy, observation_space)
    signatures = {
        "act": exported.act.get_concrete_function(**specs),
        "sample": exported.sample.get_concrete_function(**{SEED: tf.TensorSpec([2], tf.int64)}, **specs),
    }
    size = sum(variable.dtype.size * variable.shape.num_elements() for variable in signatures["act"].variables)
    with replacing(Path(folder), (MARK,), size, *FILE_ERRORS) as path:
        tf.saved_model.save(exported, str(path), signatures)


def input_specs(policy: ControlPolicy, observation_space: gymnasium.Space) -> dict[str, tf.TensorSpec]:
    """Returns the inputs of an exported policy's signature `act`, by name.

    Args:
      policy: The policy.
      observation_space: The space of a single environment's observations.

    Returns:
      The specs of the inputs, by name.

    Raises:
      UsageError: If two inputs would have the same name.
    """
    specs = [(name, _spec(part)) for name, part in _parts(observation_space)]
    if policy.actor_memory_specs:
        specs += [*zip(MEMORY, policy.actor_memory_specs, strict=True), (STARTS, tf.TensorSpec([None], tf.bool))]
    names = [name for name, _ in specs]
    twice = sorted({name for name in names if names.count(name) > 1 or name == SEED})
    if twice:
        raise UsageError(
            f"observation space {one_line(observation_space)} gives two inputs of the exported policy the name "
            f"{twice[0]}; names must be unique: rename a key (gymnasium.wrappers.TransformObservation)"
        )
    return dict(specs)


def how_to_use(policy: ControlPolicy, observation_space: gymnasium.Space, folder: Path) -> str:
    """Returns a line that says how to use the export of a policy.

    Args:
      policy: The policy.
      observation_space: The space of a single environment's observations.
      folder: The folder of the export.
    """
    specs = input_specs(policy, observation_space)
    inputs = ", ".join(f"{name}=..." for name in specs)
    line = (
        f'{folder} holds a SavedModel; use it with: policy = tf.saved_model.load("{folder}"), then '
        f'policy.signatures["act"]({inputs})["actions"]'
    )
    if MEMORY[0] not in specs:
        return line
    return line + (
        f"; {' and '.join(MEMORY)}: zeros [B, {specs[MEMORY[0]].shape[-1]}] in the first call, later the outputs "
        "of the same names; episode_starts: bool [B], True where an episode begins"
    )


class _Exported(tf.Module):
    """The exported functions and the variables that they use."""

    def __init__(self, policy: ControlPolicy, observation_space: gymnasium.Space, normalization: Normalization):
        super().__init__(name="policy")
        self._policy = policy
        self._actor = policy.actor  # tf.Module finds the variables to save here
        self._normalization = normalization
        self._space = observation_space

    @tf.function(autograph=False)
    def act(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the most probable actions."""
        observations = self._observations(inputs)
        outputs, memory = self._policy.run_actor(observations, self._memory(inputs))
        actions = self._policy.head.distribution(outputs, action_mask_of(observations)).mode()
        return self._answer(actions, memory)

    @tf.function(autograph=False)
    def sample(self, seed: tf.Tensor, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Samples actions with a seed, int64 [2]."""
        observations = self._observations(inputs)
        outputs, memory = self._policy.run_actor(observations, self._memory(inputs))
        noise = self._policy.noise([tf.shape(next(iter(inputs.values())))[0]], seed)
        actions, _ = self._policy.head.act(outputs, noise, action_mask_of(observations))
        return self._answer(actions, memory)

    def _observations(self, inputs: dict[str, tf.Tensor]) -> Observations:
        """Returns normalized observations [B, ...]."""
        if isinstance(self._space, gymnasium.spaces.Dict):
            if has_mask(self._space):
                empty = rows_without_action(inputs[ACTION_MASK], self._policy.head.sizes)
                tf.debugging.assert_equal(tf.reduce_any(empty), False, f"{ACTION_MASK} allows no action in a row")
            return self._normalization.observations({key: inputs[_input_name(key)] for key in self._space})
        return self._normalization.observations(inputs[WHOLE])

    def _memory(self, inputs: dict[str, tf.Tensor]) -> Memory:
        """Returns the actor's memory [B, ...], zero where an episode starts."""
        if not self._policy.actor_memory_specs:
            return ()
        return forget(tuple(inputs[name] for name in MEMORY), inputs[STARTS])

    def _answer(self, actions: tf.Tensor, memory: Memory) -> dict[str, tf.Tensor]:
        return {"actions": self._policy.to_environment(actions)} | dict(zip(MEMORY, memory, strict=False))


def _parts(space: gymnasium.Space) -> list[tuple[str, gymnasium.Space]]:
    if isinstance(space, gymnasium.spaces.Dict):
        return [(_input_name(key), part) for key, part in space.items()]
    return [(WHOLE, space)]


def _input_name(key: str) -> str:
    """Returns a key as a valid name of a TensorFlow input."""
    name = re.sub(r"\W", "_", key, flags=re.ASCII)
    return name if name[:1].isalpha() else f"arg_{name}"


def _spec(space: gymnasium.Space) -> tf.TensorSpec:
    return tf.TensorSpec([None, *observation_shape(space)], observation_dtype(space))


def model_graph(policy: ControlPolicy) -> bytes:
    """Returns the actor and the critic as a serialized GraphDef."""
    models = policy.actor, policy.critic
    specs = [tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype, x.name), model.input) for model in models]

    @tf.function(autograph=False, input_signature=specs)
    def actor_and_critic(for_actor: Nest, for_critic: Nest) -> tuple[Nest, Nest]:
        return policy.actor(for_actor), policy.critic(for_critic)

    return actor_and_critic.get_concrete_function().graph.as_graph_def().SerializeToString()
