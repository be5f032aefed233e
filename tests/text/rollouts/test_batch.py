"""Batches from rollouts of text: rewards, advantages of tokens and of whole responses, against slow NumPy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import every_mode

import tfppo
from tfppo.ppo.config import PPOConfig
from tfppo.text.config import TextConfig
from tfppo.text.policy import TokenInputs
from tfppo.text.rollouts.batch import to_batch, token_rewards
from tfppo.text.rollouts.rollout import TextRollout

B, R = 8, 6
BETA = 0.3
PPO = PPOConfig(gamma=0.9, gae_lambda=0.8, kl_in="reward", kl_coeff=BETA, num_epochs=1, minibatch_size=B)
LENGTHS = np.array([R, R, 1, 3, 5, 2, R, 4])  # of made-up responses
ENDED = np.array([True, False, True, True, True, True, False, True])


def text_config(**settings):
    return TextConfig(batch_size=B, response_length=R, **settings)


def make_rollout(filler=0.0, position="last", seed=0):
    """Makes a rollout of random numbers, with `filler` in all padded positions."""
    rng = np.random.default_rng(seed)
    mask = np.arange(R) < LENGTHS[:, None]
    value_mask = np.arange(R) < slots_of(position)[:, None]

    def numbers(inside):
        return tf.constant(np.where(inside, rng.normal(size=[B, R]), filler), tf.float32)

    return TextRollout(
        token_ids=tf.constant(rng.integers(2, 20, [B, R + 5]), tf.int32),
        prompt_lengths=tf.constant(rng.integers(1, 6, B), tf.int32),
        responses=tf.constant(rng.integers(2, 20, [B, R]), tf.int32),
        mask=tf.constant(mask),
        log_probs=numbers(mask),
        reference_log_probs=numbers(mask),
        values=numbers(value_mask),
        scores=tf.constant(rng.normal(size=B), tf.float32),
        raw_scores=tf.fill([B], float("nan")),  # rewards are made of the scaled scores
        prompt_indices=tf.range(B),
        ended=tf.constant(ENDED),
        kl_coeff=tf.constant(BETA),
        metrics={},
    )


def slots_of(position):
    """Returns for each made-up response the number of positions with a reward and a value."""
    return np.minimum(LENGTHS + 1, R) if position == "after_end" else LENGTHS


def slow_rewards(rollout, beta, text):
    """Computes a list of rewards for each row."""
    rows = []
    for n, length in enumerate(rollout.mask.numpy().sum(axis=1)):
        log_probs, others = rollout.log_probs[n].numpy(), rollout.reference_log_probs[n].numpy()
        row = [-beta * (float(log_probs[t]) - float(others[t])) for t in range(length)]
        if text.score_position == "after_end" and length < rollout.mask.shape[1]:
            row.append(0.0)
        row[-1] += float(rollout.scores[n])
        if not rollout.ended[n]:
            row[-1] -= text.missing_end_penalty
        rows.append(row)
    if text.whiten_rewards:
        white = iter(reference.whiten(np.array(sum(rows, [])), shift_mean=False))
        rows = [[next(white) for _ in row] for row in rows]
    return rows


def slow_advantages(rollout, rewards, gamma, gae_lambda):
    """Advantages and returns [B, R] of rows of rewards, each row an episode that is over at its last slot."""
    advantages, returns = np.zeros([B, R]), np.zeros([B, R])
    for n, row in enumerate(rewards):
        count = len(row)
        values = rollout.values.numpy()[n, :count].astype(float)
        terminated = np.arange(count) == count - 1
        advantages[n, :count], returns[n, :count] = reference.generalized_advantage_estimation(
            np.array(row), values, np.append(values[1:], np.nan), terminated, terminated & False, gamma, gae_lambda
        )
    return advantages, returns


def padded(rows):
    return np.array([row + [0.0] * (R - len(row)) for row in rows])


@pytest.mark.parametrize("penalty", [0.0, 1.5])
@pytest.mark.parametrize("whiten_rewards", [False, True])
@pytest.mark.parametrize("position", ["last", "after_end"])
def test_rewards_equal_the_slow_ones(position, whiten_rewards, penalty):
    text = text_config(score_position=position, whiten_rewards=whiten_rewards, missing_end_penalty=penalty)
    rollout = make_rollout(np.nan, position)
    rewards, value_mask = token_rewards(rollout, tf.constant(BETA), text)
    expected = slow_rewards(rollout, BETA, text)
    np.testing.assert_allclose(rewards, padded(expected), atol=1e-5)
    np.testing.assert_array_equal(value_mask, np.arange(R) < slots_of(position)[:, None])
    assert [len(row) for row in expected] == slots_of(position).tolist()


def test_rewards_by_hand():
    """Three tokens, of which the second ends the first text and none ends the second."""
    rollout = make_rollout()._replace(
        mask=tf.constant([[True, True, False], [True, True, True]]),
        log_probs=tf.constant([[-1.0, -2.0, -9.0], [-1.0, -1.0, -3.0]]),
        reference_log_probs=tf.constant([[-1.5, -1.0, -1.0], [-1.0, -2.0, -1.0]]),
        scores=tf.constant([10.0, 20.0]),
        ended=tf.constant([True, False]),
    )
    for position, first in (("last", [-0.05, 10.1, 0.0]), ("after_end", [-0.05, 0.1, 10.0])):
        text = text_config(score_position=position, missing_end_penalty=4.0)
        rewards, _ = token_rewards(rollout, tf.constant(0.1), text)
        np.testing.assert_allclose(rewards, [first, [0.0, -0.1, 16.2]], atol=1e-6)


def test_whitened_rewards_have_the_standard_deviation_1_and_their_old_mean():
    rollout = make_rollout(np.nan)
    plain, mask = token_rewards(rollout, tf.constant(BETA), text_config(missing_end_penalty=1.0))
    white, _ = token_rewards(rollout, tf.constant(BETA), text_config(missing_end_penalty=1.0, whiten_rewards=True))
    plain, white = plain.numpy()[mask], white.numpy()[mask]
    np.testing.assert_allclose([white.mean(), white.std()], [plain.mean(), 1.0], atol=1e-5)
    assert abs(plain.mean()) > 0.1 and abs(plain.std() - 1) > 0.1


@pytest.mark.representatives(3)
@every_mode
@pytest.mark.parametrize("position", ["last", "after_end"])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_advantages_and_returns_equal_the_slow_ones(compiled, position, kl_in):
    text, ppo = text_config(score_position=position), replace(PPO, kl_in=kl_in)
    rollout = make_rollout(np.nan, position)
    batch = compiled(lambda rollout: to_batch(rollout, text, ppo))(rollout)
    rewards = slow_rewards(rollout, BETA if kl_in == "reward" else 0.0, text)
    advantages, returns = slow_advantages(rollout, rewards, 0.9, 0.8)
    np.testing.assert_allclose(batch.advantages, advantages, atol=1e-5)
    np.testing.assert_allclose(batch.returns, returns, atol=1e-5)
    assert np.std(advantages) > 0.5
    np.testing.assert_array_equal(batch.mask, rollout.mask)
    np.testing.assert_array_equal(batch.value_mask, np.arange(R) < slots_of(position)[:, None])


def test_undiscounted_advantages_are_the_score_less_the_kl_to_come_less_the_value():
    """With gamma = lambda = 1: A_t = score - beta (KL from t on) - V_t."""
    rollout = make_rollout(np.nan)
    ppo = replace(PPO, gamma=1.0, gae_lambda=1.0)
    advantages = to_batch(rollout, text_config(missing_end_penalty=0.7), ppo).advantages.numpy()
    log_ratio = (rollout.log_probs - rollout.reference_log_probs).numpy()
    for n, length in enumerate(LENGTHS):
        score = float(rollout.scores[n]) - (0.0 if ENDED[n] else 0.7)
        for t in range(length):
            expected = score - BETA * log_ratio[n, t:length].sum() - float(rollout.values[n, t])
            np.testing.assert_allclose(advantages[n, t], expected, atol=1e-5)


@pytest.mark.parametrize("position", ["last", "after_end"])
@pytest.mark.parametrize("filler", [1e3, np.nan])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_what_stands_behind_a_response_changes_nothing(filler, position, kl_in):
    text = text_config(score_position=position, whiten_rewards=True)
    batches = [to_batch(make_rollout(x, position), text, replace(PPO, kl_in=kl_in)) for x in (0.0, filler)]
    for name in ("old_values", "advantages", "returns", "reference_kl"):
        np.testing.assert_array_equal(*(getattr(batch, name) for batch in batches))
    beyond = ~batches[1].value_mask.numpy()
    for name in ("old_values", "advantages", "returns"):
        assert (getattr(batches[1], name).numpy()[beyond] == 0).all()


def test_the_rest_of_a_batch_is_the_rollout():
    rollout = make_rollout()
    batch = to_batch(rollout, text_config(), PPO)
    assert batch.inputs == TokenInputs(rollout.token_ids, rollout.prompt_lengths)
    assert batch.actions is rollout.responses and batch.old_log_probs is rollout.log_probs
    assert batch.old_distribution is None and batch.reference_log_probs is None
    kl = [
        (rollout.log_probs - rollout.reference_log_probs).numpy()[n, :length].sum() for n, length in enumerate(LENGTHS)
    ]
    np.testing.assert_allclose(batch.reference_kl, kl, atol=1e-5)
    in_loss = to_batch(rollout, text_config(), replace(PPO, kl_in="loss"))
    assert in_loss.reference_log_probs is rollout.reference_log_probs
    np.testing.assert_allclose(in_loss.reference_kl, kl, atol=1e-5)


# ----- Advantages of whole responses


RELATIVES = {
    "group": ({"advantages": "group"}, reference.group_relative_advantages),
    "group without std": (
        {"advantages": "group", "group_std": False},
        lambda returns, size: reference.group_relative_advantages(returns, size, divide_by_std=False),
    ),
    "rloo": ({"advantages": "rloo"}, reference.leave_one_out_advantages),
}


@pytest.mark.representatives(18)
@every_mode
@pytest.mark.parametrize("relative", RELATIVES)
@pytest.mark.parametrize("position", ["last", "after_end"])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
@pytest.mark.parametrize("size", [2, 4])
def test_advantages_of_responses_equal_the_slow_ones(compiled, relative, position, kl_in, size):
    settings, slow = RELATIVES[relative]
    text = text_config(score_position=position, missing_end_penalty=0.7, responses_per_prompt=size, **settings)
    rollout = make_rollout(np.nan, position)._replace(values=())
    ppo = replace(PPO, kl_in=kl_in)
    batch = compiled(lambda rollout: to_batch(rollout, text, ppo))(rollout)
    returns = [sum(row) for row in slow_rewards(rollout, BETA if kl_in == "reward" else 0.0, text)]
    expected = np.where(rollout.mask, np.array(slow(returns, size))[:, None], 0.0)
    np.testing.assert_allclose(batch.advantages, expected, atol=1e-4)
    assert np.std(expected) > 0.3
    assert batch.old_values is None and batch.returns is None and not batch.has_values
    np.testing.assert_array_equal(batch.mask, rollout.mask)
    assert (batch.reference_log_probs is None) == (kl_in == "reward")


def test_leave_one_out_advantages_are_over_the_score_less_beta_times_the_kl_of_the_response():
    """Ahmadian et al. 2024: A_i = R_i - mean of the other R_j, with R = score - beta (log pi(y) - log pi_ref(y))."""
    rollout = make_rollout()
    text = text_config(advantages="rloo", responses_per_prompt=2)
    log_ratio = np.where(rollout.mask, rollout.log_probs - rollout.reference_log_probs, 0.0).sum(axis=1)
    totals = rollout.scores.numpy() - BETA * log_ratio
    advantages = to_batch(rollout, text, PPO).advantages.numpy()[:, 0]
    np.testing.assert_allclose(advantages, totals - totals.reshape(-1, 2)[:, ::-1].reshape(-1), atol=1e-5)


@pytest.mark.parametrize("advantages", ["gae", "group", "rloo"])
@pytest.mark.parametrize("position", ["last", "after_end"])
def test_truncated_responses_are_masked_on_request_and_count_in_their_group(advantages, position):
    text = text_config(advantages=advantages, responses_per_prompt=4, score_position=position)
    rollout = make_rollout(np.nan, position)
    whole, masked = (to_batch(rollout, replace(text, mask_truncated=is_on), PPO) for is_on in (False, True))
    assert 0 < ENDED.sum() < B
    np.testing.assert_array_equal(masked.mask, whole.mask.numpy() & ENDED[:, None])
    np.testing.assert_array_equal(masked.value_mask, whole.value_mask.numpy() & ENDED[:, None])
    assert (masked.mask.numpy() != whole.mask.numpy()).any()
    np.testing.assert_array_equal(masked.advantages, whole.advantages)
    np.testing.assert_array_equal(masked.reference_kl, whole.reference_kl)


def test_no_other_module_names_a_kind_of_advantages():
    root = Path(tfppo.__file__).parent
    naming = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(word in path.read_text() for word in ('"rloo"', '"group"', '"gae"'))
    }
    settings = {"text/config.py", "text/tasks/definition/answers.py"}  # the setting, and its value in defaults of tasks
    assert naming == settings | {"text/rollouts/batch.py"}
