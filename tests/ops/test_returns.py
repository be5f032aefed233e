"""Advantages and returns: slow loops, published numbers, identities, episode ends, groups of responses."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from reference import every_mode

from tfppo.ops import returns

NO = np.zeros  # NO(shape, bool): no step ends an episode


def random_inputs(shape, dtype=np.float32, seed=0):
    """Returns rewards, values, next_values, terminated and truncated, with all four kinds of step."""
    rng = np.random.default_rng(seed)
    floats = [rng.normal(size=shape).astype(dtype) for _ in range(3)]
    return *floats, rng.random(shape) < 0.2, rng.random(shape) < 0.2


@pytest.mark.representatives(9)
@every_mode
@pytest.mark.parametrize("shape", [[1], [12, 3], [6, 2, 3]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("per_step", [False, True], ids=["scalar gamma", "gamma per step"])
def test_both_equal_the_loop(compiled, shape, dtype, per_step):
    inputs = rewards, _, next_values, terminated, truncated = random_inputs(shape, dtype)
    gamma = np.random.default_rng(1).uniform(0.5, 1.0, shape).astype(dtype) if per_step else 0.97

    advantages, targets = compiled(returns.generalized_advantage_estimation)(*inputs, gamma, 0.9)
    expected = reference.for_each_column(reference.generalized_advantage_estimation, *inputs, gamma, 0.9)
    assert advantages.dtype == targets.dtype == dtype and advantages.shape == targets.shape == shape
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(advantages, expected[0], **tolerance)
    np.testing.assert_allclose(targets, expected[1], **tolerance)

    discounted = compiled(returns.discounted_returns)(rewards, next_values, terminated, truncated, gamma)
    expected = reference.for_each_column(
        reference.discounted_returns, rewards, next_values, terminated, truncated, gamma
    )
    assert discounted.dtype == dtype and discounted.shape == shape
    np.testing.assert_allclose(discounted, expected, **tolerance)


# Published numbers. The other libraries express termination by a discount per step, here by a gamma per step.
RLAX_REWARDS = np.array([[1.0, 0.0, -1.0, 0.0, 1.0], [0.5, 0.8, -0.7, 0.0, 2.1]]).T
RLAX_DISCOUNTS = np.array([[0.5, 0.9, 1.0, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]]).T
RLAX_NEXT_VALUES = np.array([[3.0, 1.0, 5.0, -5.0, 3.0], [-1.7, 1.2, 2.3, 2.2, 2.7]]).T


@pytest.mark.parametrize(
    ("gae_lambda", "golden"),
    [
        (1.0, [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3.0, 2.0, 1.0, 0.0, -4.9]]),
        (0.7, [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1.0, 0.0, -4.9]]),
        (0.4, [[0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1.0, 0.0, -4.9]]),
    ],
)
@pytest.mark.parametrize("as_termination", [False, True])
def test_advantages_match_the_numbers_of_rlax(gae_lambda, golden, as_termination):
    """google-deepmind/rlax, multistep_test.py, TruncatedGeneralizedAdvantageEstimationTest (tolerance as there)."""
    rewards = np.array([[0.0, 0.0, 1.0, 0.0, -0.5], [0.0, 0.0, 0.0, 0.0, 1.0]]).T
    values = np.array([[1.0, 4.0, -3.0, -2.0, -1.0, -1.0], [-3.0, -2.0, -1.0, 0.0, 5.0, -1.0]]).T
    discounts = np.array([[0.99, 0.99, 0.99, 0.99, 0.99], [0.9, 0.9, 0.9, 0.0, 0.9]]).T
    terminated = (discounts == 0.0) if as_termination else NO([5, 2], bool)
    gamma = np.array([0.99, 0.9]) * np.ones([5, 1]) if as_termination else discounts
    advantages, targets = returns.generalized_advantage_estimation(
        rewards, values[:-1], values[1:], terminated, NO([5, 2], bool), gamma, gae_lambda
    )
    np.testing.assert_allclose(advantages, np.transpose(golden), atol=1e-3)
    np.testing.assert_allclose(targets, np.transpose(golden) + values[:-1], atol=1e-3)


def test_lambda_returns_match_the_numbers_of_rlax():
    """google-deepmind/rlax, multistep_test.py, LambdaReturnsTest, lambda = 0.75. R is the lambda-return."""
    golden = [[1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4], [0.7866317, 0.9913063, 0.1101501, 2.834, 3.99]]
    # The value of each step is the next value of the step before. The value of the first step cancels out.
    values = np.concatenate([[[9.0, -9.0]], RLAX_NEXT_VALUES[:-1]])
    _, targets = returns.generalized_advantage_estimation(
        RLAX_REWARDS, values, RLAX_NEXT_VALUES, NO([5, 2], bool), NO([5, 2], bool), RLAX_DISCOUNTS, 0.75
    )
    np.testing.assert_allclose(targets, np.transpose(golden), rtol=1e-5)


def test_discounted_returns_match_the_numbers_of_rlax():
    """google-deepmind/rlax, multistep_test.py, DiscountedReturnsTest."""
    golden = [[1.315, 0.63000005, 0.70000005, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.9899998]]
    discounted = returns.discounted_returns(
        RLAX_REWARDS, RLAX_NEXT_VALUES, NO([5, 2], bool), NO([5, 2], bool), RLAX_DISCOUNTS
    )
    np.testing.assert_allclose(discounted, np.transpose(golden), rtol=1e-5)


def test_advantages_match_the_numbers_of_tf_agents():
    """tensorflow/agents, value_ops_test.py, testAdvantagesMatchPrecomputedResult."""
    golden = [2.0808625, 1.13775, 0.145, -0.9, -2.0, 0.56016475, -0.16355, -1.01, -2.0]
    gamma = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.9, 0.9, 0.9, 0.0], np.float32)
    advantages, _ = returns.generalized_advantage_estimation(
        tf.ones([9]), tf.fill([9], 3.0), tf.fill([9], 3.0), gamma == 0, NO([9], bool), gamma, 0.95
    )
    np.testing.assert_allclose(advantages, golden, rtol=1e-6, atol=1e-6)


def test_discounted_returns_match_the_numbers_of_tf_agents():
    """tensorflow/agents, value_ops_test.py, testDiscountedReturnWithFinalValueMatchPrecomputedResult."""
    gamma = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.9, 0.9, 0.9, 0.9], np.float32)
    golden = [5, 4, 3, 2, 1, 8 * 0.9**4 + 3.439, 8 * 0.9**3 + 2.71, 8 * 0.9**2 + 1.9, 8 * 0.9 + 1]
    discounted = returns.discounted_returns(tf.ones([9]), tf.fill([9], 8.0), gamma == 0, NO([9], bool), gamma)
    np.testing.assert_allclose(discounted, golden, rtol=1e-6)


def test_lambda_1_gamma_1_is_the_sum_of_rewards_plus_the_bootstrap_minus_the_value():
    rewards, values, _, terminated, _ = random_inputs([9, 4], np.float64)
    final_value = np.array([1.0, 2.0, 3.0, 4.0])
    next_values = np.concatenate([values[1:], [final_value]])
    advantages, _ = returns.generalized_advantage_estimation(
        rewards, values, next_values, terminated, NO([9, 4], bool), 1.0, 1.0
    )
    for b in range(4):
        for t in range(9):
            ends = [k for k in range(t, 9) if terminated[k, b]]
            total = rewards[t : ends[0] + 1, b].sum() if ends else rewards[t:, b].sum() + final_value[b]
            np.testing.assert_allclose(advantages[t, b], total - values[t, b])


def test_lambda_0_is_the_one_step_error():
    rewards, values, next_values, terminated, truncated = random_inputs([9, 4], np.float64)
    advantages, _ = returns.generalized_advantage_estimation(
        rewards, values, next_values, terminated, truncated, 0.9, 0.0
    )
    np.testing.assert_allclose(advantages, rewards + 0.9 * np.where(terminated, 0.0, next_values) - values)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_gamma_0_sees_only_the_reward(gae_lambda):
    inputs = rewards, values, *_ = random_inputs([9, 4], np.float64)
    advantages, targets = returns.generalized_advantage_estimation(*inputs, 0.0, gae_lambda)
    np.testing.assert_allclose(advantages, rewards - values)
    np.testing.assert_allclose(targets, rewards)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("time_limit", [5, 1000])
def test_a_perfect_value_function_leaves_no_advantage(gae_lambda, time_limit):
    """The return of a reward of 1 in every step is 1 / (1 - gamma). A time limit does not change it."""
    truncated = np.arange(1, 21)[:, np.newaxis] % time_limit == 0
    value = np.full([20, 1], 1 / (1 - 0.99))
    advantages, targets = returns.generalized_advantage_estimation(
        np.ones([20, 1]), value, value, NO([20, 1], bool), truncated, 0.99, gae_lambda
    )
    np.testing.assert_allclose(advantages, 0.0, atol=1e-11)
    np.testing.assert_allclose(targets, value)


@pytest.mark.parametrize("gae_lambda", [0.3, 1.0])
def test_discounted_returns_are_those_of_lambda_1_and_of_no_other(gae_lambda):
    rewards, values, next_values, terminated, truncated = random_inputs([9, 4], np.float64)
    inside = ~(terminated | truncated)
    next_values[:-1] = np.where(inside[:-1], values[1:], next_values[:-1])  # the values of true successors
    _, targets = returns.generalized_advantage_estimation(
        rewards, values, next_values, terminated, truncated, 0.9, gae_lambda
    )
    discounted = returns.discounted_returns(rewards, next_values, terminated, truncated, 0.9)
    assert np.allclose(targets, discounted) == (gae_lambda == 1.0)


@pytest.mark.parametrize(
    ("terminated", "truncated", "first_advantage", "first_return"),
    [
        # rewards 1, 2, 4; values 10, 20, 30; next values 20, 100, 40; gamma 1/2, lambda 1/2; the end is at step 1.
        (False, False, 1 + 10 - 10 + (2 + 50 - 20) / 4 + (4 + 20 - 30) / 16, 1 + 2 / 2 + 4 / 4 + 40 / 8),
        (True, False, 1 + 10 - 10 + (2 - 20) / 4, 1 + 2 / 2),
        (False, True, 1 + 10 - 10 + (2 + 50 - 20) / 4, 1 + 2 / 2 + 100 / 4),
        (True, True, 1 + 10 - 10 + (2 - 20) / 4, 1 + 2 / 2),
    ],
    ids=["neither", "terminated", "truncated", "both: terminated wins"],
)
def test_what_an_end_cuts(terminated, truncated, first_advantage, first_return):
    at_1 = np.array([False, True, False])
    ends = (at_1 & terminated, at_1 & truncated)
    rewards, values, next_values = (tf.constant(x) for x in ([1.0, 2, 4], [10.0, 20, 30], [20.0, 100, 40]))
    advantages, targets = returns.generalized_advantage_estimation(rewards, values, next_values, *ends, 0.5, 0.5)
    np.testing.assert_allclose(advantages[0], first_advantage)
    np.testing.assert_allclose(targets[0], first_advantage + 10)
    np.testing.assert_allclose(returns.discounted_returns(rewards, next_values, *ends, 0.5)[0], first_return)


@pytest.mark.representatives(2)
@every_mode
@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_nan_beyond_an_end_reaches_neither_the_earlier_episode_nor_its_gradient(compiled, kind):
    """All numbers of the next episode are NaN, and so is the value after a terminal state."""
    inputs = [tf.constant(x) for x in random_inputs([8, 2])[:3]]
    is_end = np.zeros([8, 2], bool)
    is_end[4] = True
    ends = (is_end, NO([8, 2], bool)) if kind == "terminated" else (NO([8, 2], bool), is_end)
    later = np.arange(8)[:, None] > 4
    poisoned = [tf.where(later, np.nan, x) for x in inputs]
    if kind == "terminated":
        poisoned[2] = tf.where(is_end, np.nan, poisoned[2])

    def early_sums_and_gradients(rewards, values, next_values):
        with tf.GradientTape() as tape:
            tape.watch([rewards, values, next_values])
            advantages, _ = returns.generalized_advantage_estimation(rewards, values, next_values, *ends, 0.9, 0.8)
            discounted = returns.discounted_returns(rewards, next_values, *ends, 0.9)
            early = advantages[:5], discounted[:5]
            total = tf.add_n([tf.reduce_sum(tf.square(x)) for x in early])
        return early, tape.gradient(total, [rewards, values, next_values])

    early, gradients = compiled(early_sums_and_gradients)(*poisoned)
    clean_early, clean_gradients = early_sums_and_gradients(*inputs)
    for got, want in zip([*early, *gradients], [*clean_early, *clean_gradients], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
        assert np.all(np.isfinite(got))


@pytest.mark.parametrize(
    ("position", "shape"), [(1, [5, 1]), (2, [5]), (3, [5, 1]), (4, [5]), (5, [5]), (5, [5, 1])], ids=str
)
def test_shapes_that_would_broadcast_are_refused(position, shape):
    arguments = [*(tf.zeros([5, 3]) for _ in range(3)), NO([5, 3], bool), NO([5, 3], bool), tf.ones([5, 3])]
    arguments[position] = tf.zeros(shape, arguments[position].dtype)
    with pytest.raises(ValueError, match=r"\(5, 3\)") as error:
        returns.generalized_advantage_estimation(*arguments, 0.95)
    assert str(tf.TensorShape(shape)) in str(error.value)
    if position != 1:
        del arguments[1]
        with pytest.raises(ValueError, match=r"\(5, 3\)"):
            returns.discounted_returns(*arguments)


def test_a_missing_time_axis_is_refused():
    with pytest.raises(ValueError, match="time axis"):
        returns.discounted_returns(1.0, 1.0, False, False, 0.9)


# ----- Groups of responses


RETURNS = np.random.default_rng(4).normal(2.0, 3.0, 12)
GROUP = (returns.group_relative_advantages, reference.group_relative_advantages)
LEAVE_ONE_OUT = (returns.leave_one_out_advantages, reference.leave_one_out_advantages)


@pytest.mark.representatives(7)
@every_mode
@pytest.mark.parametrize("group_size", [2, 3, 12])
@pytest.mark.parametrize(
    ("function", "slow", "settings"),
    [(*GROUP, {}), (*GROUP, {"divide_by_std": False}), (*LEAVE_ONE_OUT, {})],
    ids=["group", "group without std", "rloo"],
)
def test_advantages_of_a_group_equal_the_loop(compiled, group_size, function, slow, settings):
    advantages = compiled(lambda x: function(x, group_size, **settings))(tf.constant(RETURNS, tf.float32))
    assert advantages.shape == [12]
    np.testing.assert_allclose(advantages, slow(RETURNS, group_size, **settings), rtol=1e-5, atol=1e-5)
    sums = advantages.numpy().reshape(-1, group_size).sum(axis=1)
    np.testing.assert_allclose(sums, 0.0, atol=1e-4)


def test_advantages_of_a_group_by_hand():
    """Returns 1, 2, 6 have mean 3 and variance 14/3. The others' means are 4, 3.5 and 1.5."""
    scores = tf.constant([1.0, 2.0, 6.0])
    group, leave_one_out = GROUP[0], LEAVE_ONE_OUT[0]
    np.testing.assert_allclose(group(scores, 3, divide_by_std=False), [-2.0, -1.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(group(scores, 3), np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3), rtol=1e-6)
    np.testing.assert_allclose(leave_one_out(scores, 3), [-3.0, -1.5, 4.5], rtol=1e-6)


@every_mode
@pytest.mark.parametrize("function", [GROUP[0], LEAVE_ONE_OUT[0]])
def test_a_group_of_equal_returns_has_no_advantage_and_does_not_touch_another(compiled, function):
    equal = np.float32([0.1, 0.1, 0.1, 3.0, 4.0, 8.0])
    advantages = compiled(lambda x: function(x, 3))(equal)
    np.testing.assert_array_equal(advantages[:3], 0.0)
    moved = compiled(lambda x: function(x, 3))(equal + np.float32([np.nan, 50.0, 9.0, 0.0, 0.0, 0.0]))
    np.testing.assert_array_equal(moved[3:], advantages[3:])
    assert np.abs(advantages[3:]).min() > 0.1


@pytest.mark.parametrize("function", [GROUP[0], LEAVE_ONE_OUT[0]])
@pytest.mark.parametrize("group_size", [0, 1, 5])
def test_groups_that_cannot_be_are_refused(function, group_size):
    with pytest.raises(ValueError, match=f"group_size is {group_size} and there are 12 returns; it must be at least 2"):
        function(tf.zeros([12]), group_size)
    with pytest.raises(ValueError, match=r"shape of returns is \(6, 2\); it must be \[B\]"):
        function(tf.zeros([6, 2]), 2)
