"""Layers that the backward pass computes again: the same numbers, slopes, dropout masks and losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.families import FAMILIES, make_family
from support.refusal import refusal

from tfppo.text.models.adapters import add_adapters
from tfppo.text.models.reference import as_language_model
from tfppo.text.models.rematerialization import layers_of
from tfppo.text.sft.network import training_network

QUICK = ("GPT2", "Llama tied", "Gemma3", "SmolLM3")
SEQUENCES = tf.constant(np.random.default_rng(1).integers(3, 20, [2, 8]), tf.int32)
INPUTS = {"token_ids": SEQUENCES, "padding_mask": tf.ones_like(SEQUENCES)}


def every_family(quick=QUICK):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in FAMILIES]
    )


def slopes(model, mode):
    """Returns hidden states, and the slopes of a function of them for the trained weights."""

    def evaluate():
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            hidden = model.hidden_states(SEQUENCES)
            loss = tf.reduce_sum(tf.cast(hidden, tf.float32) ** 3)
        found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [hidden, *map(tf.convert_to_tensor, found)]

    if mode != "eager":
        evaluate = tf.function(evaluate, jit_compile=mode == "xla", autograph=False)
    return [tf.cast(x, tf.float32).numpy() for x in evaluate()]


def assert_equal(found, expected, rtol=5e-6):
    assert len(found) == len(expected)
    largest = max(np.abs(slope).max() for slope in expected[1:])
    assert largest > 0.1
    np.testing.assert_allclose(found[0], expected[0], atol=rtol * np.abs(expected[0]).max())
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(one, other, atol=rtol * largest)


def compare(model, mode, rtol=5e-6):
    expected = slopes(model, mode)
    model.rematerialize()
    assert_equal(slopes(model, mode), expected, rtol)


@pytest.mark.parametrize("lora_rank", [0, pytest.param(2, marks=pytest.mark.slow)])
@every_family()
def test_the_numbers_and_slopes_are_the_same(name, lora_rank):
    model = as_language_model(make_family(name))
    if lora_rank:
        add_adapters(model.model, lora_rank)
        for variable in model.trainable_variables:
            variable.assign_add(0.3 * tf.ones_like(variable))
    compare(model, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", pytest.param("xla", marks=pytest.mark.slow)])
@every_family(quick=["Gemma3"])
def test_so_they_are_in_compiled_programs(name, mode):
    compare(as_language_model(make_family(name)), mode)


@every_family(quick=["Llama tied"])
def test_so_they_are_in_bfloat16(name):
    compare(as_language_model(make_family(name, dtype="mixed_bfloat16")), "eager", 0.02)


def test_so_they_are_with_an_lstm(make_model):
    compare(make_model("lstm"), "graph")


def test_only_the_backward_pass_calls_a_layer_again_and_nothing_stays_behind(make_model):
    model = make_model("llama")
    calls = []
    for layer in layers_of(model.model):
        attention = layer._self_attention_layer
        attention.call = lambda *args, call=attention.call, **kwargs: calls.append(0) or call(*args, **kwargs)
    model.rematerialize()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.hidden_states(SEQUENCES))
    assert len(calls) == 2 and all("call" not in vars(layer) for layer in layers_of(model.model))
    tape.gradient(loss, [model.trainable_variables[0].value])
    assert len(calls) == 4


def train_pass(network, seeds):
    """Returns the slopes of a pass in training, the added losses, and the seeds of the dropout after it."""
    for variable in seeds:
        variable.assign([7, 0])
    variables = [variable.value for variable in network.trainable_weights]

    @tf.function(autograph=False)
    def evaluate():
        with tf.GradientTape() as tape:
            losses, _ = network.measures(INPUTS, SEQUENCES, training=True)
            added = tf.add_n(network.losses) if network.losses else tf.constant(0.0)
            total = tf.reduce_mean(losses) + added
        return [added, *map(tf.convert_to_tensor, tape.gradient(total, variables))]

    return [x.numpy() for x in evaluate()], [variable.numpy().tolist() for variable in seeds]


@pytest.mark.parametrize("name", ["GPT2", pytest.param("QwenMoe", marks=pytest.mark.slow)])
def test_a_layer_that_is_computed_again_has_the_same_dropout_mask_and_losses(name):
    model = make_family(name, dropout=0.4)
    seeds = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    packs = name == "GPT2"
    expected, after = train_pass(training_network(model, packs), seeds)
    assert len({str(state) for state in after}) == 1 and after[0] != [7, 0]  # each drew a mask
    found, again = train_pass(training_network(model, packs, rematerialize=True), seeds)
    assert again == after
    assert_equal(found, expected)
    assert bool(expected[0]) == (name == "QwenMoe")
    for variable in seeds:  # other masks give other slopes
        variable.assign([8, 0])
    assert np.abs(expected[1] - train_pass(training_network(model, packs), [])[0][1]).max() > 1e-3


@pytest.mark.fault(
    "rematerialize is set for a model without a list of layers", "A one-line error names the class of the model."
)
def test_a_model_without_a_list_of_layers_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    said = refusal(layers_of, model)
    assert said.startswith("rematerialize is True; Functional has no list of layers")
    assert said.endswith("leave rematerialize out")
