"""A trained policy for use without a trainer: from an environment's observations to actions for it.

It holds everything that turns an observation into an action: the normalization of observations, the actor, the mask of
forbidden actions, and the clipping, scaling or counting of actions.
"""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import keras
import numpy as np
import tensorflow as tf
import yaml

from tfppo.control.config import ControlConfig
from tfppo.control.envs.checked import bounds_of, is_outside
from tfppo.control.envs.environment import Observations
from tfppo.control.envs.space_records import record_of, space_of
from tfppo.control.envs.wrappers import ACTION_MASK, flat_observation
from tfppo.control.policies.empty_masks import has_mask, rows_without_action
from tfppo.control.policies.encoders import (
    action_mask_of,
    make_inputs,
    map_space,
    observation_dtype,
    observation_shape,
)
from tfppo.control.policies.heads import ActionHead, make_head
from tfppo.control.policies.policy import ControlPolicy, forget
from tfppo.control.rollouts.normalization import CLIP, WHOLE, Normalization, with_parts
from tfppo.errors import UsageError, one_line, shown
from tfppo.ops.random import fold_in
from tfppo.training.file_errors import FILE_ERRORS
from tfppo.training.files import replacing

MODEL, RECORD = "model.keras", "policy.yaml"

State: TypeAlias = tuple[np.ndarray, ...]
"""The memory of a recurrent policy after a step: two arrays float32 [B, U], h and c of the LSTM."""


@keras.saving.register_keras_serializable(package="tfppo")
class Standardize(keras.layers.Layer):
    """Normalizes one part of the observations with fixed statistics, and clips it to [-10, 10].

    Args:
      shape: Shape of one value.
    """

    def __init__(self, shape: tuple[int, ...], **kwargs: Any):
        super().__init__(trainable=False, **kwargs)
        self.shape = tuple(shape)
        self.mean = self.add_weight(shape=self.shape, initializer="zeros", trainable=False, name="mean")
        self.scale = self.add_weight(shape=self.shape, initializer="ones", trainable=False, name="scale")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Normalizes values [B, ...]."""
        return keras.ops.clip((keras.ops.cast(x, "float32") - self.mean) * self.scale, -CLIP, CLIP)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, for saving."""
        config = super().get_config() | {"shape": self.shape}
        del config["trainable"]
        return config


class Actions(NamedTuple):
    """The settings that decide how outputs of the model become actions."""

    space: gymnasium.Space
    box_policy: str  # as the setting of this name
    num_features: int  # for gSDE: width of the last hidden layer
    gsde_interval: int  # as the setting of this name

    def head(self) -> ActionHead:
        """Makes the action head."""
        return make_head(*self)


class TrainedPolicy:
    """A trained policy, which maps observations of an environment to actions for it.

    `tfppo.load_policy` makes it from a run's folder, or from what `ControlTrainer.save` wrote.

    Args:
      model: Maps observations [B, ...] as the environment returns them to the inputs of the action head. A recurrent
        model maps a list of observations, h [B, U] and c [B, U] to the inputs of the head, h and c.
      observation_space: The space of a single environment's observations.
      actions: The settings of the actions.
    """

    def __init__(self, model: keras.Model, observation_space: gymnasium.Space, actions: Actions):
        self.model = model
        self.observation_space = observation_space
        self.action_space = actions.space
        self._actions = actions
        self._head = actions.head()
        self._dtypes = map_space(observation_dtype, observation_space)
        bounds = ((key, bounds_of(part)) for key, part in _parts(observation_space))
        self._bounds = {key: each for key, each in bounds if each is not None}
        self._shapes = dict(_parts(map_space(observation_shape, observation_space)))
        self._act = tf.function(self._greedy, autograph=False, reduce_retracing=True)
        self._sample = tf.function(self._sampled, autograph=False, reduce_retracing=True)
        self._generator = np.random.default_rng()

    @property
    def is_recurrent(self) -> bool:
        """True if the policy has a memory of the episode."""
        return isinstance(self.model.input, list)

    def initial_state(self, batch_size: int = 1) -> State:
        """Returns the memory at the start of episodes.

        Args:
          batch_size: B.

        Returns:
          Two arrays of zeros, float32 [B, U]; an empty tuple for a policy without a memory.
        """
        if not self.is_recurrent:
            return ()
        return tuple(np.zeros([batch_size, x.shape[-1]], np.float32) for x in self.model.input[1:])

    def predict(
        self,
        observations: Any,
        state: State | None = None,
        episode_starts: Any = None,
        *,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> Any:
        """Chooses actions.

        Args:
          observations: One observation of the environment, or a batch [B, ...] of them; a dictionary for a Dict space.
          state: Recurrent policies: the memory after the last step. None starts new episodes.
          episode_starts: Recurrent policies: bool, or bool [B]. True where the observation is the first of a new
            episode; the memory is then cleared first. None means nowhere.
          deterministic: True takes the most probable actions; False samples them as in training. Noise that lasts for
            several steps in training (gSDE) is drawn in every call.
          seed: Seed of the samples. None draws other samples in every call.

        Returns:
          One action or a batch of actions, as NumPy values that the environment takes. A recurrent policy returns a
          pair: the actions, and the memory for the next call.

        Raises:
          UsageError: If the observations do not have the shape of the observation space, a part of a dictionary is
            missing, a discrete observation is not in its space, a mask allows no action, or the policy has no memory
            and `state` or `episode_starts` is given.
        """
        if not self.is_recurrent and not (state is None and episode_starts is None):
            raise UsageError("state or episode_starts is given, and the policy has no memory: leave them out")
        batch, is_single = self._batch(observations)
        size = len(next(iter(dict(_parts(batch)).values())))
        if has_mask(self.observation_space):
            rows = np.flatnonzero(rows_without_action(action_mask_of(batch), self._head.sizes))
            if rows.size:
                raise UsageError(f"{ACTION_MASK} allows no action in row {rows[0]}; it must allow at least one")
        memory = self._memory(state, episode_starts, size)
        if deterministic:
            actions, memory = self._act(batch, memory)
        else:
            drawn = self._generator.integers(2**31, size=2) if seed is None else fold_in((seed, 0xAC7), 0)
            actions, memory = self._sample(batch, memory, tf.cast(drawn, tf.int64))
        chosen = actions.numpy()[0] if is_single else actions.numpy()
        return (chosen, tuple(x.numpy() for x in memory)) if self.is_recurrent else chosen

    def save(self, path: Path | str) -> None:
        """Saves the policy to a folder, which `tfppo.load_policy` reads.

        The folder holds `model.keras`, the Keras model with the normalization, and `policy.yaml`, the spaces.

        Args:
          path: The folder. An older policy in it is replaced after the new one is complete.

        Raises:
          UsageError: If the folder holds something else, or cannot be written to.
        """
        record = {
            "format": 1,
            "observation_space": record_of(self.observation_space),
            "action_space": record_of(self.action_space),
            **{name: getattr(self._actions, name) for name in Actions._fields[1:]},
        }
        size = sum(variable.value.dtype.size * variable.value.shape.num_elements() for variable in self.model.weights)
        with replacing(Path(path), (RECORD,), size, *FILE_ERRORS) as folder:
            folder.mkdir()
            self.model.save(folder / MODEL)
            (folder / RECORD).write_text(yaml.safe_dump(record, sort_keys=False))

    def _batch(self, observations: Any) -> tuple[Observations, bool]:
        """Returns observations as tensors [B, ...], and whether a single one was given."""
        space = self.observation_space
        if isinstance(space, gymnasium.spaces.Dict):
            is_flat = isinstance(observations, dict) and set(space) <= set(observations)
            if isinstance(observations, dict | tuple) and not is_flat:
                observations = flat_observation(observations)
            keys = sorted(observations) if isinstance(observations, dict) else None
            if keys is None or not set(space) <= set(keys):
                given = f"have the keys {keys}" if keys is not None else f"are a {type(observations).__name__}"
                raise UsageError(f"the observations {given}; they must be a dictionary with the keys {sorted(space)}")
            parts = {key: np.asarray(observations[key]) for key in space}
        else:
            parts = {WHOLE: np.asarray(observations)}
        ranks = {key: x.ndim - len(self._shapes[key]) for key, x in parts.items()}
        fits = all(x.shape[ranks[key] :] == self._shapes[key] for key, x in parts.items() if ranks[key] in (0, 1))
        sizes = {x.shape[0] for x in parts.values()} if set(ranks.values()) == {1} else {1}
        if set(ranks.values()) not in ({0}, {1}) or not fits or len(sizes) > 1:
            shapes = [{key: x.shape for key, x in parts.items()}, self._shapes]
            found, wanted = [each if isinstance(space, gymnasium.spaces.Dict) else each[WHOLE] for each in shapes]
            raise UsageError(
                f"the observations have shape {found}; they must have shape {wanted} for one observation, or one more "
                "axis in front for a batch"
            )
        for key, bounds in self._bounds.items():
            if is_outside(parts[key], bounds):
                what = "the observations" if key == WHOLE else f"the part {key} of the observations"
                wanted = one_line(dict(_parts(space))[key])[:100]
                raise UsageError(f"{what} are {one_line(shown(parts[key]))}; they must be in {wanted}")
        is_single = set(ranks.values()) == {0}
        dtypes = dict(_parts(self._dtypes))
        tensors = {key: tf.constant(x[None] if is_single else x, dtypes[key]) for key, x in parts.items()}
        return (tensors if isinstance(space, gymnasium.spaces.Dict) else tensors[WHOLE]), is_single

    def _memory(self, state: State | None, episode_starts: Any, size: int) -> tuple[tf.Tensor, ...]:
        initial = self.initial_state(size)
        given = initial if state is None else tuple(np.asarray(x, np.float32) for x in state)
        starts = np.zeros(size, bool) if episode_starts is None else np.asarray(episode_starts, bool).reshape(-1)
        if [x.shape for x in given] != [x.shape for x in initial] or starts.shape != (size,):
            raise UsageError(
                f"state has shapes {[x.shape for x in given]} and episode_starts {starts.shape}; for {size} "
                f"observations they must be {[x.shape for x in initial]} and ({size},): see initial_state"
            )
        return forget(tuple(map(tf.constant, given)), tf.constant(starts))

    def _run(self, observations: Observations, memory: tuple[tf.Tensor, ...]) -> tuple[Any, tuple[tf.Tensor, ...]]:
        if not memory:
            return self.model(observations), ()
        outputs, *memory_after = self.model([observations, *memory])
        return outputs, tuple(memory_after)

    def _greedy(
        self, observations: Observations, memory: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        outputs, memory = self._run(observations, memory)
        actions = self._head.distribution(outputs, action_mask_of(observations)).mode()
        return self._head.to_environment(actions), memory

    def _sampled(
        self, observations: Observations, memory: tuple[tf.Tensor, ...], seed: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        outputs, memory = self._run(observations, memory)
        noise = self._head.noise([tf.shape(tf.nest.flatten(observations)[0])[0]], seed)
        actions, _ = self._head.act(outputs, noise, action_mask_of(observations))
        return self._head.to_environment(actions), memory


def trained_policy(
    policy: ControlPolicy,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    normalization: Normalization,
    control: ControlConfig,
) -> TrainedPolicy:
    """Makes a trained policy from the parts of a trainer.

    The model shares the weights of the actor, and has the statistics of now.

    Args:
      policy: The policy.
      observation_space: The space of a single environment's observations.
      action_space: The space of a single environment's actions.
      normalization: Normalization of observations.
      control: The settings.

    Returns:
      The trained policy.
    """
    features = control.hidden_units[-1] if control.hidden_units else 0
    actions = Actions(action_space, control.box_policy, features, control.gsde_interval)
    inputs = make_inputs(observation_space)
    measured = {}
    for key, x in normalization.measured(inputs).items():
        layer = Standardize(x.shape[1:], name=f"standardize_{key}".replace(" ", "_"))
        for variable, value in zip((layer.mean, layer.scale), normalization.mean_and_scale(key), strict=True):
            variable.assign(tf.cast(value, tf.float32))
        measured[key] = layer(x)
    seen = with_parts(inputs, measured)
    memory = [keras.Input(spec.shape[1:], name=f"memory_{n}") for n, spec in enumerate(policy.actor_memory_specs)]
    outputs = policy.actor([seen, *memory] if memory else seen)
    model = keras.Model([inputs, *memory] if memory else inputs, outputs, name="policy")
    return TrainedPolicy(model, observation_space, actions)


def read_policy(folder: Path) -> TrainedPolicy:
    """Reads a folder that `TrainedPolicy.save` wrote.

    Raises:
      UsageError: If a file is missing or damaged, or the model has a layer that Keras does not know.
    """
    try:
        record = yaml.safe_load((folder / RECORD).read_text())
        observation_space, action_space = (space_of(record[f"{name}_space"]) for name in ("observation", "action"))
        actions = Actions(action_space, *(record[name] for name in Actions._fields[1:]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{folder / RECORD} is damaged ({one_line(error)}): save the policy again") from None
    try:
        model = keras.saving.load_model(folder / MODEL, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"cannot load {folder / MODEL} ({one_line(error)[:300]}): if the model has layers of your own, import the "
            "module that registers them with keras.saving.register_keras_serializable first, or save the policy again"
        ) from None
    return TrainedPolicy(model, observation_space, actions)


def _parts(nest: Any) -> list[tuple[str, Any]]:
    """Returns the parts of observations, or of what belongs to them, with their keys."""
    return list(nest.items()) if isinstance(nest, dict | gymnasium.spaces.Dict) else [(WHOLE, nest)]
