"""Paths of weights: they name the same weight in every process, and freeze the same weights again."""

import keras
import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.models.reference import copy_of
from tfppo.text.models.weights import freeze_paths, frozen_paths, layers_by_path, weights_by_path

KINDS = ["gpt2", "llama", "lstm"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_a_path_and_no_two_have_the_same(shared_model, kind):
    model = shared_model(kind).model
    assert [id(w) for w in weights_by_path(model).values()] == [id(w) for w in model.weights]
    assert {id(layer) for layer in layers_by_path(model).values()} == {id(layer) for layer in model._flatten_layers()}


@pytest.mark.parametrize("kind", KINDS)
def test_paths_do_not_depend_on_what_else_the_process_has_made(make_model, kind):
    first = list(weights_by_path(make_model(kind).model))
    assert list(weights_by_path(make_model(kind).model)) == first
    assert list(weights_by_path(copy_of(make_model(kind)).model)) == first


def test_paths_read_as_names_of_layers(shared_model):
    paths = list(weights_by_path(shared_model("gpt2").model))
    assert paths[0] == "gpt2_backbone/token_embedding/embeddings"
    assert "gpt2_backbone/transformer_layer_1/self_attention/query/kernel" in paths
    assert {"lstm/lstm_cell/kernel", "lstm_1/lstm_cell/kernel"} < set(weights_by_path(shared_model("lstm").model))


def test_the_same_weights_are_frozen_again(make_model):
    model, other = make_model("gpt2").model, make_model("gpt2").model
    assert frozen_paths(model) == ()
    model.backbone.token_embedding.trainable = False
    model.backbone.transformer_layers[0].trainable = False
    paths = frozen_paths(model)
    assert paths == tuple(sorted(p for p in weights_by_path(model) if "token_embedding" in p or "layer_0" in p))
    other.trainable = False
    freeze_paths(other, paths)
    assert frozen_paths(other) == paths
    assert [w.path for w in other.trainable_weights] == [w.path for w in model.trainable_weights]
    freeze_paths(other, ())
    assert len(other.trainable_weights) == len(other.weights)


def test_a_wholly_frozen_model_lists_every_weight(make_model):
    model = make_model("llama").model
    model.trainable = False
    assert len(frozen_paths(model)) == len(model.weights)


@pytest.mark.fault("A run lists a frozen weight that its language model does not have", "A one-line error names it.")
def test_a_path_of_another_model_is_refused(make_model):
    text = refusal(freeze_paths, make_model("gpt2").model, ["gpt2_backbone/transformer_layer_7/scale"])
    assert "transformer_layer_7/scale is not part of GPT2CausalLM" in text


def test_a_weight_used_twice_has_one_path():
    shared = keras.layers.Dense(3, name="shared")
    x = keras.Input([3])
    model = keras.Model(x, keras.Sequential([shared, shared.__class__(3), shared])(shared(x)))
    assert len(weights_by_path(model)) == len(model.weights) == 4
    np.testing.assert_equal(len(set(map(id, weights_by_path(model).values()))), 4)
