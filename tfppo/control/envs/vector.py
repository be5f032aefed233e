"""Vector environments that are stepped from Python: gymnasium's, and in-graph ones in the same form."""

from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf
from gymnasium.spaces import flatdim
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS, Environment, Observations, registered_id
from tfppo.control.envs.envpool import EnvPoolVectorEnv
from tfppo.control.envs.episode_replay import Replayable
from tfppo.control.envs.episodes import Episodes, Transition, start_episodes, step_episodes
from tfppo.control.envs.workers import WorkerVectorEnv
from tfppo.errors import UsageError
from tfppo.ops.random import fold_in

EXTRAS = ("box2d", "mujoco")  # of gymnasium, and of setup.cfg


def make_vector_environments(env: str, num_envs: int, vectorization: str, double_buffer: bool) -> list[VectorEnv]:
    """`num_envs` environments as a collector takes them: as one, or (`double_buffer`) as two halves that take turns.

    The other arguments and the errors are those of `make_vector_environment`.
    """
    sizes = [(num_envs + 1) // 2, num_envs // 2] if double_buffer else [num_envs]
    return [make_vector_environment(env, size, vectorization) for size in sizes if size]


def make_vector_environment(
    env: str,
    num_envs: int,
    vectorization: str = "sync",
    autoreset: AutoresetMode = AutoresetMode.NEXT_STEP,
    **options: Any,
) -> VectorEnv:
    """`num_envs` copies of gymnasium's environment `env`, or of an in-graph one that gymnasium does not know.

    Args:
      env: its id, or module:id (see `environments.registered_id`).
      num_envs: B.
      vectorization: "native": all of them in one NumPy program, where the environment has one; "sync": one after the
        other in this process; "async": each in a process of its own; "envpool": EnvPool's
        environments of this id, in threads; "auto": native where there is one, otherwise sync.
      autoreset: how new episodes begin.
      **options: of each environment, such as render_mode.

    Raises:
      UsageError: if its module cannot be imported, or gymnasium has no such environment, cannot make it, or has no
        native form of it; in one line.
    """
    name = registered_id(env)
    if is_only_in_graph(env):
        return InGraphVectorEnv(IN_GRAPH_ENVIRONMENTS[name](), num_envs)
    if vectorization == "envpool":
        return EnvPoolVectorEnv(name, num_envs)
    try:
        spec = gymnasium.registry.get(name)
        has_native = spec is not None and spec.vector_entry_point is not None
        if vectorization == "native" and not has_native:
            raise UsageError(f"{env} has no natively vectorised form: use --vectorization sync or async")
        if vectorization in ("auto", "native") and has_native and autoreset == AutoresetMode.NEXT_STEP:
            return gymnasium.make_vec(name, num_envs, "vector_entry_point", **options)
        if vectorization == "async":
            return WorkerVectorEnv(name, num_envs, autoreset)
        return gymnasium.make_vec(
            name,
            num_envs,
            "sync",
            vector_kwargs={"autoreset_mode": autoreset},
            wrappers=(Replayable,),
            **options,
        )
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        for extra in (extra for extra in EXTRAS if f"gymnasium[{extra}]" in reason):
            reason = f"{extra} is not installed: make setup EXTRAS={extra}, or pip install 'gymnasium[{extra}]'"
        if name != env and isinstance(error, gymnasium.error.UnregisteredEnv):
            reason = (
                f"its module registers no {name}, be it by gymnasium.register or tfppo.register_environment ({reason})"
            )
        raise UsageError(f"cannot make environment {env!r}: {reason}") from None


def is_only_in_graph(env: str) -> bool:
    """Whether there is an in-graph environment of this id, and gymnasium has none: nothing then draws it."""
    name = registered_id(env)
    return name in IN_GRAPH_ENVIRONMENTS and name not in gymnasium.registry


def check_twin(env: str, environment: Environment) -> None:
    """Refuses an in-graph environment that gymnasium knows with other spaces: it would be judged on another task.

    Raises:
      UsageError: if the spaces differ in kind or size, or gymnasium cannot make its own.
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
                f"{env} has {what} {own} in the graph and {other} in gymnasium, which evaluates it: make them the "
                "same, or register yours under another id"
            )


def _form(space: gymnasium.Space) -> tuple[object, ...]:
    """A space's kind and size."""
    return type(space), space.shape, flatdim(space) if space.is_np_flattenable else None


def autoreset_mode(environment: VectorEnv) -> AutoresetMode:
    """How a vector environment starts new episodes.

    Raises:
      UsageError: if it does not say so.
    """
    mode = environment.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{m.name}" for m in AutoresetMode)
        raise UsageError(
            f"{environment} names no autoreset mode that is known (metadata['autoreset_mode'] is {mode!r}): "
            f"set it to one of {modes}"
        ) from None


class InGraphVectorEnv(VectorEnv):
    """An in-graph environment as a gymnasium vector environment: for evaluation, and to look at one step by step."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, environment: Environment, num_envs: int):
        self.environment = environment
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
        self._seed = fold_in(self._seed, 1) if seed is None else fold_in((seed, 0x6E7), 0)
        self._episodes = self._start(self._seed)
        return _to_numpy(self.environment.observe(self._episodes.state)), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self._steps += 1
        seed = fold_in(self._seed, self._steps)
        self._episodes, observations, transition = self._advance(self._episodes, tf.constant(actions), seed)
        ended = transition.terminated.numpy(), transition.truncated.numpy()
        return _to_numpy(observations), transition.rewards.numpy(), *ended, {}

    def _advanced(
        self, episodes: Episodes, actions: tf.Tensor, seed: tf.Tensor
    ) -> tuple[Episodes, Observations, Transition]:
        fresh = self.environment.reset(self.num_envs, fold_in(seed, 1))
        episodes, transition = step_episodes(self.environment, episodes, actions, fresh, fold_in(seed, 2))
        return episodes, self.environment.observe(episodes.state), transition


def _to_numpy(observations: Observations) -> np.ndarray | dict[str, np.ndarray]:
    return tf.nest.map_structure(lambda x: x.numpy(), observations)
