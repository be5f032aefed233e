"""A policy as a SavedModel: observations in, actions for the environment out, without this package."""

import re
from pathlib import Path

import gymnasium
import tensorflow as tf

from tfppo.control.envs.environment import Observations
from tfppo.control.policies.encoders import action_mask_of, observation_dtype, observation_shape
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import WHOLE, Normalization
from tfppo.errors import UsageError, one_line
from tfppo.ops.nest import Nest
from tfppo.training.files import replacing

MEMORY = ("memory_h", "memory_c")
STARTS, SEED = "episode_starts", "seed"
MARK = "saved_model.pb"  # a folder that holds one may be replaced


def export_policy(
    policy: ControlPolicy,
    observation_space: gymnasium.Space,
    folder: Path | str,
    normalization: Normalization | None = None,
) -> None:
    """Writes a policy as a SavedModel with two signatures; an earlier one in the folder is replaced once it is whole.

        loaded = tf.saved_model.load(folder)
        actions = loaded.signatures["act"](observations=tf.constant(observations))["actions"]

    `act` takes the most probable actions. `sample` draws them and takes `seed`, int64 [2], too: another one for every
    call; noise that would last for several steps (gSDE's) is drawn anew with each. Both normalise observations by the
    statistics so far, leave out actions that an action_mask forbids, and give `actions` [B, ...] as the environment
    takes them: clipped or stretched to a Box, counted from a Discrete's start.

    Inputs are tensors [B, ...], B any: `observations` as the environment gives them, or each part of a Dict by its key
    (what cannot stand in a name becomes _); Boxes as float32, images as uint8, choices as int32.

    A policy that remembers the episode also takes and gives `memory_h` and `memory_c`, float32 [B, U]: give zeros at
    first and then what came out. Where `episode_starts`, bool [B], is true the observation is the first of a new
    episode, and what is remembered of the last one is forgotten before the policy acts.

    Args:
      policy: acts.
      observation_space: of one environment.
      folder: where to; None of its parents has to exist.
      normalization: of observations; None: they stay as they are.

    Raises:
      UsageError: if the folder holds something else or cannot be written to, or two inputs would have the same name.
    """
    exported = _Exported(policy, observation_space, normalization or Normalization())
    specs = input_specs(policy, observation_space)
    signatures = {
        "act": exported.act.get_concrete_function(**specs),
        "sample": exported.sample.get_concrete_function(**{SEED: tf.TensorSpec([2], tf.int64)}, **specs),
    }
    size = sum(variable.dtype.size * variable.shape.num_elements() for variable in signatures["act"].variables)
    with replacing(Path(folder), MARK, size, tf.errors.OpError) as path:
        tf.saved_model.save(exported, str(path), signatures)


def input_specs(policy: ControlPolicy, observation_space: gymnasium.Space) -> dict[str, tf.TensorSpec]:
    """Returns the inputs of an exported policy's `act`, by name.

    Raises:
      UsageError: if two would have the same name.
    """
    specs = [(name, _spec(part)) for name, part in _parts(observation_space)]
    if policy.actor_memory_specs:
        specs += [*zip(MEMORY, policy.actor_memory_specs, strict=True), (STARTS, tf.TensorSpec([None], tf.bool))]
    names = [name for name, _ in specs]
    twice = sorted({name for name in names if names.count(name) > 1 or name == SEED})
    if twice:
        raise UsageError(
            f"two inputs of the exported policy would be called {twice[0]}: rename a key of the observation space "
            f"{one_line(observation_space)} (gymnasium.wrappers.TransformObservation)"
        )
    return dict(specs)


class _Exported(tf.Module):
    """The functions that are exported, and the variables that they read."""

    def __init__(self, policy: ControlPolicy, observation_space: gymnasium.Space, normalization: Normalization):
        super().__init__(name="policy")
        self._policy = policy
        self._actor = policy.actor  # whose variables are saved
        self._normalization = normalization
        self._space = observation_space

    @tf.function(autograph=False)
    def act(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Takes the most probable actions."""
        observations = self._observations(inputs)
        outputs, memory = self._policy.run_actor(observations, self._memory(inputs))
        actions = self._policy.head.distribution(outputs, action_mask_of(observations)).mode()
        return self._answer(actions, memory)

    @tf.function(autograph=False)
    def sample(self, seed: tf.Tensor, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws actions by a seed, int64 [2]."""
        observations = self._observations(inputs)
        outputs, memory = self._policy.run_actor(observations, self._memory(inputs))
        noise = self._policy.noise([tf.shape(next(iter(inputs.values())))[0]], seed)
        actions, _ = self._policy.head.act(outputs, noise, action_mask_of(observations))
        return self._answer(actions, memory)

    def _observations(self, inputs: dict[str, tf.Tensor]) -> Observations:
        """Normalised observations [B, ...]."""
        if isinstance(self._space, gymnasium.spaces.Dict):
            return self._normalization.observations({key: inputs[_input_name(key)] for key in self._space})
        return self._normalization.observations(inputs[WHOLE])

    def _memory(self, inputs: dict[str, tf.Tensor]) -> Memory:
        """The actor's memory [B, ...], zero where an episode starts."""
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
    """The key as TensorFlow can name an input."""
    name = re.sub(r"\W", "_", key, flags=re.ASCII)
    return name if name[:1].isalpha() else f"arg_{name}"


def _spec(space: gymnasium.Space) -> tf.TensorSpec:
    return tf.TensorSpec([None, *observation_shape(space)], observation_dtype(space))


def model_graph(policy: ControlPolicy) -> bytes:
    """The actor and the critic as a serialised GraphDef."""
    models = policy.actor, policy.critic
    specs = [tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype, x.name), model.input) for model in models]

    @tf.function(autograph=False, input_signature=specs)
    def actor_and_critic(for_actor: Nest, for_critic: Nest) -> tuple[Nest, Nest]:
        return policy.actor(for_actor), policy.critic(for_critic)

    return actor_and_critic.get_concrete_function().graph.as_graph_def().SerializeToString()
