"""The learner against a slow NumPy update in every mode; the effects of masks, schedules, early stops and penalties."""

import numpy as np
import pytest
import tensorflow as tf
from slow_learner import (
    OLD,
    START,
    LinearPolicy,
    SlowLearner,
    evaluate,
    global_norm,
    make_batch,
    mean_over_minibatches,
    tensors,
)

from tfppo.errors import UsageError
from tfppo.ops import random
from tfppo.ops.distributions import Categorical
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import METRICS, PPOLearner
from tfppo.ppo.types import ActionEvaluation

CONFIG = PPOConfig(num_epochs=2, minibatch_size=6, learning_rate=0.05, entropy_coeff=0.01, max_grad_norm=0.5)
# With this large epsilon the first step of Adam is minus the gradient: sqrt(1 - beta_2) learning_rate / epsilon = 1.
PLAIN = PPOConfig(num_epochs=1, minibatch_size=12, adam_epsilon=1e4, learning_rate=1e4 / 0.001**0.5, max_grad_norm=None)
FULL = {"dual_clip": 1.5, "value_clip": 0.1, "num_micro_batches": 2, "target_kl": 0.5, "kl_coeff": 0.3}


def replace(config, **settings):
    return PPOConfig(**{name: getattr(config, name) for name in config.__dataclass_fields__} | settings)


def make_learner(config, mode="eager", weights=START, num_iterations=4, **options):
    return PPOLearner(LinearPolicy(weights), config, num_iterations, mode=mode, **options)


def run(config, *batches, **options):
    """Returns the learner after an update on each batch, and the metrics of the last update."""
    learner = make_learner(config, **options)
    for batch in batches:
        metrics = learner.update(tensors(batch))
    return learner, {name: float(value) for name, value in metrics.items()}


def gradient(config, batch):
    """Returns what a single plain step subtracts from the weights, and the metrics."""
    learner, metrics = run(config, batch)
    return [np.float32(a) - b for a, b in zip(START, learner.policy.weights, strict=True)], metrics


def slow_gradient(config, batch):
    slow = SlowLearner(config, 4)
    (row,) = slow.update(batch)
    metrics = {name: value for name, value in row.items() if not name.startswith("count/")}
    return [np.float32(a) - b for a, b in zip(START, slow.weights, strict=True)], metrics


def assert_close(actual, expected, **tolerance):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-5} | tolerance)


def assert_differ(actual, expected, by=1e-3):
    assert max(np.abs(a - b).max() for a, b in zip(actual, expected, strict=True)) > by


def kl_from_old(weights, batch):
    logits = evaluate(weights, batch.inputs, batch.actions)[3]
    return float(tf.reduce_mean(batch.old_distribution.kl(Categorical(tf.constant(logits)))))


def reference_log_probs(batch):
    weights = [w + 0.4 for w in OLD[::-1]][::-1]
    weights[0][0, 0] -= 1.5
    return evaluate(weights, batch.inputs, batch.actions)[0]


# ----- The whole update, against the slow one


@pytest.mark.representatives(7)
@pytest.mark.parametrize("shape", [(12,), (12, 3)], ids=["transitions", "sequences"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalize_advantages": False, "max_grad_norm": None},
        {"dual_clip": 1.2, "value_clip": 0.1, "clip_ratio": 0.05},
        {"kl_coeff": 2.0, "num_micro_batches": 3},
        {"learning_rate_schedule": "constant", "clip_ratio_schedule": "linear", "target_kl": 0.03},
        {"clip_ratio": 0.05, "clip_ratio_high": 0.3, "clip_ratio_schedule": "linear"},
        {"loss_average": "sequences", "kl_coeff": 2.0, "num_micro_batches": 3, "value_clip": 0.1},
    ],
    ids=["defaults", "plain", "clips", "kl", "schedules", "upper clip", "sequences"],
)
def test_two_updates_equal_the_slow_ones(shape, settings):
    config = replace(CONFIG, **settings)
    batches = [make_batch(shape, seed=1), make_batch(shape, seed=2)]
    learner, metrics = run(config, *batches)
    slow = SlowLearner(config, 4)
    rows = [slow.update(batch) for batch in batches][-1]
    assert_close(learner.policy.weights, slow.weights)
    assert_differ(learner.policy.weights, START, by=0.05)
    assert learner.optimizer.iterations == slow.steps
    for name in (name for name in rows[0] if not name.startswith("count/")):
        largest = max(row[name] for row in rows)
        wanted = largest if name == "policy/ratio_max" else mean_over_minibatches(rows, name)
        np.testing.assert_allclose(metrics[name], wanted, 1e-3, 1e-5, err_msg=name)


@pytest.mark.representatives(4)
@pytest.mark.parametrize("kind", ["exact", "samples", "reference", "k3"])
@pytest.mark.parametrize("shape", [(12,), (12, 3)], ids=["transitions", "sequences"])
def test_gradient_of_the_kl_term_equals_finite_differences(kind, shape):
    config = replace(PLAIN, kl_coeff=3.0, value_coeff=0.0, entropy_coeff=0.0)
    if kind == "k3":
        config = replace(config, kl_estimator="k3")
    batch = make_batch(shape)._replace(advantages=np.zeros(shape))  # only the KL is left
    if kind != "exact":
        batch = batch._replace(old_distribution=None)
    if kind in ("reference", "k3"):
        batch = batch._replace(reference_log_probs=reference_log_probs(batch))
    slopes, metrics = gradient(config, batch)
    expected, row = slow_gradient(config, batch)
    assert_close(slopes, expected)
    assert global_norm(slopes) > 0.05
    np.testing.assert_allclose(metrics["loss/total"], 3.0 * row["loss/kl"], rtol=1e-4)


def test_kl_of_a_policy_without_a_distribution_comes_from_the_samples():
    batch = make_batch()
    learner = PPOLearner(LinearPolicy(has_distribution=False), replace(CONFIG, kl_coeff=1.0), 4, mode="eager")
    metrics = learner.update(tensors(batch))
    np.testing.assert_allclose(metrics["loss/kl"], metrics["policy/approx_kl"], rtol=1e-5)
    assert metrics["loss/kl"] > 0.01


# ----- A policy without values, means over sequences


def without_values(batch):
    return batch._replace(old_values=None, returns=None)


@pytest.mark.representatives(2)
@pytest.mark.parametrize("shape", [(12,), (12, 3)], ids=["transitions", "sequences"])
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_without_values_the_update_is_the_slow_one_and_leaves_the_critic(shape, mode):
    batches = [make_batch(shape, seed=seed) for seed in (1, 2)]
    config = replace(CONFIG, normalize_advantages=False, kl_coeff=1.0, num_micro_batches=2)
    learner = PPOLearner(LinearPolicy(has_values=False), config, 4, mode=mode)
    slow = SlowLearner(config, 4)
    for batch in batches:
        metrics = learner.update(tensors(without_values(batch)))
        rows = slow.update(without_values(batch))
    assert_close(learner.policy.weights, slow.weights)
    assert_differ(learner.policy.weights[:1], START[:1], by=0.05)
    np.testing.assert_array_equal(learner.policy.weights[1], np.float32(START[1]))
    absent = {"loss/value", "value/clip_fraction", "value/explained_variance"}
    assert set(metrics) == set(METRICS) - absent
    for name in metrics.keys() & rows[0].keys() - {"policy/ratio_max"}:
        np.testing.assert_allclose(metrics[name], mean_over_minibatches(rows, name), 1e-3, 1e-5, err_msg=name)


def test_a_policy_without_values_and_a_batch_with_returns_do_not_fit():
    with pytest.raises(UsageError, match="the policy has no values and the batch has returns; it must be both or none"):
        PPOLearner(LinearPolicy(has_values=False), CONFIG, 4, mode="eager").update(tensors(make_batch()))
    with pytest.raises(UsageError, match="the policy has values and the batch has no returns"):
        make_learner(CONFIG).update(tensors(without_values(make_batch())))


def test_in_a_mean_over_sequences_a_long_one_counts_as_much_as_a_short_one():
    """Advantages -1 in a sequence of one token and 1 in one of three: the mean over sequences is 0, over tokens 1/2."""
    batch = make_batch((2, 3), weights=START, mask=np.array([[True, False, False], [True] * 3]))
    batch = batch._replace(advantages=np.array([[-1.0] * 3, [1.0] * 3]))
    config = replace(PLAIN, minibatch_size=2, normalize_advantages=False)
    losses = [run(replace(config, loss_average=of), batch)[1]["loss/policy"] for of in ("tokens", "sequences")]
    np.testing.assert_allclose(losses, [-0.5, 0.0], atol=1e-6)


def test_sequences_that_are_masked_completely_do_not_count():
    config = replace(PLAIN, loss_average="sequences", value_clip=0.1, kl_coeff=1.0)
    batch = make_batch((12, 3))
    batch.mask[:6] = False
    slopes, _ = gradient(config, batch)
    rest = tf.nest.map_structure(lambda x: x if x is None else x[6:], batch)
    expected, _ = gradient(replace(config, minibatch_size=6), rest)
    assert_close(slopes, expected)


def test_an_update_in_which_nothing_counts_leaves_weights_that_are_finite():
    learner, metrics = run(replace(CONFIG, entropy_coeff=0.1), make_batch(mask=np.zeros(12, bool)))
    assert_close(learner.policy.weights, [np.float32(w) for w in START])
    assert metrics["guard/skipped_updates"] == 0.0 == metrics["loss/total"] and np.isnan(metrics["policy/entropy"])


# ----- Compilation


def test_eager_graph_and_xla_give_the_same_weights_and_trace_once():
    config = replace(CONFIG, **FULL, kl_controller="schulman", value_coeff=1.0)
    batches = [make_batch(seed=seed) for seed in range(3)]
    eager, expected = run(config, *batches)
    for mode in ("graph", "xla"):
        learner, metrics = run(config, *batches, mode=mode)
        assert_close(learner.policy.weights, eager.policy.weights, rtol=1e-5, atol=1e-6)
        assert metrics.keys() == expected.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(value, expected[name], 1e-4, 1e-5, err_msg=f"{name}, {mode}")
        assert learner.update.experimental_get_tracing_count() == 1
        assert learner.iteration == 3


def test_xla_mode_is_compiled_by_xla():
    """XLA does not support strings and a plain graph does, so an error shows that the mode is used."""

    def prepare(batch):
        tf.debugging.assert_equal(tf.strings.length(tf.strings.as_string(batch.advantages[0] * 0)), 8)
        return batch

    make_learner(PLAIN, "graph", prepare=prepare).update(tensors(make_batch()))
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA_CPU_JIT"):
        make_learner(PLAIN, "xla", prepare=prepare).update(tensors(make_batch()))


def test_update_prepares_what_it_is_given():
    batch = make_batch()
    learner = make_learner(CONFIG, "graph", prepare=lambda data: data["batch"]._replace(returns=data["returns"]))
    learner.update({"batch": tensors(make_batch()), "returns": tf.constant(batch.returns * 2, tf.float32)})
    expected, _ = run(CONFIG, batch._replace(returns=batch.returns * 2))
    assert_close(learner.policy.weights, expected.policy.weights, rtol=1e-5)


def test_what_is_no_batch_is_refused_without_a_way_to_prepare_it():
    with pytest.raises(UsageError, match="was called with a dict; it must be a Batch: give the learner a prepare"):
        make_learner(CONFIG).update({"batch": tensors(make_batch())})


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_metrics_are_those_that_are_documented(mode):
    _, metrics = run(CONFIG, make_batch(), mode=mode)
    assert set(metrics) == set(METRICS) and len(set(METRICS)) == len(METRICS)


# ----- Minibatches


def test_first_minibatch_has_ratio_one():
    _, metrics = run(replace(PLAIN, kl_coeff=1.0), make_batch(weights=START), mode="graph")
    np.testing.assert_allclose(metrics["policy/ratio_max"], 1.0, rtol=1e-6)
    assert abs(metrics["policy/approx_kl"]) < 1e-7 and abs(metrics["loss/kl"]) < 1e-7
    assert metrics["policy/clip_fraction"] == 0.0 == metrics["value/clip_fraction"]


@pytest.mark.representatives(1)
@pytest.mark.parametrize("num_micro_batches", [1, 2])
def test_every_epoch_visits_every_index_once(num_micro_batches):
    config = replace(CONFIG, num_micro_batches=num_micro_batches)
    batch = make_batch(inputs=np.repeat(np.arange(12.0)[:, None], 3, axis=1) / 12)

    def orders(seed):
        learner, _ = run(config, batch, batch, seed=seed)
        seen = np.concatenate(learner.policy.inputs)[:, 0] * 12
        return np.round(seen).astype(int).reshape(2, 2, 12)  # [iteration, epoch, index]

    first = orders(0)
    assert (np.sort(first, axis=-1) == np.arange(12)).all()
    assert len({tuple(order) for order in first.reshape(4, 12)}) == 4  # a new order in every epoch
    assert (orders(0) == first).all() and (orders(1) != first).any()


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_minibatches_that_do_not_divide_the_batch_are_refused(mode):
    with pytest.raises(UsageError, match=r"the batch = 12 .* minibatch_size = 5"):
        run(replace(CONFIG, minibatch_size=5), make_batch(), mode=mode)


@pytest.mark.representatives(1)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_minibatch_is_counted_in_transitions_where_an_item_holds_several(mode):
    batches = [make_batch((12, 3), seed=seed) for seed in range(2)]
    by_items, _ = run(replace(CONFIG, minibatch_size=4), *batches, mode=mode)
    by_transitions, _ = run(replace(CONFIG, minibatch_size=12), *batches, mode=mode, item_size=3)
    assert by_transitions.optimizer.iterations == 2 * 2 * 3
    for a, b in zip(by_transitions.policy.weights, by_items.policy.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_minibatches_that_do_not_divide_into_items_are_refused():
    with pytest.raises(UsageError, match=r"minibatch_size = 10 .* item_size = 3"):
        make_learner(replace(CONFIG, minibatch_size=10), item_size=3)
    with pytest.raises(UsageError, match=r"the batch = 36 .* minibatch_size = 15"):
        run(replace(CONFIG, minibatch_size=15), make_batch((12, 3)), item_size=3)
    with pytest.raises(UsageError, match=r"minibatch_size = 2 .* the number of replicas x 3 = 3"):
        make_learner(replace(CONFIG, minibatch_size=6, num_micro_batches=3), item_size=3)


@pytest.mark.representatives(2)
@pytest.mark.parametrize("shape", [(12,), (12, 3)], ids=["transitions", "sequences"])
@pytest.mark.parametrize("pieces", [2, 12])
def test_micro_batches_add_up_to_the_minibatch(shape, pieces):
    batch = make_batch(shape)
    batch.mask[:3] = False  # micro-batches with different numbers of counted entries, one with none
    config = replace(PLAIN, kl_coeff=1.0)
    whole, metrics = gradient(config, batch)
    parts, part_metrics = gradient(replace(config, num_micro_batches=pieces), batch)
    assert_close(parts, whole)
    for name, value in metrics.items():
        np.testing.assert_allclose(part_metrics[name], value, 1e-4, 1e-6, err_msg=name)


class EmbeddingPolicy(LinearPolicy):
    """A policy with a table of logits. The gradient of a table is sparse."""

    def evaluate_actions(self, inputs, actions):
        logits = tf.nn.embedding_lookup(self.actor.value, tf.argmax(inputs, axis=-1))
        distribution = Categorical(logits)
        values = tf.einsum("...f,f->...", inputs, self.critic.value)
        return ActionEvaluation(distribution.log_prob(actions), distribution.entropy(), values, distribution)


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    ("num_micro_batches", "max_grad_norm", "mode"),
    [(1, None, "eager"), (1, 0.01, "eager"), (3, None, "eager"), (3, 0.01, "graph")],
)
def test_sparse_gradients_are_worth_what_dense_ones_are(num_micro_batches, max_grad_norm, mode):
    """A lookup of rows, some of them repeated in a micro-batch, equals a product with one-hot vectors."""
    batch = make_batch(inputs=np.eye(3)[[0, 0, 2, 0, 1, 1, 0, 2, 2, 2, 0, 0]])
    config = replace(PLAIN, num_micro_batches=num_micro_batches, max_grad_norm=max_grad_norm, kl_coeff=1.0)
    learners = [PPOLearner(make(), config, 4, mode=mode) for make in (EmbeddingPolicy, LinearPolicy)]
    metrics = [learner.update(tensors(batch)) for learner in learners]
    assert_close(learners[0].policy.weights, learners[1].policy.weights, atol=1e-6)
    assert_differ(learners[0].policy.weights, START)
    np.testing.assert_allclose(metrics[0]["policy/grad_norm"], metrics[1]["policy/grad_norm"], rtol=1e-4)


def test_rows_count_alike_in_any_order():
    batch = make_batch()
    order = np.random.default_rng(0).permutation(12)
    config = replace(PLAIN, kl_coeff=1.0)
    expected, _ = gradient(config, batch)
    shuffled, _ = gradient(config, tf.nest.map_structure(lambda x: x if x is None else x[order], batch))
    assert_close(shuffled, expected)


def test_sequences_equal_their_tokens():
    """The same tokens give the same gradient as [N, T] and as N * T transitions."""
    sequences = make_batch((12, 3))
    tokens = tf.nest.map_structure(lambda x: x if x is None else x.reshape(36, *x.shape[2:]), sequences)
    expected, metrics = gradient(replace(PLAIN, minibatch_size=36, kl_coeff=1.0), tokens)
    slopes, sequence_metrics = gradient(replace(PLAIN, kl_coeff=1.0), sequences)
    assert_close(slopes, expected)
    for name, value in metrics.items():
        np.testing.assert_allclose(sequence_metrics[name], value, 1e-4, 1e-6, err_msg=name)


# ----- Masks


@pytest.mark.representatives(8)
@pytest.mark.parametrize("filler", [1e3, np.nan], ids=["garbage", "nan"])
@pytest.mark.parametrize("kl_coeff", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["exact", "samples", "reference"])
@pytest.mark.parametrize("shape", [(12,), (12, 3)], ids=["transitions", "sequences"])
def test_what_is_masked_changes_nothing(filler, kl_coeff, kind, shape):
    batch = make_batch(shape)
    if kind != "exact":
        batch = batch._replace(old_distribution=None)
    if kind == "reference":
        batch = batch._replace(reference_log_probs=reference_log_probs(batch))

    def fill(x):
        if x is None or x.dtype.kind != "f":
            return x
        return np.where(batch.mask.reshape(*shape, *[1] * (x.ndim - len(shape))), x, filler)

    config = replace(PLAIN, kl_coeff=kl_coeff, value_clip=0.1, dual_clip=1.5)
    filled = tf.nest.map_structure(fill, batch)._replace(inputs=batch.inputs)
    filled = filled._replace(actions=np.where(batch.mask, batch.actions, 0))
    expected, metrics = gradient(config, batch)
    slopes, masked_metrics = gradient(config, filled)
    assert_close(slopes, expected, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(masked_metrics[name], value, 1e-4, 1e-6, err_msg=name)


def test_a_ratio_out_of_all_bounds_leaves_the_weights_finite():
    batch = make_batch(mask=np.ones(12, bool))._replace(old_distribution=None)
    batch.old_log_probs[0] -= 100
    learner, metrics = run(replace(CONFIG, kl_coeff=1.0), batch)
    assert np.isfinite(metrics["loss/kl"])
    assert all(np.isfinite(variable.numpy()).all() for variable in learner.policy.trainable_variables)


def test_explained_variance_is_that_of_the_masked_rollout():
    batch = make_batch()
    batch.returns[~batch.mask] = 1e3
    _, metrics = run(CONFIG, batch)
    errors, returns = (x[batch.mask] for x in (batch.returns - batch.old_values, batch.returns))
    np.testing.assert_allclose(metrics["value/explained_variance"], 1 - errors.var() / returns.var(), rtol=1e-4)


def with_value_mask(shape=(12, 3), seed=0):
    """A batch with a value mask: that of the first item is the inverse of its mask, the others have one entry more."""
    batch = make_batch(shape, seed=seed)
    value_mask = batch.mask | np.roll(batch.mask, 1, axis=-1)
    value_mask[0] = ~batch.mask[0]
    assert (value_mask & ~batch.mask).any() and (batch.mask & ~value_mask).any()
    return batch._replace(value_mask=value_mask)


@pytest.mark.parametrize("num_micro_batches", [1, 3])
def test_the_value_mask_counts_for_the_values_and_the_mask_for_the_rest(num_micro_batches):
    config = replace(PLAIN, num_micro_batches=num_micro_batches, value_clip=0.1, kl_coeff=1.0)
    batch = with_value_mask()
    slopes, metrics = gradient(config, batch)
    expected, row = slow_gradient(replace(config, num_micro_batches=1), batch)
    assert_close(slopes, expected)
    assert_differ(slopes, gradient(config, batch._replace(value_mask=None))[0])
    for name, value in row.items():
        np.testing.assert_allclose(metrics[name], value, 1e-4, 1e-5, err_msg=name)
    errors, returns = (x[batch.value_mask] for x in (batch.returns - batch.old_values, batch.returns))
    np.testing.assert_allclose(metrics["value/explained_variance"], 1 - errors.var() / returns.var(), rtol=1e-4)


def test_what_the_value_mask_leaves_out_changes_nothing():
    config = replace(PLAIN, value_clip=0.1)
    batch = with_value_mask()
    filled = batch._replace(
        old_values=np.where(batch.value_mask, batch.old_values, np.nan),
        returns=np.where(batch.value_mask, batch.returns, np.nan),
        advantages=np.where(batch.mask, batch.advantages, np.nan),
        old_log_probs=np.where(batch.mask, batch.old_log_probs, np.nan),
    )
    expected, metrics = gradient(config, batch)
    slopes, filled_metrics = gradient(config, filled)
    assert_close(slopes, expected, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(filled_metrics[name], value, 1e-4, 1e-6, err_msg=name)


# ----- Gradient clipping, early stop


def test_gradients_are_clipped_by_their_global_norm_and_reported_before():
    batch = make_batch()
    whole, metrics = gradient(PLAIN, batch)
    clipped, clipped_metrics = gradient(replace(PLAIN, max_grad_norm=0.01), batch)
    norm = global_norm(whole)
    assert norm > 0.1
    np.testing.assert_allclose([metrics["policy/grad_norm"], clipped_metrics["policy/grad_norm"]], norm, rtol=1e-4)
    assert_close(clipped, [slope * 0.01 / norm for slope in whole], atol=1e-6)
    untouched, _ = gradient(replace(PLAIN, max_grad_norm=2 * float(norm)), batch)
    assert_close(untouched, whole)


@pytest.mark.representatives(1)
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_target_kl_skips_the_step_that_goes_too_far_and_all_after_it(mode):
    """The first steps are taken, then a step with a very large learning rate exceeds target_kl within an epoch.

    The rule for the KL coefficient uses the minibatches that were evaluated.
    """
    batch = make_batch(weights=START)
    settings = {"target_kl": 0.01, "kl_coeff": 1e-6, "kl_controller": "schulman", "adaptive_kl_target": 1e-4}
    config = replace(CONFIG, num_epochs=5, minibatch_size=3, learning_rate=1.0, **settings)
    learner, metrics = run(config, batch, mode=mode)
    slow = SlowLearner(config, 4)
    rows = slow.update(batch)
    kls = [row["policy/approx_kl"] for row in rows]
    assert 1 <= slow.steps <= 2 and len(kls) == slow.steps + 1 and kls[-1] > 0.015 > max(kls[:-1])
    assert learner.optimizer.iterations == slow.steps
    assert_close(learner.policy.weights, slow.weights)
    np.testing.assert_allclose(metrics["policy/approx_kl"], mean_over_minibatches(rows, "policy/approx_kl"), rtol=1e-4)
    np.testing.assert_allclose(learner.kl_coeff.numpy(), 2e-6, rtol=1e-6)
    unstopped, _ = run(replace(config, target_kl=None), batch)
    assert unstopped.optimizer.iterations == 20
    assert_differ(unstopped.policy.weights, slow.weights)


def test_target_kl_stops_only_above_one_and_a_half_times_itself():
    batch = make_batch()
    _, metrics = gradient(PLAIN, batch)
    for factor, steps in ((1.4, 0), (1.6, 1)):
        learner, _ = run(replace(PLAIN, target_kl=metrics["policy/approx_kl"] * factor / 1.5**2), batch)
        assert learner.optimizer.iterations == steps


# ----- Schedules


def test_schedules_follow_the_iteration_and_not_the_steps():
    """Every iteration stops before its first step, but the rates still fall."""
    config = replace(
        CONFIG, target_kl=1e-6, learning_rate=0.04, clip_ratio=0.4, clip_ratio_schedule="linear", minibatch_size=12
    )
    batch = make_batch(mask=np.ones(12, bool))
    distance = np.abs(np.exp(evaluate(START, batch.inputs, batch.actions)[0] - batch.old_log_probs) - 1)
    learner = make_learner(config)
    for iteration in range(4):
        metrics = learner.update(tensors(batch))
        np.testing.assert_allclose(metrics["schedule/learning_rate"], 0.04 * (1 - iteration / 4), rtol=1e-6)
        clip_ratio = 0.4 * (1 - iteration / 4)
        np.testing.assert_allclose(metrics["policy/clip_fraction"], (distance > clip_ratio).mean(), rtol=1e-6)
    assert learner.optimizer.iterations == 0 and learner.iteration == 4
    assert len({(distance > 0.1 * k).mean() for k in (1, 2, 3, 4)}) > 2  # the clip ratio had an effect


def test_the_entropy_bonus_follows_its_schedule():
    half_way = make_learner(replace(PLAIN, entropy_coeff=0.4, entropy_coeff_schedule="linear"), num_iterations=2)
    half_way.iteration.assign(1)
    metrics = half_way.update(tensors(make_batch()))
    constant = {"learning_rate_schedule": "constant", "learning_rate": PLAIN.learning_rate / 2}
    half, _ = run(replace(PLAIN, entropy_coeff=0.2, **constant), make_batch())
    assert_close(half_way.policy.weights, half.policy.weights, rtol=1e-5, atol=1e-6)
    assert_differ(half.policy.weights, run(replace(PLAIN, **constant), make_batch())[0].policy.weights)
    np.testing.assert_allclose(metrics["schedule/entropy_coeff"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(metrics["schedule/clip_ratio"], PLAIN.clip_ratio, rtol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_each_epoch_has_advantages_and_returns_by_the_values_as_they_then_are(mode):
    """Two epochs equal two updates of one epoch on the same rollout, with new advantages for the second update."""
    batch = tensors(make_batch(mask=np.ones(12, bool)))

    def recomputed(learner, batch):
        values = learner.policy.evaluate_actions(batch.inputs, batch.actions).values
        returns = batch.returns - 20.0 * values  # an arbitrary function of the values
        return batch._replace(advantages=returns - values, returns=returns)

    settings = {"minibatch_size": 12, "learning_rate_schedule": "constant", "max_grad_norm": None}
    both = replace(CONFIG, **settings, recompute_advantages=True)
    at_once = make_learner(both, mode, refresh=lambda batch: recomputed(at_once, batch))
    at_once.update(batch)
    in_turn = make_learner(replace(CONFIG, **settings, num_epochs=1))
    for _ in range(2):
        in_turn.update(recomputed(in_turn, batch))
    assert_close(at_once.policy.weights, in_turn.policy.weights, rtol=1e-4, atol=1e-5)
    once = make_learner(replace(CONFIG, **settings))
    once.update(recomputed(once, batch))
    assert_differ(at_once.policy.weights, once.policy.weights)


def test_recomputing_without_a_way_to_is_refused():
    with pytest.raises(UsageError, match="recompute_advantages"):
        make_learner(replace(CONFIG, recompute_advantages=True))


def test_steps_are_as_long_as_the_schedule_says():
    """Adam's first step in a new direction is as long as the learning rate, also during the warm-up."""
    config = replace(PLAIN, learning_rate=0.04, adam_epsilon=1e-12, warmup_iterations=2)
    learner, metrics = run(config, make_batch(), num_iterations=8)
    np.testing.assert_allclose(metrics["schedule/learning_rate"], 0.04 / 3, rtol=1e-6)
    for before, after in zip(START, learner.policy.weights, strict=True):
        np.testing.assert_allclose(np.abs(after - np.float32(before)), 0.04 / 3, rtol=1e-3)


# ----- KL penalty and entropy bonus


def test_kl_penalty_keeps_the_policy_near_the_old_one():
    batch = make_batch(weights=START)
    settings = {"num_epochs": 4, "max_grad_norm": None, "clip_ratio": 10.0}
    free, free_metrics = run(replace(CONFIG, **settings), batch)
    bound, bound_metrics = run(replace(CONFIG, kl_coeff=30.0, **settings), batch)
    distances = [kl_from_old(learner.policy.weights, batch) for learner in (free, bound)]
    assert distances[0] > 4 * distances[1] > 0
    assert free_metrics["loss/kl"] > 4 * bound_metrics["loss/kl"] > 1e-4  # measured in both cases
    assert free_metrics["schedule/kl_coeff"] == 0.0 and bound_metrics["schedule/kl_coeff"] == 30.0


def test_kl_of_the_first_step_has_no_gradient():
    batch = make_batch(weights=START)
    bound, _ = gradient(replace(PLAIN, kl_coeff=1000.0), batch)
    free, _ = gradient(PLAIN, batch)
    assert_close(bound, free, atol=1e-3)


def test_reference_penalty_pulls_towards_the_reference():
    batch = make_batch()._replace(advantages=np.zeros(12))
    batch = batch._replace(reference_log_probs=reference_log_probs(batch))
    config = replace(CONFIG, kl_coeff=1.0, value_coeff=0.0, entropy_coeff=0.0, learning_rate=0.2, num_epochs=5)
    learner, _ = run(config, batch)

    def distance(weights):
        log_probs = evaluate(weights, batch.inputs, batch.actions)[0]
        return np.abs(log_probs - batch.reference_log_probs)[batch.mask].mean()

    assert distance(learner.policy.weights) < 0.6 * distance(START)


@pytest.mark.representatives(3)
@pytest.mark.parametrize(
    ("rule", "target", "factor"),
    [
        ("fixed", 1e-4, 1.0),
        ("schulman", 1e-4, 2.0),
        ("schulman", 1e4, 0.5),
        ("ziegler", 1e-4, 1 + 0.2 * 12 / 60),
        ("ziegler", 1e4, 1 - 0.2 * 12 / 60),
    ],
)
def test_kl_coefficient_adapts_after_each_update(rule, target, factor):
    learner = make_learner(replace(PLAIN, kl_coeff=0.1, kl_controller=rule, adaptive_kl_target=target, kl_horizon=60))
    used = [float(learner.update(tensors(make_batch()))["schedule/kl_coeff"]) for _ in range(3)]
    np.testing.assert_allclose(used, 0.1 * factor ** np.arange(3), rtol=1e-5)
    np.testing.assert_allclose(learner.kl_coeff.numpy(), 0.1 * factor**3, rtol=1e-5)


def test_adapted_kl_coefficient_is_the_one_that_trains():
    """An update with a coefficient that a rule has changed equals one that starts with this coefficient."""
    batch = make_batch()
    learner = make_learner(replace(PLAIN, kl_coeff=0.5))
    learner.kl_coeff.assign(4.0)
    learner.update(tensors(batch))
    expected, _ = run(replace(PLAIN, kl_coeff=4.0), batch)
    assert_close(learner.policy.weights, expected.policy.weights)
    assert_differ(learner.policy.weights, run(replace(PLAIN, kl_coeff=0.5), batch)[0].policy.weights)


def test_kl_rule_sees_the_last_epoch():
    """The first epoch starts at KL 0. The rule uses the mean of the last epoch, which is between the two targets."""
    batch = make_batch(weights=START)
    config = replace(CONFIG, num_epochs=4, kl_coeff=1e-6, kl_controller="schulman", max_grad_norm=None)
    rows = SlowLearner(config, 4).update(batch)
    last, mean = (mean_over_minibatches(part, "loss/kl") for part in (rows[-2:], rows))
    assert last > 1.5 * mean
    learner, _ = run(replace(config, adaptive_kl_target=float(last * mean) ** 0.5 / 1.5), batch)
    np.testing.assert_allclose(learner.kl_coeff.numpy(), 2e-6, rtol=1e-6)


@pytest.mark.representatives(4)
@pytest.mark.parametrize(
    ("rule", "target", "factor"),
    [
        ("fixed", 1.0, 1.0),
        ("schulman", 1.9, 2.0),
        ("schulman", 2.1, 1.0),
        ("schulman", 4.4, 1.0),
        ("schulman", 4.6, 0.5),
        ("ziegler", 2.7, 1 + (3.0 / 2.7 - 1) * 12 / 60),
        ("ziegler", 100.0, 1 - 0.2 * 12 / 60),
    ],
)
@pytest.mark.parametrize("num_micro_batches", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_rule_steers_by_the_mean_reference_kl_where_the_batch_has_one(rule, target, factor, num_micro_batches):
    """The mean of `reference_kl` is 3. The KL in the loss is far below every target."""
    reference_kl = np.arange(12.0) - 2.5
    batch = make_batch((12, 3))._replace(reference_kl=reference_kl)
    config = replace(
        CONFIG, kl_coeff=0.1, kl_controller=rule, adaptive_kl_target=target, kl_horizon=60, minibatch_size=6
    )
    learner, metrics = run(replace(config, num_micro_batches=num_micro_batches), batch)
    assert metrics["loss/kl"] < 0.5 and reference_kl.mean() == 3.0
    np.testing.assert_allclose(learner.kl_coeff.numpy(), 0.1 * factor, rtol=1e-5)


@pytest.mark.parametrize("with_reference", [False, True])
def test_kl_in_the_reward_is_no_part_of_the_loss(with_reference):
    """The KL is still measured and its coefficient still adapts, because the rewards are made with it."""
    batch = make_batch()
    if with_reference:
        batch = batch._replace(reference_log_probs=reference_log_probs(batch))
    free, free_metrics = gradient(PLAIN, batch)
    settings = {"kl_coeff": 5.0, "kl_controller": "schulman", "adaptive_kl_target": 1e-4}
    slopes, metrics = gradient(replace(PLAIN, kl_in="reward", **settings), batch)
    assert_close(slopes, free, atol=1e-7)
    assert_differ(gradient(replace(PLAIN, kl_in="loss", **settings), batch)[0], free)
    assert metrics["loss/total"] == free_metrics["loss/total"]
    assert metrics["loss/kl"] == free_metrics["loss/kl"] > 0.01 and metrics["schedule/kl_coeff"] == 5.0
    learner, _ = run(replace(PLAIN, kl_in="reward", **settings), batch)
    assert learner.kl_coeff == 10.0


def test_entropy_bonus_raises_the_entropy():
    batch = make_batch()._replace(advantages=np.zeros(12))
    config = replace(CONFIG, value_coeff=0.0, num_epochs=5)
    entropies = []
    for entropy_coeff in (0.0, 1.0):
        learner, _ = run(replace(config, entropy_coeff=entropy_coeff), batch)
        entropies.append(evaluate(learner.policy.weights, batch.inputs, batch.actions)[1][batch.mask].mean())
    start = evaluate(START, batch.inputs, batch.actions)[1][batch.mask].mean()
    np.testing.assert_allclose(entropies[0], start, rtol=1e-6)
    assert start + 0.05 < entropies[1] < np.log(4)


# ----- Options reach the losses


@pytest.mark.parametrize(
    "settings", [{"dual_clip": 1.2}, {"value_clip": 0.05}, {"clip_ratio": 0.01}, {"clip_ratio_high": 3.0}]
)
def test_clip_options_reach_the_losses(settings):
    batch = make_batch()
    batch.old_log_probs[::2] -= 0.5  # some ratios are large enough for the dual clip
    before, _ = gradient(PLAIN, batch)
    slopes, metrics = gradient(replace(PLAIN, **settings), batch)
    expected, row = slow_gradient(replace(PLAIN, **settings), batch)
    assert_close(slopes, expected)
    assert_differ(slopes, before)
    for name in row:
        np.testing.assert_allclose(metrics[name], row[name], 1e-4, 1e-5, err_msg=name)


def test_a_minibatch_weighs_as_much_as_it_has_entries_that_count():
    """Counts of 1 and 2 with losses of 0 and 4: the mean over all entries is 8/3, and the mean of the means is 2."""
    batch = make_batch((4,), weights=START, advantages=np.zeros(4))
    order = random.permutation(4, random.fold_in(random.fold_in(tf.constant([0, 0x0FF5E7]), 0), 0)).numpy()
    alone = order[:2]  # the first minibatch has one entry that counts
    mask = np.ones(4, bool)
    mask[alone[1]] = False
    values = evaluate(START, batch.inputs, batch.actions)[2]
    wanted = np.where(np.isin(np.arange(4), alone), 0.0, 8.0**0.5)  # the loss is half of the squared error
    batch = batch._replace(mask=mask, returns=values + wanted, old_values=values)
    config = replace(PLAIN, minibatch_size=2, num_epochs=1, learning_rate=1e-6, value_clip=None)
    _, metrics = run(config, batch)
    np.testing.assert_allclose(metrics["loss/value"], 8 / 3, rtol=1e-4)
