"""Tests the class of the article: its arguments, its errors, and that `train` is PPO on the given transitions."""

from types import SimpleNamespace

import gymnasium
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from support.refusal import refusal

from tfppo.article import PPO
from tfppo.control.rollouts.transitions import make_transitions, transitions_to_batch
from tfppo.errors import UsageError
from tfppo.ppo.objective import Coefficients, Normalizers


def random_transitions(count=50, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count + 1, 4)).astype(np.float32)
    terminated = rng.random(count) < 0.1
    return {
        "state": states[:-1],
        "action": rng.integers(0, 2, count),
        "reward": rng.normal(size=count).astype(np.float32),
        "next_state": states[1:],
        "terminated": terminated,
    }


def train(ppo, transitions, gamma=0.9, episode_len=10):
    order = ("state", "action", "reward", "next_state")
    arguments = [transitions[name] for name in order]
    return ppo.train(*arguments, gamma, episode_len, terminated=transitions["terminated"])


def make_batch(ppo, transitions, episode_len):
    options = {"gamma": 0.9, "episode_len": episode_len, "state_dim": 4, "action_dim": 2, "multiple": 32}
    return transitions_to_batch(ppo._policy, make_transitions(**transitions, **options), ppo.config.gae_lambda)


def weights(ppo):
    return [w.copy() for model in (ppo.actor, ppo.critic) for w in model.get_weights()]


def test_the_sketch_keeps_its_arguments_and_defaults():
    ppo = PPO(gymnasium.make("CartPole-v1"), 4, 2)
    assert (ppo.config.learning_rate, ppo.config.clip_ratio, ppo.config.entropy_coeff) == (0.01, 0.2, 0.01)
    assert isinstance(ppo.actor, keras.Model) and isinstance(ppo.critic, keras.Model)
    assert ppo.actor.output_shape == (None, 2) and ppo.critic.output_shape == (None, 1)


def test_act_samples_from_the_policy_and_test_is_greedy():
    ppo = PPO(None, 4, 2)
    ppo.actor.layers[-1].set_weights([np.zeros((64, 2)), np.log([0.8, 0.2])])
    states = np.zeros((5000, 4))
    first_draw = ppo.act(states)
    assert abs(first_draw.mean() - 0.2) < 0.02
    assert not ppo.test(states).any()
    assert ppo.act(np.zeros(4)).shape == () and ppo.test(np.zeros(4)) == 0
    first, second = ppo.act(states), ppo.act(states)
    assert (first != second).any()  # each call samples again
    twin = PPO(None, 4, 2)
    twin.actor.set_weights(ppo.actor.get_weights())
    assert (twin.act(states) == first_draw).all()  # the same seed samples the same actions


@pytest.mark.parametrize("episode_len", [4, 10, 1000])
def test_the_batch_is_gae_on_the_transitions(episode_len):
    ppo = PPO(None, 4, 2, gae_lambda=0.8)
    given = random_transitions()
    batch = make_batch(ppo, given, episode_len)
    values = ppo.critic(given["state"]).numpy()[:, 0]
    next_values = ppo.critic(given["next_state"]).numpy()[:, 0]
    truncated = np.zeros(50, bool)
    length = 0
    for t in range(50):
        length += 1
        truncated[t] = (length == episode_len or t == 49) and not given["terminated"][t]
        length = 0 if length == episode_len or given["terminated"][t] else length
    advantages, returns = reference.generalized_advantage_estimation(
        given["reward"], values, next_values, given["terminated"], truncated, 0.9, 0.8
    )
    assert batch.mask.numpy().tolist() == [True] * 50 + [False] * 14  # padded to whole minibatches of 32
    np.testing.assert_allclose(batch.advantages[:50], advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.returns[:50], returns, rtol=1e-4, atol=1e-5)


class Constant(gymnasium.Env):
    """All states are equal, so they do not show where an episode ends."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 1.0, False, False, {}


def test_learn_hands_on_where_the_environment_cut_an_episode_short(monkeypatch):
    seen = []
    ppo = PPO(gymnasium.wrappers.TimeLimit(Constant(), 5), 4, 2, num_epochs=1)
    note = SimpleNamespace(update=lambda transitions: seen.append(transitions) or {})
    monkeypatch.setattr(ppo, "_make_learner", lambda config, steps: setattr(ppo, "_learner", note))
    assert ppo.learn(train_steps=1, episode_len=20, verbose=False) == [5.0] * 4
    assert np.flatnonzero(seen[0].truncated).tolist() == [4, 9, 14, 19]


def test_without_a_mask_cuts_are_inferred_and_with_one_it_counts_too():
    transitions = random_transitions(8) | {"terminated": np.arange(8) == 5}
    options = {"gamma": 0.9, "episode_len": 100, "state_dim": 4, "action_dim": 2, "multiple": 1}
    mask = np.isin(np.arange(8), [2, 5])  # a terminated episode is not truncated
    for truncated, cuts in ((None, [7]), (mask, [2, 7])):
        made = make_transitions(**transitions, truncated=truncated, **options)
        assert np.flatnonzero(made.truncated).tolist() == cuts
    assert "truncated has shape (3,)" in refusal(lambda: make_transitions(**transitions, truncated=mask[:3], **options))


def test_padding_changes_nothing():
    ppo = PPO(None, 4, 2)
    batch = make_batch(ppo, random_transitions(), 10)
    counts = Normalizers(actions=tf.constant(50.0), values=tf.constant(50.0))
    spoilt = batch._replace(advantages=tf.where(batch.mask, batch.advantages, np.nan))
    loss_and_gradients = ppo._learner.objective._loss_and_gradients
    coefficients = Coefficients(clip_ratio=0.2, clip_ratio_high=0.2, entropy_coeff=0.01, kl_coeff=0.0)
    gradients = [loss_and_gradients(b, coefficients, counts)[1] for b in (batch, spoilt)]
    for gradient, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(gradient, other)


def test_train_updates_once_and_traces_once():
    ppo = PPO(None, 4, 2, num_epochs=1)
    before = weights(ppo)
    for seed in range(3):
        metrics = train(ppo, random_transitions(seed=seed))
    assert all((a != b).any() for a, b in zip(before, weights(ppo), strict=True))
    assert all(np.isfinite(value) for value in metrics.values())
    assert ppo._learner.update.experimental_get_tracing_count() == 1
    assert int(ppo._learner.iteration) == 3


def test_good_actions_become_more_probable():
    ppo = PPO(None, 4, 2, learning_rate=1e-3, entropy_coeff=0.0)
    given = random_transitions() | {"terminated": np.ones(50, bool)}
    given["reward"] = np.where(given["action"] == 1, 1.0, -1.0)
    probability = tf.nn.softmax(ppo.actor(given["state"]))[:, 1].numpy()
    for _ in range(5):
        train(ppo, given)
    assert tf.nn.softmax(ppo.actor(given["state"]))[:, 1].numpy().mean() > probability.mean() + 0.05


def test_successors_that_do_not_follow_cut_the_trace():
    state = np.arange(5.0)[:, None]
    next_state = state + 1
    next_state[1] = 77.0  # the environment was reset after this step
    transitions = make_transitions(
        state,
        np.zeros(5),
        np.zeros(5),
        next_state,
        terminated=np.array([False, False, False, True, False]),
        gamma=1.0,
        episode_len=100,
        state_dim=1,
        action_dim=2,
        multiple=5,
    )
    assert transitions.truncated.numpy().tolist() == [False, True, False, False, True]


@pytest.mark.slow
def test_learn_returns_the_totals_of_whole_episodes():
    ppo = PPO(gymnasium.make("CartPole-v1"), 4, 2, seed=3, num_epochs=1)
    totals = ppo.learn(train_steps=2, batch_size=16, episode_len=30, verbose=False)
    assert len(totals) >= 2 and all(1 <= total <= 30 for total in totals)
    assert int(ppo._learner.iteration) == 2 and ppo.config.minibatch_size == 16
    again = PPO(gymnasium.make("CartPole-v1"), 4, 2, seed=3, num_epochs=1)
    assert again.learn(train_steps=2, batch_size=16, episode_len=30, verbose=False) == totals


def test_learn_prints_a_line_every_hundred_steps(capsys):
    PPO(gymnasium.make("CartPole-v1"), 4, 2).learn(train_steps=1, episode_len=32)
    assert capsys.readouterr().out.startswith("Step 0: total reward = ")


def test_a_subclass_brings_its_own_models():
    class Linear(PPO):
        def build_model(self):
            self.actor = keras.Sequential([keras.Input((self.state_dim,)), keras.layers.Dense(self.action_dim)])
            self.critic = keras.Sequential([keras.Input((self.state_dim,)), keras.layers.Dense(1)])

    ppo = Linear(None, 4, 2)
    before = weights(ppo)
    train(ppo, random_transitions())
    assert len(before) == 4 and (before[0] != weights(ppo)[0]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros((50, 3))}, "state has shape (50, 3)"),
        ({"action": np.zeros(49)}, "action has shape (49,)"),
        ({"action": np.full(50, 2)}, "actions are between 2 and 2; they must be between 0 and 1"),
        ({"terminated": np.zeros((50, 1))}, "terminated has shape (50, 1)"),
        ({"next_state": np.zeros(50)}, "next_state has shape (50,)"),
        ({"reward": np.zeros(0)}, "at least 1"),
    ],
)
def test_transitions_that_do_not_fit_are_refused(change, message):
    with pytest.raises(UsageError) as error:
        train(PPO(None, 4, 2), random_transitions() | change)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"seed": -1}, "seed is -1; it must be between 0 and 2**31 - 1"),
        ({"seed": 2**31}, "seed is 2147483648; it must be between 0 and 2**31 - 1"),
        ({"hidden_units": (0,)}, "hidden_units is (0,); it must be integers of at least 1"),
        ({"state_dim": 0}, "state_dim is 0; it must be a whole number, at least 1"),
        ({"action_dim": None}, "action_dim is None; it must be a whole number, at least 1"),
    ],
)
def test_settings_out_of_their_bounds_are_refused(settings, complaint):
    assert complaint in refusal(lambda: PPO(**{"env": None, "state_dim": 4, "action_dim": 2} | settings))


def test_whole_numbers_and_lists_of_others_are_taken():
    spaces = gymnasium.make("CartPole-v1")
    ppo = PPO(spaces, spaces.observation_space.shape[0], spaces.action_space.n, hidden_units=[8], seed=np.int64(3))
    assert isinstance(ppo.action_dim, np.integer) and ppo.actor.output_shape == (None, 2)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"episode_len": 0}, "episode_len is 0; it must be a whole number, at least 1"),
        ({"episode_len": 2.5}, "episode_len is 2.5; it must be a whole number, at least 1"),
        ({"train_steps": 0}, "train_steps is 0; it must be a whole number, at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number, at least 2"),
        ({"batch_size": 1}, "batch_size is 1; it must be a whole number, at least 2"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be between 0 and 1"),
    ],
)
def test_learn_refuses_what_is_out_of_bounds_before_it_acts(settings, complaint):
    env = gymnasium.make("CartPole-v1")  # it raises if it is stepped without a reset
    assert refusal(lambda: PPO(env, 4, 2).learn(**{"verbose": False} | settings)) == complaint


def test_other_mistakes_are_refused():
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(UsageError, match="state_dim is 3"):
        PPO(env, 3, 2)
    with pytest.raises(UsageError, match="action_dim is 5"):
        PPO(env, 4, 5)
    with pytest.raises(UsageError, match="learning_rate"):
        PPO(env, 4, 2, learning_rate=float("nan"))
    with pytest.raises(UsageError, match="needs an environment"):
        PPO(None, 4, 2).learn()
    with pytest.raises(UsageError, match="state has shape"):
        PPO(None, 4, 2).act(np.zeros(3))
    with pytest.raises(UsageError, match="gamma"):
        train(PPO(None, 4, 2), random_transitions(), gamma=1.5)
    with pytest.raises(UsageError, match="episode_len"):
        train(PPO(None, 4, 2), random_transitions(), episode_len=0)
