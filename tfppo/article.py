"""The document's class, modernised: the same names and meaning, on the same learner as everything else."""

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
    """PPO for one gymnasium environment with discrete actions.

    Args:
      env: a gymnasium environment, or None if only `train`, `act` and `test` are used.
      state_dim: width of an observation.
      action_dim: number of actions.
      learning_rate: Adam's step size.
      clip_ratio: epsilon of the clipped surrogate.
      entropy_coeff: weight of the entropy bonus.
      hidden_units: widths of the hidden layers of actor and critic.
      gae_lambda: lambda of generalised advantage estimation.
      num_epochs: passes over the transitions in an update.
      seed: of the weights, the actions, the minibatches and the environment.

    Raises:
      UsageError: if a number is out of its bounds, or the environment's spaces do not fit state_dim and action_dim,
        or are of a kind that is not supported.
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
        RunConfig(seed=seed)  # which checks it
        ControlConfig(hidden_units=hidden_units)
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
        # One state at a time is all overhead: XLA makes one kernel call of it, half the time of a graph.
        self._num_acts = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._sample = tf.function(self._sample_actions, autograph=False, jit_compile=True)
        self._greedy = tf.function(self._policy.greedy, autograph=False, jit_compile=True)
        self._make_learner(config, 1)

    def build_model(self) -> None:
        """Makes `actor` (states [N, state_dim] to logits [N, action_dim]) and `critic` (states to values [N, 1]).

        A subclass may make other Keras models of these shapes.
        """
        observations = gymnasium.spaces.Box(-np.inf, np.inf, (self.state_dim,))
        actions = gymnasium.spaces.Discrete(self.action_dim)
        self.actor = make_actor(observations, actions, self.hidden_units, seed=self.seed)
        self.critic = make_critic(observations, self.hidden_units, seed=self.seed)

    def act(self, state: np.ndarray) -> np.ndarray:
        """Samples an action for a state [state_dim], or one for each of states [N, state_dim]."""
        return self._for_states(self._sample, state)

    def test(self, state: np.ndarray) -> np.ndarray:
        """The greedy action for a state [state_dim], or one for each of states [N, state_dim]."""
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
        """One PPO update on transitions in time order, collected by `act` since the last update.

        Args:
          state: [N, state_dim].
          action: int [N].
          reward: [N].
          next_state: [N, state_dim], the true successors: where an episode ends, not the next one's start.
          gamma: discount factor.
          episode_len: steps after which an episode was cut short (truncated). The end of the batch cuts as well, and
            so does a successor that is not the next state.
          terminated: bool [N], where an episode came to its own end.
          truncated: bool [N], where the environment cut an episode short; None: only `episode_len` and the states say.

        Returns:
          metrics, named as in `metrics.METRICS`.

        Raises:
          UsageError: if the shapes do not fit together, or actions, gamma or episode_len are out of range.
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
        """The sketch's outer loop: `train_steps` times, act for `episode_len` steps from a fresh start, then train.

        An episode that terminates is followed by another one, until the `episode_len` steps are done.

        Args:
          train_steps: updates.
          batch_size: transitions in a minibatch, at least 2: their advantages are whitened.
          episode_len: steps in an episode at most, and in a batch of transitions.
          gamma: discount factor.
          anneal: let the learning rate go linearly to 0 over the updates [Huang et al. 2022, detail 4].
          verbose: print a line every 100 updates, as the sketch does.

        Returns:
          total rewards of the episodes that terminated or lasted `episode_len` steps, in time order.

        Raises:
          UsageError: if there is no environment, or a number is out of its bounds.
        """
        if self.env is None:
            raise UsageError("learn needs an environment: PPO(env, ...), with one from gymnasium.make")
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
        """`num_steps` transitions from a fresh start; appends the total rewards of whole episodes to `totals`."""
        rows: list[tuple[Any, ...]] = []
        assert self.env is not None  # `learn` has looked
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
        """Chooses for states [N, state_dim], or for a single state."""
        states = np.asarray(state, np.float32)
        if states.ndim not in (1, 2) or states.shape[-1] != self.state_dim:
            raise UsageError(
                f"state has shape {states.shape}: give one, ({self.state_dim},), or N of them, (N, {self.state_dim})"
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
        raise UsageError(f"action space {space} is not Discrete from 0; for others: tfppo train control")
    if env.observation_space.shape != (state_dim,):
        raise UsageError(
            f"state_dim is {state_dim}, but the environment's states have shape {env.observation_space.shape}"
        )
    if env.action_space.n != action_dim:
        raise UsageError(f"action_dim is {action_dim}, but the environment has {env.action_space.n} actions")
