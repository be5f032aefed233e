"""Rollouts of text: their content, and updates of the learner from them."""

from dataclasses import replace

import numpy as np
import pytest
import reference
import tensorflow as tf

from tfppo.ops.nest import map_tensors
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.text.config import TextConfig
from tfppo.text.models import vocabulary
from tfppo.text.models.reference import copy_of, freeze
from tfppo.text.policy import TextPolicy, TokenInputs, response_log_probs
from tfppo.text.rollouts.batch import to_batch
from tfppo.text.rollouts.rollout import TextCollector
from tfppo.text.rollouts.sampling import StopCondition
from tfppo.training.pipeline import prompt_dataset, rollout_dataset

END, B, R = 1, 8, 6
BETA = 0.3
PPO = PPOConfig(gamma=0.9, gae_lambda=0.8, kl_in="reward", kl_coeff=BETA, num_epochs=1, minibatch_size=B)
# With this large epsilon the first step of Adam is minus the gradient: sqrt(1 - beta_2) learning_rate / epsilon = 1.
PLAIN = {"adam_epsilon": 1e4, "learning_rate": 1e4 / 0.001**0.5, "max_grad_norm": None, "value_clip": 0.2}


def text_config(**settings):
    return TextConfig(batch_size=B, response_length=R, **settings)


def score(prompts, responses):
    """Gives different responses, and responses to different prompts, different scores."""
    pairs = zip(prompts, responses, strict=True)
    return np.array([0.3 * len(r) - 0.1 * p + (sum(r) + p) % 5 for p, r in pairs], float)


def number(k):
    return tf.constant(k, tf.int64)


@pytest.fixture(scope="module")
def prompts(prompts):
    """Prompts, their lengths and their indices, as in a batch of `prompt_dataset`."""
    return *prompts, tf.range(10, 10 + B)


# ----- Whole iterations


def test_an_iteration_in_chunks_is_the_iteration_at_once(make_model, prompts, monkeypatch):
    """A chunk has 7 of 48 tokens, and the layers are computed again."""
    results = []
    for in_chunks in (False, True):
        parts = Parts(make_model("gpt2"), make_model("gpt2", seed=5), temperature=0.8)
        set_head(parts.policy)
        if in_chunks:
            monkeypatch.setattr(vocabulary, "MAX_LOGITS", 7 * 20)
            parts.policy.model.rematerialize()
        rollout = parts.collector.collect(number(0), *prompts)
        metrics = parts.learner(PPO, 4, "eager").update(rollout)
        results.append([*rollout[4:7], *metrics.values(), *parts.policy.model.model.get_weights()])
    before = make_model("gpt2").model.get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(results[0][-len(before) :], before, strict=True)) > 1e-4
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


# ----- Collecting


class Parts:
    """A policy, a reference policy of the same class, and their collector.

    `scorer` gets the indices of the prompts, and the responses as lists of tokens without padding. Half of its scores
    are the scaled scores.
    """

    def __init__(self, model, other=None, scorer=score, mode="eager", chunk=B, seed=0, beta=BETA, **settings):
        self.text = text_config(**settings)
        self.policy = TextPolicy(model, self.text.temperature)
        self.reference = freeze(copy_of(model) if other is None else other)
        self.given = []
        self.scorer = scorer
        options = {
            "kl_coeff": tf.Variable(beta, trainable=False),
            "stop_condition": StopCondition(END),
            "chunk": chunk,
            "seed": seed,
            "sampling_mode": mode,
            "mode": mode,
        }
        self.collector = TextCollector(self.policy, self.reference, self.score, self.text, **options)

    def learner(self, ppo, num_iterations, mode):
        prepare = lambda rollout: to_batch(rollout, self.text, ppo)  # noqa: E731
        return PPOLearner(self.policy, ppo, num_iterations, prepare=prepare, mode=mode)

    def score(self, prompt_indices, responses, mask, rows):
        """Scores on the host, and returns two made-up metrics of the texts."""
        asked = prompt_indices[rows].tolist()
        answers = [responses[row, mask[row]].tolist() for row in rows]
        self.given.append((asked, answers))
        scores = np.asarray(self.scorer(asked, answers), np.float32)
        return [scores, scores / 2, np.array(len(mask), np.float64), np.array(1 / 3, np.float64)]


def set_head(policy):
    """Gives the value head random weights, so that values differ."""
    rng = np.random.default_rng(0)
    policy.value_head.set_weights([rng.normal(size=w.shape) for w in policy.value_head.get_weights()])


@pytest.fixture(scope="module")
def parts(shared_model):
    parts = Parts(shared_model("gpt2"), shared_model("gpt2", seed=5), temperature=0.8)
    set_head(parts.policy)
    return parts


@pytest.fixture(scope="module")
def rollout(parts, prompts):
    return parts.collector.collect(number(3), *prompts)


def test_a_rollout_is_what_policy_and_reference_say_of_the_responses(parts, rollout, prompts):
    inputs = TokenInputs(rollout.token_ids, prompts[1])
    evaluation = parts.policy.evaluate_actions(inputs, rollout.responses)
    np.testing.assert_array_equal(rollout.log_probs, evaluation.log_probs)
    np.testing.assert_array_equal(rollout.values, evaluation.values)
    expected = response_log_probs(parts.reference, inputs, rollout.responses, 0.8)
    np.testing.assert_array_equal(rollout.reference_log_probs, expected)
    assert np.std(rollout.values) > 0.5 and np.abs(rollout.log_probs - rollout.reference_log_probs).max() > 1
    np.testing.assert_array_equal(rollout.prompt_lengths, prompts[1])


def test_responses_are_where_their_prompts_end(rollout, prompts):
    tokens, lengths = (x.numpy() for x in prompts[:2])
    for n, length in enumerate(lengths):
        row, kept = rollout.token_ids[n].numpy(), rollout.responses[n].numpy()[rollout.mask[n]].tolist()
        assert row.tolist() == tokens[n, :length].tolist() + kept + [0] * (len(row) - length - len(kept))
        assert kept.count(END) == int(rollout.ended[n]) and END not in kept[:-1]
        assert len(kept) == R or kept[-1] == END
    assert 0 < rollout.ended.numpy().sum() < B


def test_a_response_that_stopped_has_ended(shared_model, prompts):
    parts = Parts(shared_model("gpt2"))
    parts.collector.stop_condition = StopCondition(END, 7, 2)
    rollout = parts.collector.collect(number(3), *prompts)
    rows = [row[kept].tolist() for row, kept in zip(rollout.responses.numpy(), rollout.mask.numpy(), strict=True)]
    ended = [row[-1] == END or (row[-1] == 7 and len(row) > 2) for row in rows]
    np.testing.assert_array_equal(rollout.ended, ended)
    assert 0 < sum(ended) < B and any(row[-1] == 7 for row in rows)


def test_the_scorer_is_given_tokens_without_padding_once(shared_model, prompts):
    parts = Parts(shared_model("gpt2"))
    rollout = parts.collector.collect(number(0), *prompts)
    ((given_prompts, responses),) = parts.given
    assert given_prompts == prompts[2].numpy().tolist() == rollout.prompt_indices.numpy().tolist()
    pairs = zip(rollout.responses.numpy(), rollout.mask.numpy(), strict=True)
    assert responses == [row[kept].tolist() for row, kept in pairs]
    assert any(row[-1] == END for row in responses) and len(set(map(len, responses))) > 1
    np.testing.assert_allclose(rollout.raw_scores, score(given_prompts, responses), rtol=1e-6)
    np.testing.assert_array_equal(rollout.scores, rollout.raw_scores / 2)
    assert rollout.scores.dtype == rollout.raw_scores.dtype == tf.float32


def test_metrics_are_means_over_responses(rollout):
    mask, count = rollout.mask.numpy(), rollout.mask.numpy().sum(axis=1)
    log_ratio = (rollout.log_probs - rollout.reference_log_probs).numpy()
    expected = {
        "text/score_mean": np.mean(rollout.raw_scores),
        "text/score_std": np.std(rollout.raw_scores),
        "text/scaled_score_mean": np.mean(rollout.raw_scores) / 2,
        "text/kl": np.mean([row[kept].sum() for row, kept in zip(log_ratio, mask, strict=True)]),
        "text/response_tokens_mean": count.mean(),
        "text/eos_fraction": np.mean(rollout.ended),
        "text/response_length_mean": B,  # the scorer's number, unchanged
        "text/distinct_2": 1 / 3,
    }
    for name in ("text/response_length_mean", "text/distinct_2"):
        assert float(rollout.metrics[name]) == expected[name]
    metrics = dict(rollout.metrics)
    assert metrics.pop("text/sampler_gap") < 1e-4
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_the_sampler_gap_is_the_largest_difference_between_sampling_and_the_full_pass(shared_model, prompts):
    parts = Parts(shared_model("gpt2"))
    sampled = parts.collector._sample

    def slightly_wrong(*arguments):
        samples = sampled(*arguments)
        wrong = samples.log_probs.numpy()
        wrong[2, 0] -= 0.5
        wrong[~samples.mask.numpy()] = 7.0  # outside the mask, so it must not count
        return samples._replace(log_probs=tf.constant(wrong))

    parts.collector._sample = slightly_wrong
    gap = parts.collector.collect(number(0), *prompts).metrics["text/sampler_gap"]
    np.testing.assert_allclose(gap, 0.5, atol=1e-4)


@pytest.mark.representatives(2)
def test_the_kl_of_a_policy_to_itself_is_exactly_zero_whatever_its_dropout(model, prompts):
    assert getattr(model.model, "backbone", model.model).dropout > 0
    rollout = Parts(model).collector.collect(number(0), *prompts)
    np.testing.assert_array_equal(rollout.log_probs, rollout.reference_log_probs)
    assert rollout.metrics["text/kl"] == 0.0 and rollout.metrics["text/sampler_gap"] < 1e-4
    np.testing.assert_array_equal(rollout.values, 0.0)


def test_iteration_and_seed_fix_the_responses(shared_model, parts, rollout, prompts):
    again = parts.collector.collect(number(3), *prompts)
    tf.nest.map_structure(np.testing.assert_array_equal, again, rollout)
    others = [parts.collector.collect(number(4), *prompts)]
    others.append(Parts(shared_model("gpt2"), temperature=0.8, seed=1).collector.collect(number(3), *prompts))
    for other in others:
        assert (other.responses != rollout.responses).numpy().mean() > 0.5


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_size_of_the_chunks_changes_nothing(shared_model, parts, rollout, prompts, chunk):
    cut = Parts(shared_model("gpt2"), shared_model("gpt2", seed=5), temperature=0.8, chunk=chunk)
    set_head(cut.policy)
    pieces = cut.collector.collect(number(3), *prompts)
    for name in ("responses", "mask"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(rollout, name))
    for name in ("log_probs", "reference_log_probs", "values", "scores", "raw_scores"):
        np.testing.assert_allclose(getattr(pieces, name), getattr(rollout, name), atol=1e-5)


@pytest.mark.parametrize("error", [ValueError("no score today"), StopIteration("no score today"), KeyError("x")])
def test_what_the_scorer_raises_inside_tf_data_is_raised_again(bigram, prompts, error):
    def failing(*_):
        raise error

    model = bigram(np.random.default_rng(0).normal(size=[20, 20]))
    collector = TextCollector(
        TextPolicy(model),
        model,
        failing,
        text_config(),
        kl_coeff=tf.Variable(BETA),
        stop_condition=StopCondition(END),
        chunk=B,
    )
    elements = iter(rollout_dataset(collector.collect, source=tf.data.Dataset.from_tensors(prompts).repeat()))
    with pytest.raises((type(error), RuntimeError)) as caught, collector.raising_own_errors():
        next(elements)
    # A StopIteration that leaves a generator becomes the cause of a RuntimeError.
    assert (caught.value.__cause__ if isinstance(error, StopIteration) else caught.value) is error


def test_a_rollout_says_with_which_coefficient_it_is_rewarded(shared_model, prompts):
    parts = Parts(shared_model("gpt2"), beta=0.25)
    assert parts.collector.collect(number(0), *prompts).kl_coeff == 0.25
    parts.collector.kl_coeff.assign(0.5)
    assert parts.collector.collect(number(1), *prompts).kl_coeff == 0.5


# ----- Learning from rollouts


def make_batch(rollout, position="after_end", kl_in="reward"):
    """Makes the batch of a rollout; changes values and log-probabilities, as if an older policy had computed them."""
    rng = np.random.default_rng(1)
    old = {name: getattr(rollout, name) + rng.normal(0.0, 0.2, [B, R]) for name in ("log_probs", "values")}
    text = text_config(score_position=position)
    return to_batch(rollout._replace(**old), text, replace(PPO, kl_in=kl_in))


def gradient(make_model, batch, kind="gpt2", **settings):
    """Returns what one step subtracts from the weights, and the metrics."""
    policy = TextPolicy(make_model(kind), 0.8)
    set_head(policy)
    learner = PPOLearner(policy, replace(PPO, **PLAIN | settings), 4, mode="eager")
    before = [variable.numpy() for variable in policy.trainable_variables]
    metrics = {name: float(value) for name, value in learner.update(batch).items()}
    pairs = zip(before, policy.trainable_variables, strict=True)
    return np.concatenate([np.reshape(old - variable.numpy(), -1) for old, variable in pairs]), metrics


def assert_same_step(actual, expected):
    (slopes, metrics), (expected_slopes, expected_metrics) = actual, expected
    scale = np.abs(expected_slopes).max()
    assert scale > 0.01
    np.testing.assert_allclose(slopes, expected_slopes, atol=2e-5 * scale)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def wider(batch, slots, columns):
    """Returns the same batch with more padding: `slots` for the responses, `slots + columns` for the sequences."""
    behind = [[0, 0], [0, slots]]
    fields = {
        name: tf.pad(getattr(batch, name), behind, constant_values=0 if name.endswith("mask") else 3)
        for name in ("actions", "old_log_probs", "old_values", "advantages", "returns", "mask", "value_mask")
    }
    ids = tf.pad(batch.inputs.token_ids, [[0, 0], [0, slots + columns]], constant_values=9)
    return batch._replace(inputs=batch.inputs._replace(token_ids=ids), **fields)


@pytest.fixture(scope="module")
def batch(rollout):
    return make_batch(rollout)


@pytest.fixture(scope="module")
def step(make_model, batch):
    return gradient(make_model, batch)


def test_metrics_of_an_update_equal_the_slow_ones(parts, batch, step):
    evaluation = parts.policy.evaluate_actions(batch.inputs, batch.actions)
    mask, value_mask = batch.mask.numpy(), batch.value_mask.numpy()
    assert (value_mask & ~mask).any() and mask.sum() < mask.size
    advantages = reference.whiten(batch.advantages.numpy(), mask)
    log_probs, old = evaluation.log_probs.numpy(), batch.old_log_probs.numpy()
    policy_loss, expected = reference.clipped_surrogate_loss(log_probs, old, advantages, 0.2, mask)
    value_loss, value_metrics = reference.clipped_value_loss(
        evaluation.values.numpy(), batch.old_values.numpy(), batch.returns.numpy(), 0.2, value_mask
    )
    entropy = reference.mean(reference.counted(evaluation.entropies.numpy(), mask))
    expected |= value_metrics | {"loss/policy": policy_loss, "loss/value": value_loss, "policy/entropy": entropy}
    expected["loss/total"] = policy_loss + 0.5 * value_loss - 0.01 * entropy
    variance = reference.explained_variance(batch.old_values.numpy(), batch.returns.numpy(), value_mask)
    expected["value/explained_variance"] = variance
    for name, value in expected.items():
        np.testing.assert_allclose(step[1][name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pieces", [2, 8])
def test_micro_batches_add_up_to_the_same_step(make_model, batch, step, pieces):
    counts = batch.mask.numpy().reshape(pieces, -1).sum(axis=1)
    assert len(set(counts)) > 1
    assert_same_step(gradient(make_model, batch, num_micro_batches=pieces), step)


@pytest.mark.parametrize(("slots", "columns"), [(0, 6), (3, 0), (2, 3)])
def test_more_padding_leaves_the_step_as_it_is(make_model, batch, step, slots, columns):
    assert_same_step(gradient(make_model, wider(batch, slots, columns)), step)


def test_what_is_padded_leaves_the_step_as_it_is(make_model, batch, step):
    """Padded tokens are replaced, and padded numbers are NaN."""
    mask, value_mask, lengths = batch.mask, batch.value_mask, batch.inputs.prompt_lengths[:, None]
    ids = batch.inputs.token_ids
    is_text = tf.range(ids.shape[1]) < lengths + tf.reduce_sum(tf.cast(mask, tf.int32), axis=1, keepdims=True)
    assert not tf.reduce_all(is_text)
    poisoned = batch._replace(
        inputs=batch.inputs._replace(token_ids=tf.where(is_text, ids, 11)),
        actions=tf.where(mask, batch.actions, 11),
        old_log_probs=tf.where(mask, batch.old_log_probs, np.nan),
        advantages=tf.where(mask, batch.advantages, np.nan),
        old_values=tf.where(value_mask, batch.old_values, np.nan),
        returns=tf.where(value_mask, batch.returns, np.nan),
    )
    assert_same_step(gradient(make_model, poisoned), step)


def test_the_order_of_the_batch_leaves_the_step_as_it_is(make_model, batch, step):
    order = np.random.default_rng(0).permutation(B)
    assert_same_step(gradient(make_model, map_tensors(lambda x: tf.gather(x, order), batch)), step)


@pytest.mark.parametrize("kind", ["llama", "lstm"])
def test_the_other_models_take_the_same_step_in_pieces_and_with_more_padding(make_model, batch, kind):
    expected = gradient(make_model, batch, kind)
    assert_same_step(gradient(make_model, wider(batch, 2, 3), kind, num_micro_batches=4), expected)


def test_the_kl_to_the_reference_has_a_gradient_only_where_it_is_part_of_the_loss(make_model, rollout):
    in_reward, in_loss = (make_batch(rollout, kl_in=kl_in) for kl_in in ("reward", "loss"))
    steps = [gradient(make_model, in_loss, kl_in="loss", kl_coeff=k)[0] for k in (0.0, 10.0)]
    assert np.abs(steps[1] - steps[0]).max() > 0.1
    steps = [gradient(make_model, in_reward, kl_in="reward", kl_coeff=k)[0] for k in (0.0, 10.0)]
    np.testing.assert_array_equal(steps[0], steps[1])


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        pytest.param("gpt2", "graph", marks=pytest.mark.slow),
        ("llama", "graph"),
        pytest.param("lstm", "graph", marks=pytest.mark.slow),
        pytest.param("gpt2", "xla", marks=pytest.mark.slow),
        pytest.param("lstm", "xla", marks=pytest.mark.slow),
    ],
)
def test_three_iterations_of_one_program(make_model, prompts, kind, mode):
    """The update is traced once, the first ratio is 1, the first KL 0, and the reference does not change."""
    model = make_model(kind, num_layers=1)
    before = model.model.get_weights()
    parts = Parts(model, mode=mode, chunk=4)
    learner = parts.learner(replace(PPO, num_micro_batches=2, learning_rate=0.01), 4, mode)
    source = prompt_dataset(*prompts[:2], B, seed=0)
    rows = []
    for rollout in rollout_dataset(parts.collector.collect, source=source).take(3):
        rows.append({k: float(v) for k, v in {**rollout.metrics, **learner.update(rollout)}.items()})
    assert learner.update.experimental_get_tracing_count() == 1
    assert rows[0]["text/kl"] == 0.0
    assert rows[1]["text/kl"] != 0.0 != rows[2]["text/kl"] != rows[1]["text/kl"]
    for row in rows:  # the minibatch is the whole rollout and there is one epoch, so the ratios are 1
        assert abs(row["policy/ratio_max"] - 1) < 1e-5 and abs(row["policy/approx_kl"]) < 1e-9
        assert row["text/sampler_gap"] < 1e-4
    for weight, was in zip(parts.reference.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, was)
    assert sum((weight != was).any() for weight, was in zip(model.model.get_weights(), before, strict=True)) >= 4


@pytest.mark.slow
def test_a_policy_learns_what_is_rewarded(make_model, prompts):
    """The share of token 7 rises from 1/20 to most of a response; a large KL coefficient keeps the KL smaller."""
    many = [tf.repeat(x, 4, axis=0) for x in prompts[:2]]
    runs = []
    for beta in (0.01, 1.0):
        model = make_model("gpt2", num_layers=1)
        parts = Parts(model, scorer=lambda _, rs: [r.count(7) for r in rs], mode="graph", beta=beta)
        ppo = replace(PPO, gamma=1.0, gae_lambda=0.95, kl_coeff=beta, num_epochs=4, learning_rate=0.01)
        learner = parts.learner(ppo, 15, "graph")
        dataset = rollout_dataset(parts.collector.collect, source=prompt_dataset(*many, 4 * B, 0))
        rows = []
        for rollout in dataset.take(15):
            learner.update(rollout)
            rows.append([float(rollout.metrics[name]) for name in ("text/score_mean", "text/kl")])
        runs.append(np.array(rows))
    free, bound = runs
    assert free[0, 0] < 0.6 and free[-3:, 0].mean() > 3.0
    assert bound[-3:, 1].mean() < free[-3:, 1].mean() / 2
