"""Two in-graph environments made from CartPole: one with an action mask, and one that needs a recurrent policy.

Commands that train them::

    tfppo train control --env examples.cartpole_variants:MaskedCartPole-v0
    tfppo train control --env examples.cartpole_variants:HalfBlindCartPole-v0 --lstm-units 64 --total-steps 400000 \
        --minibatch-size 512
"""

import gymnasium
import tensorflow as tf

from tfppo import register_environment
from tfppo.control.envs.classic import CartPole


class MaskedCartPole(CartPole):
    """CartPole with four actions, of which two are allowed at a time.

    Actions 0 and 1 push the cart left and right while it is left of the center; actions 2 and 3 do so elsewhere. An
    action that is not allowed ends the episode.

    The observation is a Dict. Its entry "action_mask" tells which actions are allowed; the policy samples only these.
    """

    def __init__(self):
        super().__init__()
        parts = {"state": self.observation_space, "action_mask": gymnasium.spaces.MultiBinary(4)}
        self.observation_space = gymnasium.spaces.Dict(parts)
        self.action_space = gymnasium.spaces.Discrete(4)

    def observe(self, state):
        return {"state": state, "action_mask": tf.cast(self._allowed(state), tf.int32)}

    def step(self, state, actions, seed):
        is_allowed = tf.gather(self._allowed(state), actions, batch_dims=1)
        state, rewards, terminated = super().step(state, actions % 2, seed)
        return state, tf.where(is_allowed, rewards, 0.0), terminated | ~is_allowed

    @staticmethod
    def _allowed(state):
        is_left = state[:, :1] < 0
        return tf.concat([is_left, is_left, ~is_left, ~is_left], axis=1)  # [B, 4]


class HalfBlindCartPole(CartPole):
    """CartPole without velocities in the observation; a policy needs a memory to infer them."""

    def __init__(self):
        super().__init__()
        space = self.observation_space
        self.observation_space = gymnasium.spaces.Box(space.low[::2], space.high[::2])

    def observe(self, state):
        return state[:, ::2]


register_environment("MaskedCartPole-v0", MaskedCartPole)
register_environment("HalfBlindCartPole-v0", HalfBlindCartPole)
