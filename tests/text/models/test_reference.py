"""Conversion of Keras models to language models, copies, and frozen models."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tfppo.errors import UsageError
from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.models.gpt2 import GPT2LanguageModel
from tfppo.text.models.language_model import CachedLanguageModel, RecurrentLanguageModel
from tfppo.text.models.reference import as_language_model, copy_of, freeze

TOKENS = tf.constant(np.random.default_rng(4).integers(2, 20, [4, 9]), tf.int32)
KINDS = {"gpt2": GPT2LanguageModel, "llama": CachedLanguageModel, "lstm": RecurrentLanguageModel}


def logits(model):
    return model.logits(model.hidden_states(TOKENS)).numpy()


def move(model):
    for variable in model.model.weights:
        variable.assign(variable + 0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_goes_by_its_fastest_path(shared_model, kind):
    model = shared_model(kind)
    assert type(model) is KINDS[kind]
    assert as_language_model(model.model).model is model.model


@pytest.mark.parametrize("make", [lambda: keras.Sequential([keras.layers.Dense(3)]), lambda: "gpt2", lambda: None])
def test_what_is_no_language_model_is_refused_in_one_line_that_names_it(make):
    given = make()
    with pytest.raises(UsageError, match=f"model is a {type(given).__name__}; it must be a language model") as caught:
        as_language_model(given)
    assert len(str(caught.value).splitlines()) == 1


def test_a_copy_says_the_same_and_shares_nothing(make_model, request):
    for kind in KINDS:
        model = make_model(kind)
        before = logits(model)
        twin = copy_of(model)
        assert type(twin) is type(model) and twin.context_length == model.context_length
        np.testing.assert_array_equal(logits(twin), before)
        move(twin)
        np.testing.assert_array_equal(logits(model), before)
        assert np.abs(logits(twin) - before).max() > 0.01
        twin = copy_of(model)
        move(model)
        np.testing.assert_array_equal(logits(twin), before)
        assert len(twin.trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_copy_has_the_precision_of_the_model(make_model, kind):
    model = make_model(kind, dtype="mixed_bfloat16")
    twin = copy_of(model)
    assert twin.hidden_states(TOKENS).dtype == model.hidden_states(TOKENS).dtype == tf.bfloat16
    np.testing.assert_array_equal(logits(twin), logits(model))


def test_a_model_with_its_tokenizer_can_be_copied():
    tokenizer = train_tokenizer(["a film a film"], 512)
    backbone = keras_hub.models.GPT2Backbone(tokenizer.vocabulary_size(), 1, 2, 8, 8, max_sequence_length=12)
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=12)
    model = as_language_model(keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor))
    np.testing.assert_array_equal(logits(copy_of(model)), logits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_model_has_nothing_to_train_and_says_the_same(make_model, kind):
    model = make_model(kind)
    twin = copy_of(model)
    frozen = freeze(twin)
    assert frozen is twin and frozen.trainable_variables == []
    np.testing.assert_array_equal(logits(frozen), logits(model))
    assert len(model.trainable_variables) == len(model.model.weights)
    assert len(copy_of(model).trainable_variables) == len(model.model.weights)
