"""Vector environments that are stepped from Python: Gymnasium's, EnvPool's, and in-graph environments in this form."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.spaces import flatdim
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfppo.control.envs.checked import explaining_constructor, prepared
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, Environment, Observations
from tfppo.control.envs.envpool import EnvPoolVectorEnv
from tfppo.control.envs.episodes import Episodes, Transition, start_episodes, step_episodes
from tfppo.control.envs.options import Wrapper
from tfppo.control.envs.registration import registered_id
from tfppo.control.envs.workers import WorkerVectorEnv
from tfppo.errors import UsageError
from tfppo.ops.random import fold_in

NO_OPTIONS: Mapping[str, Any] = {}
EXTRAS = ("box2d", "mujoco")  # extras of the same names in Gymnasium and in setup.cfg


def make_vector_environments(
    env: str, num_envs: int, vectorization: str, double_buffer: bool, **options: Any
) -> list[VectorEnv]:
    """Makes the vector environments of a collector.

    Args:
      env: The environment ID.
      num_envs: Number of copies in all.
      vectorization: As for `make_vector_environment`.
      double_buffer: True makes two halves, which are stepped in turn.
      **options: As for `make_vector_environment`.

    Returns:
      One vector environment, or two.

    Raises:
      UsageError: As `make_vector_environment` does.
    """
    sizes = [(num_envs + 1) // 2, num_envs // 2] if double_buffer else [num_envs]
    firsts = [0, sizes[0]]
    return [
        make_vector_environment(env, size, vectorization, first_copy=first, **options)
        for size, first in zip(sizes, firsts, strict=False)
        if size
    ]


def make_vector_environment(
    env: str,
    num_envs: int,
    vectorization: str = "sync",
    autoreset: AutoresetMode = AutoresetMode.NEXT_STEP,
    *,
    first_copy: int = 0,
    wrappers: Sequence[Wrapper] = (),
    **options: Any,
) -> VectorEnv:
    """Makes `num_envs` copies of a Gymnasium environment, or of an in-graph one that Gymnasium does not have.

    Args:
      env: The environment ID, or `module:ID` (see `registration.registered_id`).
      num_envs: B.
      vectorization: "native": all copies in one NumPy program, if the environment has this form; "sync": one after the
        other in this process; "async": each copy in its own process; "envpool": EnvPool's environments with this ID, in
        threads; "auto": native if the environment has this form, sync otherwise.
      autoreset: How new episodes start.
      first_copy: Number of the first copy, for error messages.
      wrappers: Functions that wrap each copy, the innermost first. Only copies that are stepped one after the other or
        in processes can have them.
      **options: Arguments of each copy: those of its constructor, render_mode or max_episode_steps.

    Returns:
      The vector environment.

    Raises:
      UsageError: If the module cannot be imported, or if Gymnasium does not have the environment, cannot make it, or
        has no native form of it, or cannot wrap it.
    """
    name = registered_id(env)
    if wrappers and (is_only_in_graph(env) or vectorization in ("envpool", "native")):
        raise UsageError(
            f"wrappers are given, and {env} is not stepped one copy after the other: leave wrappers out, or use an "
            "environment of Gymnasium with --vectorization sync or async"
        )
    if is_only_in_graph(env):
        return InGraphVectorEnv(IN_GRAPH_ENVIRONMENTS[name](), num_envs, **options)
    if vectorization == "envpool":
        return EnvPoolVectorEnv(name, num_envs, **options)
    try:
        spec = gymnasium.registry.get(name)
        has_native = spec is not None and spec.vector_entry_point is not None
        if vectorization == "native" and not has_native:
            raise UsageError(f"vectorization is native and {env} has no native form: use --vectorization sync or async")
        if vectorization in ("auto", "native") and has_native and autoreset == AutoresetMode.NEXT_STEP and not wrappers:
            return _make_native(name, num_envs, options)
        if vectorization == "async":
            return WorkerVectorEnv(env, num_envs, autoreset, first_copy, wrappers, **options)
        numbers = itertools.count(first_copy)
        around: Any = (*wrappers, lambda copy: prepared(copy, env, next(numbers)))
        with explaining_constructor(env, options):
            return gymnasium.make_vec(
                name, num_envs, "sync", vector_kwargs={"autoreset_mode": autoreset}, wrappers=around, **options
            )
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        for extra in (extra for extra in EXTRAS if f"gymnasium[{extra}]" in reason):
            reason = f"{extra} is not installed: run make setup EXTRAS={extra}, or pip install 'gymnasium[{extra}]'"
        if name == env and isinstance(error, gymnasium.error.UnregisteredEnv):
            reason += f"; if another package has it, name the package, as in --env package:{name}"
        if name != env and isinstance(error, gymnasium.error.UnregisteredEnv):
            reason = (
                f"its module does not register {name} with gymnasium.register or tfppo.register_environment ({reason})"
            )
        raise UsageError(f"cannot make environment {env!r}: {reason}") from None


def _make_native(name: str, num_envs: int, options: dict[str, Any]) -> VectorEnv:
    """Makes the native form of an environment, without a time limit if its constructor takes none."""
    try:
        return gymnasium.make_vec(name, num_envs, "vector_entry_point", **options)
    except TypeError as error:
        if "max_episode_steps" not in str(error) or "max_episode_steps" not in options:
            raise
    others = {key: value for key, value in options.items() if key != "max_episode_steps"}
    return gymnasium.make_vec(name, num_envs, "vector_entry_point", **others)


def is_only_in_graph(env: str) -> bool:
    """Returns whether an in-graph environment has this ID, and no Gymnasium environment has it.

    Nothing can render such an environment.
    """
    name = registered_id(env)
    return name in IN_GRAPH_ENVIRONMENTS and name not in gymnasium.registry


def is_stepped_in_turn(env: str) -> bool:
    """Returns whether `make_vector_environment` steps copies of an environment one after the other by default."""
    spec = gymnasium.registry.get(registered_id(env))
    return spec is not None and spec.vector_entry_point is None


def time_limit(env: str, options: Mapping[str, Any] = NO_OPTIONS) -> int | None:
    """Returns the time limit of an episode in steps; None if there is none, or if only EnvPool knows it.

    Args:
      env: The environment ID.
      options: As for `make_vector_environment`; an argument or a wrapper of Gymnasium may set the limit.
    """
    named = [options.get("max_episode_steps")]
    named += [getattr(wrapper, "time_limit", None) for wrapper in options.get("wrappers", ())]
    limits = [limit for limit in named if limit]
    if limits:
        return min(limits)
    name = registered_id(env)
    if name in gymnasium.registry:
        return gymnasium.registry[name].max_episode_steps
    return IN_GRAPH_ENVIRONMENTS[name]().max_episode_steps if name in IN_GRAPH_ENVIRONMENTS else None


def check_twin(env: str, environment: Environment) -> None:
    """Checks that an in-graph environment has the same spaces as Gymnasium's environment of the same ID.

    Otherwise the final evaluation, which uses Gymnasium's environment, would be on another task.

    Args:
      env: The environment ID.
      environment: The in-graph environment.

    Raises:
      UsageError: If the spaces differ in kind or size, or if Gymnasium cannot make its environment.
    """
    if is_only_in_graph(env):
        return
    twin = make_vector_environment(env, 1)
    twin.close()
    spaces = {
        "observation_space": (environment.observation_space, twin.single_observation_space),
        "action_space": (environment.action_space, twin.single_action_space),
    }
    for what, (own, other) in spaces.items():
        if _form(own) != _form(other):
            raise UsageError(
                f"{env} has {what} {own} in the graph and {other} in Gymnasium, where policies are evaluated; they "
                "must be equal: change one, or register your environment under another ID"
            )


def _form(space: gymnasium.Space) -> tuple[object, ...]:
    """Returns the kind and the size of a space."""
    return type(space), space.shape, flatdim(space) if space.is_np_flattenable else None


def autoreset_mode(environment: VectorEnv) -> AutoresetMode:
    """Returns how a vector environment starts new episodes.

    Raises:
      UsageError: If its metadata do not say so.
    """
    mode = environment.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{m.name}" for m in AutoresetMode)
        raise UsageError(
            f"metadata['autoreset_mode'] of {environment} is {mode!r}; it must be one of {modes}: set it in the "
            "environment"
        ) from None


class InGraphVectorEnv(VectorEnv):
    """An in-graph environment as a Gymnasium vector environment, for evaluation and for use step by step.

    Args:
      environment: The in-graph environment.
      num_envs: Number of copies.
      max_episode_steps: Time limit of an episode, in steps. None: that of the environment.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, environment: Environment, num_envs: int, max_episode_steps: int | None = None):
        self.environment = environment
        self.max_episode_steps = max_episode_steps or environment.max_episode_steps
        self.num_envs = num_envs
        self.single_observation_space = environment.observation_space
        self.single_action_space = environment.action_space
        self.observation_space = batch_space(environment.observation_space, num_envs)
        self.action_space = batch_space(environment.action_space, num_envs)
        self._seed = fold_in((0, 0), 0)
        self._steps = 0
        self._start = tf.function(lambda seed: start_episodes(environment, num_envs, seed), autograph=False)
        self._advance = tf.function(self._advanced, autograph=False)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts new episodes; without a seed, their seed is derived from the last one."""
        self._seed = fold_in(self._seed, 1) if seed is None else fold_in((seed, 0x6E7), 0)
        self._episodes = self._start(self._seed)
        return _to_numpy(self.environment.observe(self._episodes.state)), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps all copies; a finished episode is reset in the next step."""
        self._steps += 1
        seed = fold_in(self._seed, self._steps)
        self._episodes, observations, transition = self._advance(self._episodes, tf.constant(actions), seed)
        ended = transition.terminated.numpy(), transition.truncated.numpy()
        return _to_numpy(observations), transition.rewards.numpy(), *ended, {}

    def _advanced(
        self, episodes: Episodes, actions: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Episodes, Observations, Transition]:
        fresh = self.environment.reset(self.num_envs, fold_in(seed, 1))
        episodes, transition = step_episodes(
            self.environment, episodes, actions, fresh, fold_in(seed, 2), self.max_episode_steps
        )
        return episodes, self.environment.observe(episodes.state), transition


def _to_numpy(observations: Observations) -> np.ndarray | dict[str, np.ndarray]:
    return tf.nest.map_structure(lambda x: x.numpy(), observations)
