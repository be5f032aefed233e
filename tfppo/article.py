"""Defines `PPO`, the class of the article's sketch (section 5.2), with the same names and meaning.

The article is the Chinese text that tfppo began with; docs/article/sketch.md compares its sketch with this class. The
class uses the same learner as the rest of the package.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import keras
import numpy as np
import tensorflow as tf

from tfppo.control.config import ControlConfig
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.networks import make_actor, make_critic
from tfppo.control.rollouts.transitions import Transitions, make_transitions, transitions_to_batch
from tfppo.errors import UsageError, one_line
from tfppo.ops.random import fold_in
from tfppo.ppo.config import PPOConfig, Schedule
from tfppo.ppo.learner import PPOLearner
from tfppo.settings import check_value
from tfppo.training.config import RunConfig


class PPO:
    """PPO for one Gymnasium environment with discrete actions.

    Args:
      env: Gymnasium environment. None if only `act`, `test` and `train` are used.
      state_dim: Width of an observation.
      action_dim: Number of actions.
      learning_rate: Step size of Adam.
      clip_ratio: Epsilon of the clipped surrogate (Schulman et al. 2017, eq. 7).
      entropy_coeff: Coefficient of the entropy bonus.
      hidden_units: Widths of the hidden layers of the actor and of the critic.
      gae_lambda: Lambda of generalized advantage estimation (Schulman et al. 2016).
      num_epochs: Number of passes over the transitions per update.
      seed: Seed of the weights, the actions, the minibatches and the environment.

    Raises:
      UsageError: If a number is out of its bounds, or the spaces of the environment are not supported or do not match
        `state_dim` and `action_dim`.
    """

    def __init__(
        self,
        env: gymnasium.Env | None,
        state_dim: int,
        action_dim: int,
        learning_rate: float = 0.01,
        clip_ratio: float = 0.2,
        entropy_coeff: float = 0.01,
        *,
        hidden_units: tuple[int, ...] = (64, 64),
        gae_lambda: float = 0.95,
        num_epochs: int = 4,
        seed: int = 0,
    ):
        hidden_units = tuple(hidden_units) if isinstance(hidden_units, list) else hidden_units
        _check_whole(1, state_dim=state_dim, action_dim=action_dim)
        seed = int(seed) if isinstance(seed, np.integer) else seed
        RunConfig(seed=seed)  # raises if the seed is invalid
        ControlConfig(hidden_units=hidden_units)  # raises if the widths are invalid
        if env is not None:
            _check_environment(env, state_dim, action_dim)
        self.env = env
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.hidden_units = hidden_units
        self.seed = seed
        config = PPOConfig(
            learning_rate=learning_rate,
            learning_rate_schedule="constant",
            clip_ratio=clip_ratio,
            entropy_coeff=entropy_coeff,
            gae_lambda=gae_lambda,
            num_epochs=num_epochs,
            minibatch_size=32,
        )
        self.actor: keras.Model
        self.critic: keras.Model
        self.build_model()
        self._policy = ActorCriticPolicy(self.actor, self.critic)
        # With one state at a time, most of the time is overhead. XLA takes half the time of a graph: one kernel call.
        self._num_acts = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._sample = tf.function(self._sample_actions, autograph=False, jit_compile=True)
        self._greedy = tf.function(self._policy.greedy, autograph=False, jit_compile=True)
        self._make_learner(config, 1)

    def build_model(self) -> None:
        """Builds the Keras models `actor` and `critic`.

        The actor maps states [N, state_dim] to logits [N, action_dim]. The critic maps states to values [N, 1]. A
        subclass can override this method to build other models with these shapes.
        """
        observations = gymnasium.spaces.Box(-np.inf, np.inf, (self.state_dim,))
        actions = gymnasium.spaces.Discrete(self.action_dim)
        self.actor = make_actor(observations, actions, self.hidden_units, seed=self.seed)
        self.critic = make_critic(observations, self.hidden_units, seed=self.seed)

    def act(self, state: np.ndarray) -> np.ndarray:
        """Samples actions from the policy.

        Args:
          state: One state [state_dim], or states [N, state_dim].

        Returns:
          One action (scalar), or actions [N].

        Raises:
          UsageError: If `state` has another shape.
        """
        return self._for_states(self._sample, state)

    def test(self, state: np.ndarray) -> np.ndarray:
        """Returns the greedy actions, those with the highest probability.

        Args:
          state: One state [state_dim], or states [N, state_dim].

        Returns:
          One action (scalar), or actions [N].

        Raises:
          UsageError: If `state` has another shape.
        """
        return self._for_states(self._greedy, state)

    def train(
        self,
        state: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_state: np.ndarray,
        gamma: float,
        episode_len: int,
        *,
        terminated: np.ndarray,
        truncated: np.ndarray | None = None,
    ) -> dict[str, float]:
        """Performs one PPO update on transitions in time order, which `act` has collected since the last update.

        Args:
          state: States [N, state_dim].
          action: Actions, int [N].
          reward: Rewards [N].
          next_state: True successors of the states, [N, state_dim]. At the end of an episode, it is the final state of
            that episode, not the first state of the next episode.
          gamma: Discount factor.
          episode_len: Number of steps after which an episode is truncated. An episode is also truncated at the end of
            the batch, and where a successor differs from the next state.
          terminated: bool [N], True where an episode reached a terminal state.
          truncated: bool [N], True where the environment truncated an episode. None: only `episode_len` and the states
            determine it.

        Returns:
          Metrics, by name of `reporting.metrics.METRICS`.

        Raises:
          UsageError: If the shapes do not match, or actions, `gamma` or `episode_len` are out of range.
        """
        transitions = make_transitions(
            state,
            action,
            reward,
            next_state,
            terminated,
            truncated,
            gamma=gamma,
            episode_len=episode_len,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            multiple=self.config.minibatch_size,
        )
        metrics = self._learner.update(transitions)
        return {name: float(value) for name, value in metrics.items()}

    def learn(
        self,
        train_steps: int = 1000,
        batch_size: int = 32,
        episode_len: int = 100,
        gamma: float = 0.99,
        *,
        anneal: bool = False,
        verbose: bool = True,
    ) -> list[float]:
        """Trains with the outer loop of the sketch.

        Each of the `train_steps` iterations resets the environment, acts for `episode_len` steps and trains on these
        transitions. If an episode ends earlier, the next episode follows.

        Args:
          train_steps: Number of updates.
          batch_size: Number of transitions per minibatch. At least 2, because their advantages are whitened.
          episode_len: Number of steps per update, and the maximum length of an episode.
          gamma: Discount factor.
          anneal: Decreases the learning rate linearly to 0 over the updates (Huang et al. 2022, detail 4).
          verbose: Prints a line every 100 updates, as the sketch does.

        Returns:
          Total rewards of the episodes that ended or lasted `episode_len` steps, in time order.

        Raises:
          UsageError: If there is no environment, or a number is out of its bounds.
        """
        if self.env is None:
            raise UsageError("env is None; learn needs an environment: give one, as in PPO(gymnasium.make(...), ...)")
        _check_whole(1, train_steps=train_steps, episode_len=episode_len)
        _check_whole(2, batch_size=batch_size)
        check_value("gamma", gamma, "between 0 and 1", lambda v: 0 <= v <= 1)
        schedule: Schedule = "linear" if anneal else "constant"
        config = dataclasses.replace(self.config, minibatch_size=batch_size, learning_rate_schedule=schedule)
        self._make_learner(config, train_steps)
        totals: list[float] = []
        for train_step in range(train_steps):
            seed = self.seed if train_step == 0 else None
            state, action, reward, next_state, terminated, truncated = self._collect(episode_len, seed, totals)
            self.train(
                state,
                action,
                reward,
                next_state,
                gamma,
                episode_len,
                terminated=terminated,
                truncated=truncated,
            )
            if verbose and train_step % 100 == 0:
                latest = totals[-20:]
                print(
                    f"Step {train_step}: total reward = {np.mean(latest):.1f}, mean of {len(latest)} episodes",
                    flush=True,
                )
        return totals

    def _collect(self, num_steps: int, seed: int | None, totals: list[float]) -> tuple[np.ndarray, ...]:
        """Collects `num_steps` transitions after a reset, and appends the total rewards of episodes to `totals`."""
        rows: list[tuple[Any, ...]] = []
        assert self.env is not None  # checked by `learn`
        state, _ = self.env.reset(seed=seed)
        total, length = 0.0, 0
        for _ in range(num_steps):
            action = int(self.act(state))
            next_state, reward, terminated, truncated, _ = self.env.step(action)
            rows.append((state, action, reward, next_state, terminated, truncated))
            total, length, state = total + float(reward), length + 1, next_state
            if terminated or truncated or length == num_steps:
                totals.append(total)
                state, _ = self.env.reset()
                total, length = 0.0, 0
        return tuple(np.array(column) for column in zip(*rows, strict=True))

    def _make_learner(self, config: PPOConfig, num_iterations: int) -> None:
        self.config = config
        self._learner: PPOLearner[Transitions, tf.Tensor] = PPOLearner(
            self._policy,
            config,
            num_iterations,
            prepare=lambda transitions: transitions_to_batch(self._policy, transitions, config.gae_lambda),
            seed=self.seed,
            mode="graph",
        )

    def _sample_actions(self, states: tf.Tensor) -> tf.Tensor:
        seed = fold_in(tf.constant([self.seed, 0xAC7], tf.int32), self._num_acts.assign_add(1))
        return self._policy.distribution(states).sample(seed)

    def _for_states(self, choose: Callable[[tf.Tensor], tf.Tensor], state: np.ndarray) -> np.ndarray:
        """Chooses actions for states [N, state_dim], or for a single state."""
        states = np.asarray(state, np.float32)
        if states.ndim not in (1, 2) or states.shape[-1] != self.state_dim:
            raise UsageError(
                f"state has shape {states.shape}; it must be ({self.state_dim},) for one state, or "
                f"(N, {self.state_dim}) for N states"
            )
        actions = choose(tf.constant(np.atleast_2d(states))).numpy()
        return actions if states.ndim == 2 else actions[0]


def _check_whole(least: int, **given: int) -> None:
    for name, value in given.items():
        whole = f"a whole number, at least {least}"
        check_value(name, value, whole, lambda v: isinstance(v, int | np.integer) and v >= least)


def _check_environment(env: gymnasium.Env, state_dim: int, action_dim: int) -> None:
    if not isinstance(env.action_space, gymnasium.spaces.Discrete) or env.action_space.start != 0:
        space = one_line(env.action_space)
        raise UsageError(
            f"the action space is {space}; it must be Discrete and start at 0: use `tfppo train control` for others"
        )
    if env.observation_space.shape != (state_dim,):
        raise UsageError(
            f"state_dim is {state_dim} and the environment's states have shape {env.observation_space.shape}; they "
            "must be vectors with state_dim numbers: change state_dim, or use another environment"
        )
    if env.action_space.n != action_dim:
        raise UsageError(
            f"action_dim is {action_dim}; it must be {env.action_space.n}, the number of actions of the environment"
        )
