"""Measures of tokens in chunks of the vocabulary: equal to those of all logits at once, without their memory."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from reference import softmax
from support.families import FAMILIES, make_family

from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.ppo.types import Batch
from tfppo.text.models import vocabulary
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.reference import as_language_model
from tfppo.text.models.vocabulary import logits_at_once, measure_tokens
from tfppo.text.policy import TextPolicy, TokenInputs, token_log_probs

N, R, WIDTH, TEMPERATURE = 3, 5, 16, 0.7
RNG = np.random.default_rng(3)
HIDDEN = tf.constant(RNG.normal(size=[N, R, WIDTH]), tf.float32)
TOKENS = tf.constant(RNG.integers(0, 20, [N, R]), tf.int32)
WEIGHTS = tf.constant(RNG.normal(size=[2, N, R]), tf.float32)
QUICK = ("GPT2", "Llama", "Gemma2", "Gemma3")  # tied, not tied, soft-capped, scaled
MEASURE = functools.partial(token_log_probs, temperature=TEMPERATURE)


@functools.cache
def family(name, dtype="float32"):
    return as_language_model(make_family(name, dtype=dtype))


@pytest.fixture
def chunks_of(monkeypatch):
    """Limits the chunks to a number of positions."""
    return lambda model, rows: monkeypatch.setattr(vocabulary, "MAX_LOGITS", rows * model.vocabulary_size)


def evaluate(model, hidden=HIDDEN, tokens=TOKENS, weights=WEIGHTS):
    """Returns log-probabilities, entropies, and the slopes of a sum of both: of the states and of trained weights."""
    trained = [v.value for v in model.output_variables if any(v is other for other in model.trainable_variables)]
    with tf.GradientTape() as tape:
        tape.watch([hidden, *trained])
        log_probs, entropies = measure_tokens(model, hidden, tokens, MEASURE, outputs=2)
        total = tf.reduce_sum(weights[0] * log_probs) + tf.reduce_sum(weights[1] * entropies)
    return [log_probs, entropies, *tape.gradient(total, [hidden, *trained])]


def assert_equal(found, expected, rtol=2e-6):
    assert len(found) == len(expected) > 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=rtol * np.abs(other).max())


def test_measures_in_chunks_equal_the_slow_ones(model, chunks_of):
    chunks_of(model, 4)
    log_probs, entropies = evaluate(model)[:2]
    logits = model.logits(HIDDEN).numpy().astype(float) / TEMPERATURE
    for n, t in np.ndindex(N, R):
        p = np.array(softmax(logits[n, t]))
        np.testing.assert_allclose(log_probs[n, t], np.log(p[TOKENS[n, t]]), atol=1e-5)
        np.testing.assert_allclose(entropies[n, t], -(p * np.log(p)).sum(), atol=1e-5)
    assert np.std(log_probs) > 0.1 and np.std(entropies) > 0.01


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAMILIES])
def test_chunks_give_the_same_numbers_and_slopes(name, chunks_of):
    model = family(name)
    expected = evaluate(model)
    assert np.abs(expected[3]).max() > 0.1  # of the output embedding
    for rows in (1, 4, 14):  # 15 positions: the last chunk has padding with 4 and with 14
        chunks_of(model, rows)
        assert_equal(evaluate(model), expected)


def test_so_they_do_with_an_lstm_and_with_adapters(shared_model, chunks_of):
    adapted = as_language_model(make_family("Llama tied"))
    add_adapters(adapted.model, 2)
    adapted.model.backbone.token_embedding.trainable = True
    adapted.model.backbone.token_embedding.enable_lora(2)
    head = adapted.model.backbone.token_embedding
    head.lora_embeddings_b.assign(tf.ones_like(head.lora_embeddings_b))
    for model, slopes in ((shared_model("lstm"), 2), (adapted, 3), (WithoutAdapters(adapted), 1)):
        expected = evaluate(model)
        assert len(expected) == 2 + slopes
        chunks_of(model, 4)
        assert_equal(evaluate(model), expected)
        chunks_of(model, 99)


@pytest.mark.representatives(2)
@pytest.mark.parametrize("mode", ["graph", "xla"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_they_are_the_same_in_compiled_programs(mode, dtype, chunks_of):
    model = family("Gemma2", dtype)
    hidden = tf.cast(HIDDEN, model.model.compute_dtype)
    expected = evaluate(model, hidden)
    chunks_of(model, 4)
    program = tf.function(lambda: evaluate(model, hidden), jit_compile=mode == "xla", autograph=False)
    assert_equal([tf.cast(x, tf.float32) for x in program()], expected, 2e-6 if dtype == "float32" else 0.02)


def test_batches_of_unknown_shape_are_divided_when_they_are_large(shared_model, chunks_of):
    model = shared_model("gpt2")
    expected, small = evaluate(model), evaluate(model, HIDDEN[:1], TOKENS[:1], WEIGHTS[:, :1])
    chunks_of(model, 6)
    specs = [tf.TensorSpec([None, None, WIDTH]), tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([2, None, None])]
    program = tf.function(lambda *batch: evaluate(model, *batch), input_signature=specs, autograph=False)
    assert_equal(program(HIDDEN, TOKENS, WEIGHTS), expected)
    assert_equal(program(HIDDEN[:1], TOKENS[:1], WEIGHTS[:, :1]), small)


def shapes_of(graph):
    """Yields the shapes of all tensors of a graph and of the functions that it calls, such as bodies of loops."""
    definition = graph.as_graph_def(add_shapes=True)
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        for node in nodes:
            for shape in node.attr["_output_shapes"].list.shape:
                yield tuple(dim.size for dim in shape.dim)


@pytest.mark.slow
def test_no_program_holds_the_logits_of_a_minibatch(make_model, chunks_of):
    """A chunk has at most 20 of 32 positions. The output embedding has 16 rows."""
    size, n, r = 4_099, 4, 8
    model = as_language_model(make_family("GPT2", vocabulary_size=size, num_layers=1))
    tokens = tf.ones([n, 3 + r], tf.int32)
    zeros = tf.zeros([n, r])
    batch = Batch(
        TokenInputs(tokens, tf.fill([n], 3)), tokens[:, 3:], zeros, zeros, zeros + 1, zeros, tf.fill([n, r], True)
    )
    largest = {}
    for rows in (20, 32):
        chunks_of(model, rows)
        learner = PPOLearner(TextPolicy(model), PPOConfig(num_epochs=1, minibatch_size=n), 2, mode="graph")
        found = list(shapes_of(learner.update.get_concrete_function(batch).graph))
        assert len(found) > 500
        largest[rows] = max(np.prod(shape) // size for shape in found if size in shape)
    assert largest == {20: 16, 32: 32}


def test_a_pass_holds_at_least_the_logits_of_a_position(monkeypatch):
    monkeypatch.setattr(vocabulary, "MAX_LOGITS", 100)
    assert (logits_at_once(3, 20), logits_at_once(8, 20), logits_at_once(8, 101)) == (60, 100, 101)
