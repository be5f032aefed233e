"""Action heads: sampling, actions for the environment, and forbidden actions."""

import gymnasium
import numpy as np
import pytest
import reference
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from reference import every_mode
from support.refusal import refusal

from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import WithStateDependentStd, make_actor, make_critic
from tfppo.control.rollouts.gymnasium import GymnasiumCollector

SEED = tf.constant([4, 2])
ROWS = 300
FEATURES = 5  # number of the actor's features, for gSDE
LOW, HIGH = np.array([[-1.0, 0.5], [-np.inf, -3.0]], np.float32), np.array([[1.0, 0.75], [2.0, np.inf]], np.float32)
SQUARE = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, -2], [0, 7]])
BOUNDED = spaces.Box(np.float32([-2, 5.3]), np.float32([0, 5.7]))
HEADS = {  # action space, box_policy
    "discrete": (spaces.Discrete(4), "normal"),
    "discrete_from_minus_2": (spaces.Discrete(4, start=-2), "normal"),
    "multi_discrete": (spaces.MultiDiscrete([3, 2, 4]), "normal"),
    "multi_discrete_square": (SQUARE, "normal"),
    "multi_discrete_of_bytes": (spaces.MultiDiscrete([3, 200], dtype=np.uint8), "normal"),
    "multi_binary": (spaces.MultiBinary(3), "normal"),
    "multi_binary_square": (spaces.MultiBinary([2, 2]), "normal"),
    "normal": (spaces.Box(LOW, HIGH), "normal"),
    "normal_scalar": (spaces.Box(-0.5, 0.5, ()), "normal"),
    "normal_float64": (spaces.Box(-0.1, 0.7, [2], np.float64), "normal"),
    "normal_float16": (spaces.Box(-0.1, 0.7, [2], np.float16), "normal"),
    "squashed": (BOUNDED, "squashed"),
    "squashed_float64": (spaces.Box(-0.1, 0.7, [2, 1], np.float64), "squashed"),
    "gsde": (spaces.Box(-0.5, 0.75, [2, 2]), "gsde"),
}
every_head = pytest.mark.parametrize(("space", "box_policy"), HEADS.values(), ids=HEADS.keys())
every_box_policy = pytest.mark.parametrize("box_policy", ["normal", "squashed", "gsde"])


def head_of(space, box_policy):
    return make_head(space, box_policy, FEATURES)


def numbers(*shape, seed=3):
    """Returns standard normal numbers, float32 `[*shape]`."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def outputs_for(head, box_policy, rows=ROWS):
    """Returns outputs that an actor might give."""
    if box_policy != "gsde":
        return tf.constant(numbers(rows, head.num_outputs))
    return WithStateDependentStd()([numbers(rows, head.num_actions), numbers(rows, FEATURES, seed=4)])


def accepted(space, actions):
    """Returns whether the space contains every row, in the dtype of the row."""
    return [space.contains(np.asarray(row, space.dtype)) for row in actions]


# ----- Every head


@pytest.mark.representatives(4)
@every_head
def test_actions_that_are_drawn_or_greedy_belong_to_the_space(space, box_policy):
    head = head_of(space, box_policy)

    @tf.function
    def act(outputs, noise):
        actions, distribution = head.act(outputs, noise)
        modes = distribution.mode()
        given = head.to_environment(actions), head.to_environment(modes)
        return actions, modes, distribution.log_prob(actions), distribution.entropy(), *given

    outputs, noise = outputs_for(head, box_policy), head.noise([ROWS], SEED)
    actions, modes, log_probs, entropies, drawn, greedy = (x.numpy() for x in act(outputs, noise * 2))
    assert drawn.shape == greedy.shape == (ROWS, *space.shape) and actions.shape == modes.shape
    assert all(accepted(space, drawn)) and all(accepted(space, greedy))
    assert log_probs.shape == entropies.shape == (ROWS,)  # sums over dimensions and choices
    assert np.isfinite(log_probs).all() and np.isfinite(entropies).all()
    assert len(np.unique(drawn, axis=0)) > 3 and not np.array_equal(drawn, greedy)


@pytest.mark.representatives(4)
@every_head
def test_environments_that_look_at_their_actions_run(space, box_policy):
    """The environment checks every action, and returns it as the next observation."""

    class Looking(gymnasium.Env):
        observation_space, action_space = spaces.Box(-np.inf, np.inf, [max(1, int(np.prod(space.shape)))]), space

        def reset(self, *, seed=None, options=None):
            return np.zeros(self.observation_space.shape, np.float32), {}

        def step(self, action):
            assert space.contains(np.asarray(action, space.dtype)), action
            return np.reshape(action, [-1]).astype(np.float32), 0.0, False, False, {}

    head = head_of(space, box_policy)
    environment = SyncVectorEnv([Looking] * 2)
    actor = make_actor(Looking.observation_space, head, (FEATURES,), log_std_init=1.0)
    policy = ActorCriticPolicy(actor, make_critic(Looking.observation_space, (FEATURES,)), head)
    rollout = GymnasiumCollector(policy, environment, 4, mode="eager").collect(tf.constant(0, tf.int64))
    for t in range(3):
        given = np.reshape(policy.to_environment(rollout.actions[t]), [2, -1])
        np.testing.assert_array_equal(rollout.observations[t + 1], given)
        evaluation = policy.evaluate_actions(rollout.observations[t], rollout.actions[t])
        np.testing.assert_allclose(evaluation.log_probs, rollout.log_probs[t], rtol=1e-4, atol=1e-5)


# ----- Discrete, MultiDiscrete, MultiBinary


def test_discrete_actions_are_counted_from_0_and_given_from_start():
    head = make_head(spaces.Discrete(4, start=-2))
    assert head.to_environment(tf.range(4)).numpy().tolist() == [-2, -1, 0, 1]
    assert make_head(spaces.Discrete(4)).to_environment(tf.range(4)).numpy().tolist() == [0, 1, 2, 3]
    logits = outputs_for(head, "normal", 4)
    p = [reference.softmax(row.tolist()) for row in logits.numpy()]
    expected = [np.log(row[action]) for row, action in zip(p, [3, 0, 2, 2], strict=True)]
    np.testing.assert_allclose(head.distribution(logits).log_prob([3, 0, 2, 2]), expected, rtol=1e-5)


def test_multi_discrete_actions_are_flat_and_given_in_the_shape_of_the_space_from_start():
    head = make_head(SQUARE)
    assert head.num_outputs == 2 + 3 + 4 + 5
    given = head.to_environment(tf.constant([[0, 0, 0, 0], [1, 2, 3, 4]]))
    assert given.numpy().tolist() == [[[1, -2], [0, 7]], [[2, 0], [3, 11]]]


@pytest.mark.parametrize("space", [SQUARE, spaces.MultiBinary([2, 2])], ids=["multi_discrete", "multi_binary"])
def test_choices_have_their_own_logits_and_log_prob_and_entropy_sum_over_them(space):
    sizes = [2, 3, 4, 5] if space is SQUARE else [2, 2, 2, 2]
    head = make_head(space)
    logits = outputs_for(head, "normal", ROWS)
    actions, distribution = head.act(logits, head.noise([ROWS], SEED))
    pieces = np.split(logits.numpy(), np.cumsum(sizes)[:-1], axis=-1)
    log_prob, entropy = np.zeros(ROWS), np.zeros(ROWS)
    for k, piece in enumerate(pieces):
        for row in range(ROWS):
            p = reference.softmax(piece[row].tolist())
            log_prob[row] += np.log(p[actions[row, k]])
            entropy[row] -= sum(x * np.log(x) for x in p)
        assert set(actions[:, k].numpy()) == set(range(sizes[k]))
        np.testing.assert_array_equal(distribution.mode()[:, k], piece.argmax(-1))
    np.testing.assert_allclose(distribution.log_prob(actions), log_prob, rtol=1e-4)
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=1e-4)


# ----- Normals, clipped


def test_the_environment_gets_what_was_drawn_clipped_and_the_policy_keeps_it_as_it_was():
    head = make_head(spaces.Box(LOW, HIGH))
    mean, log_std = numbers(ROWS, 4), numbers(ROWS, 4, seed=4)
    noise = head.noise([ROWS], SEED)
    actions, distribution = head.act(tf.concat([mean, log_std], axis=-1), noise)
    np.testing.assert_allclose(actions, mean + np.exp(log_std) * noise, rtol=1e-5, atol=1e-6)
    given = head.to_environment(actions)
    expected = np.clip(np.reshape(actions, [ROWS, 2, 2]), LOW, HIGH)
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(distribution.mode(), mean)
    outside = (expected != np.reshape(actions, [ROWS, 2, 2])).mean(axis=0)
    assert (outside > 0.05).all()  # only the finite bound clips
    for row in range(5):
        x, m, s = (np.array(y[row], float).tolist() for y in (actions, mean, log_std))
        np.testing.assert_allclose(
            distribution.log_prob(actions)[row], reference.normal_log_density(x, m, s), rtol=1e-4, atol=1e-4
        )
        entropy = sum(s) + 4 * (1 + np.log(2 * np.pi)) / 2
        np.testing.assert_allclose(distribution.entropy()[row], entropy, rtol=1e-5, atol=1e-5)


# ----- Normals, squashed


@every_mode
def test_squashed_actions_reach_their_bounds_and_never_leave_them(compiled):
    """Where the weights of the two bounds add up to slightly more than 1, rounding would exceed a bound."""
    low, high = np.float32([[-2, -0.1, 1], [5.3, 100, 0.3]]), np.float32([[2, 0.7, 2], [5.7, 100.0001, 0.3]])
    head = make_head(spaces.Box(low, high), "squashed")
    before = np.concatenate([np.linspace(-12, 12, 20_001), [-1e30, -50, 0, 50, 1e30]]).astype(np.float32)
    actions = tf.constant(np.repeat(before[:, np.newaxis], 6, axis=1))
    given = compiled(head.to_environment)(actions).numpy()
    assert given.shape == (len(before), 2, 3)
    np.testing.assert_array_equal(given.min(axis=0), low)
    np.testing.assert_array_equal(given.max(axis=0), high)
    assert (given[-5:-3] == low).all() and (given[-2:] == high).all()
    np.testing.assert_allclose(given[-3], (low + high) / 2, rtol=1e-6)
    expected = low + (high - low) * (np.tanh(before.astype(float)) + 1)[:, np.newaxis, np.newaxis] / 2
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


def test_the_policy_keeps_squashed_actions_as_they_were_before_tanh():
    """Before tanh, the log-probability is finite for every action."""
    head = make_head(BOUNDED, "squashed")
    mean, log_std = np.float32([[0.3, -0.2]] * 3), np.float32([[0.1, -0.4]] * 3)
    noise = tf.constant([[0.5, -1.0], [40.0, 0.0], [-1e4, 1e4]])
    actions, distribution = head.act(tf.concat([mean, log_std], axis=-1), noise)
    np.testing.assert_allclose(actions, mean + np.exp(log_std) * noise, rtol=1e-5)
    x = actions.numpy().astype(float)
    normal = [reference.normal_log_density(*(y[row].tolist() for y in (x, mean, log_std))) for row in range(3)]
    slope = 2 * (np.log(2) - x - np.logaddexp(0, -2 * x))  # log(1 - tanh(x)^2)
    np.testing.assert_allclose(distribution.log_prob(actions), normal - slope.sum(-1), rtol=1e-4)
    np.testing.assert_array_equal(distribution.mode(), mean)


@pytest.mark.parametrize(("low", "high"), [(-np.inf, 1), (-1, np.inf), (-np.inf, np.inf)])
def test_squashing_wants_finite_bounds(low, high):
    space = spaces.Box(np.float32([-1, low]), np.float32([1, high]))
    text = refusal(make_head, space, "squashed")
    assert str(space) in text and "finite bounds" in text and "normal" in text
    assert make_head(space).num_outputs == 4


# ----- gSDE


def test_gsde_adds_features_times_noise_to_the_mean():
    head = make_head(spaces.Box(-1, 1, [2]), "gsde", FEATURES)
    means, features, log_std = numbers(7, 2), numbers(7, FEATURES, seed=4), numbers(FEATURES, 2, seed=5)
    layer = WithStateDependentStd()
    layer.build([means.shape, features.shape])
    layer.set_weights([log_std])
    noise = head.noise([7], SEED).numpy()
    actions, distribution = head.act(layer([means, features]), noise)
    for row in range(7):
        exploration = features[row] @ (np.exp(log_std) * noise[row])
        np.testing.assert_allclose(actions[row], means[row] + exploration, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), means)


def test_gsde_spreads_as_its_distribution_says():
    head = make_head(spaces.Box(-1, 1, [2]), "gsde", FEATURES)
    rows = 20_000
    mean, scales = tf.constant([0.5, -1.0]), numbers(FEATURES, 2)
    std = np.sqrt(np.square(scales).sum(axis=0))
    outputs = [np.repeat(x[np.newaxis], rows, axis=0) for x in (np.concatenate([mean, np.log(std)]), scales)]
    actions, distribution = head.act(outputs, head.noise([rows], SEED))
    np.testing.assert_allclose(np.mean(actions, axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.std(actions, axis=0), std, rtol=0.03)
    np.testing.assert_allclose(np.exp(distribution.log_std[0]), std, rtol=1e-6)
    estimate = -np.mean(distribution.log_prob(actions))
    np.testing.assert_allclose(estimate, distribution.entropy()[0], atol=0.03)


@pytest.mark.parametrize(
    ("interval", "starts"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (7, [0]), (9, [0]), (0, [0])]
)
def test_gsde_noise_stays_for_an_interval(interval, starts):
    """Every environment has different noise. With interval 0, noise stays for the whole rollout."""
    head = make_head(spaces.Box(-1, 1, [2]), "gsde", FEATURES, interval)
    noise = head.noise([7, 3], SEED).numpy()
    assert noise.shape == (7, 3, FEATURES, 2)
    for t in range(1, 7):
        same = noise[t] == noise[t - 1]
        assert not same.any() if t in starts else same.all()
    assert len(np.unique(noise)) == len(starts) * 3 * FEATURES * 2
    assert head.noise([3], SEED).shape == [3, FEATURES, 2]


def test_gsde_with_another_number_of_features_than_the_actor_is_refused():
    head = make_head(spaces.Box(-1, 1, [2]), "gsde", 1)  # one feature: noise of the wrong shape would broadcast
    outputs = outputs_for(head, "gsde", 4)
    with pytest.raises(ValueError, match=r"\(4, 5, 2\).*\(4, 1, 2\)"):
        head.act(outputs, head.noise([4], SEED))


# ----- Masks

MASKED = {  # action space, number of actions of each choice, allowed actions
    "discrete": (spaces.Discrete(5, start=3), [5], [[0, 3, 4]]),
    "multi_discrete": (SQUARE, [2, 3, 4, 5], [[0, 1], [2], [1, 3], [0, 1, 4]]),
    "multi_binary": (spaces.MultiBinary(2), [2, 2], [[1], [0, 1]]),
}


@pytest.mark.representatives(3)
@pytest.mark.parametrize(("space", "sizes", "allowed"), MASKED.values(), ids=MASKED.keys())
@every_mode
def test_forbidden_actions_have_no_part_in_the_distribution(compiled, space, sizes, allowed):
    """Forbidden actions are never sampled and never greedy, although their logits are the largest.

    Log-probabilities and entropies are those of a distribution without them, and their gradient is exactly 0 (Huang and
    Ontanon 2020).
    """
    head = make_head(space)
    mask = np.concatenate([np.isin(np.arange(size), keep) for size, keep in zip(sizes, allowed, strict=True)])
    logits = outputs_for(head, "normal") + 30.0 * tf.cast(~mask, tf.float32)

    def evaluate(logits, noise, action_mask):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            actions, distribution = head.act(logits, noise, action_mask)
            log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        slopes = tape.gradient(log_prob, logits), tape.gradient(entropy, logits)
        return actions, distribution.mode(), log_prob, entropy, *slopes

    action_mask = tf.repeat(mask[np.newaxis], ROWS, axis=0)
    given = compiled(evaluate)(logits, head.noise([ROWS], SEED) * 5, action_mask)
    actions, modes, log_prob, entropy, *slopes = (x.numpy() for x in given)
    pieces = np.split(logits.numpy().astype(float), np.cumsum(sizes)[:-1], axis=-1)
    expected_log_prob, expected_entropy = np.zeros(ROWS), np.zeros(ROWS)
    for k, (piece, keep) in enumerate(zip(pieces, allowed, strict=True)):
        drawn, greedy = np.reshape(actions, [ROWS, -1])[:, k], np.reshape(modes, [ROWS, -1])[:, k]
        assert set(drawn) == set(keep)
        np.testing.assert_array_equal(greedy, np.array(keep)[piece[:, keep].argmax(-1)])
        for row in range(ROWS):
            p = reference.softmax(piece[row, keep].tolist())
            expected_log_prob[row] += np.log(p[keep.index(drawn[row])])
            expected_entropy[row] -= sum(x * np.log(x) for x in p)
    np.testing.assert_allclose(log_prob, expected_log_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(entropy, expected_entropy, rtol=1e-4, atol=1e-5)
    for slope in slopes:
        np.testing.assert_array_equal(slope[:, ~mask], 0.0)
        assert np.isfinite(slope).all() and (slope[:, mask] != 0).any()
    unmasked = np.reshape(head.act(logits, head.noise([ROWS], SEED))[0], [ROWS, -1])
    assert any(set(unmasked[:, k]) - set(keep) for k, keep in enumerate(allowed))


def test_every_row_has_its_own_mask():
    head = make_head(spaces.Discrete(3))
    distribution = head.distribution(tf.zeros([3, 3]), tf.constant(np.eye(3, dtype=bool)))
    np.testing.assert_array_equal(distribution.mode(), [0, 1, 2])
    np.testing.assert_array_equal(tf.nn.softmax(distribution.logits), np.eye(3))


# ----- Invalid input


@every_box_policy
def test_a_mask_of_continuous_actions_is_refused(box_policy):
    head = head_of(spaces.Box(-1, 1, [2]), box_policy)
    outputs, mask = outputs_for(head, box_policy, 4), tf.ones([4, 2], tf.bool)
    for function in (head.distribution, lambda o, m: head.act(o, head.noise([4], SEED), m)):
        text = refusal(function, outputs, mask)
        assert "action_mask" in text and "Box" in text


@pytest.mark.parametrize("space", [spaces.Discrete(5), SQUARE], ids=str)
@pytest.mark.parametrize("shape", [[4], [2, 7]], ids=str)
def test_a_mask_of_another_shape_is_refused(space, shape):
    head = make_head(space)
    text = refusal(head.distribution, tf.zeros([3, head.num_outputs]), tf.ones([3, *shape], tf.bool))
    assert str(tuple(shape)) in text and str(head.num_outputs) in text


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 9, [3], np.int32),
        spaces.Box(np.zeros([40, 2], np.int64), np.arange(80).reshape(40, 2), dtype=np.int64),  # printed in 40 lines
        spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
        spaces.Dict(left=spaces.Discrete(2)),
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
    ],
    ids=lambda space: f"{type(space).__name__}{space.shape}",
)
def test_other_spaces_are_refused_by_name(space):
    text = refusal(make_head, space)
    assert " ".join(str(space).split())[:200] in text and "Discrete, MultiDiscrete, MultiBinary or a Box" in text


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(2**40), "1,099,511,627,776"),
        (spaces.MultiDiscrete([100_000] * 50), "5,000,000"),
        (spaces.MultiDiscrete(np.array([], int)), "0"),
        (spaces.Box(-1, 1, (0,)), "0"),
    ],
)
def test_an_action_space_has_actions_and_not_too_many(space, size):
    assert f"needs {size} outputs of the actor; they must be from 1 to 100,000" in refusal(make_head, space)
