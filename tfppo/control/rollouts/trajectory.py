"""The acting loop for in-graph environments: T steps of B environments."""

import tensorflow as tf

from tfppo.control.envs.environment import Environment
from tfppo.control.envs.episodes import Episodes, step_episodes
from tfppo.control.policies.policy import ControlPolicy, Memory, forget
from tfppo.control.rollouts.normalization import Normalization
from tfppo.ops.nest import Nest, map_tensors
from tfppo.ops.random import fold_in
from tfppo.ppo.types import Trajectory


def collect_trajectory(
    environment: Environment,
    policy: ControlPolicy,
    normalization: Normalization,
    episodes: Episodes,
    memory: Memory,
    noise: Nest,
    fresh: Nest,
    step_seed: tf.Tensor,
) -> tuple[Episodes, Memory, Trajectory]:
    """Collects T steps of B environments in one loop, which continues their episodes.

    Random numbers are drawn before the loop, because one large draw costs little more than the draw of one step. Draws
    inside the loop took more than half of a rollout's time in graph mode. Only stochastic dynamics draw inside the
    loop.

    Args:
      environment: The environment.
      policy: The policy that acts.
      normalization: Normalization of observations.
      episodes: The episodes of the B copies.
      memory: The policy's memory, [B, ...].
      noise: Random numbers for the policy, a nest of [T, B, ...].
      fresh: Initial states of new episodes, a nest of [T, B, ...].
      step_seed: Seed of stochastic dynamics.

    Returns:
      The episodes and the memory after the last step, and the trajectory.
    """
    length = tf.nest.flatten(noise)[0].shape[0]

    def advance(time: tf.Tensor, episodes: Episodes, memory: Memory) -> tuple[Episodes, Memory, Trajectory]:
        noise_now, fresh_now = map_tensors(lambda x: x[time], (noise, fresh))
        raw = environment.observe(episodes.state)
        observations = normalization.observations(raw)
        actions, distribution, memory = policy.step(observations, noise_now, memory)
        episodes, transition = step_episodes(
            environment, episodes, policy.to_environment(actions), fresh_now, fold_in(step_seed, time)
        )
        row = Trajectory(
            observations=observations,
            actions=actions,
            distribution=distribution,
            rewards=transition.rewards,
            terminated=transition.terminated,
            truncated=transition.truncated,
            mask=transition.mask,
            episode_returns=episodes.returns,
            episode_lengths=episodes.lengths,
            raw_observations=normalization.measured(raw),
        )  # [B, ...]
        return episodes, forget(memory, ~transition.mask), row

    _, _, example = advance(tf.constant(0), episodes, memory)  # only for its shapes: the compiler removes it
    arrays = map_tensors(lambda x: tf.TensorArray(x.dtype, size=length, element_shape=x.shape), example)

    def body(
        time: tf.Tensor, episodes: Episodes, memory: Memory, arrays: Trajectory
    ) -> tuple[tf.Tensor, Episodes, Memory, Trajectory]:
        episodes, memory, row = advance(time, episodes, memory)
        return time + 1, episodes, memory, tf.nest.map_structure(lambda a, x: a.write(time, x), arrays, row)

    _, episodes, memory, arrays = tf.while_loop(
        lambda time, *_: time < length, body, (tf.constant(0), episodes, memory, arrays)
    )
    trajectory = map_tensors(lambda a: a.stack(), arrays)  # [T, B, ...]
    raw = environment.observe(episodes.state)  # [B, ...]
    observed = trajectory.observations, trajectory.raw_observations
    last = normalization.observations(raw), normalization.measured(raw)
    observations, raw_observations = tf.nest.map_structure(
        lambda x, y: tf.concat([x, y[tf.newaxis]], axis=0), observed, last
    )  # [T + 1, B, ...]
    trajectory = trajectory._replace(observations=observations, raw_observations=raw_observations)
    return episodes, memory, trajectory
