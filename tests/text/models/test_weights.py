"""Paths of weights: they name the same weight in every process, and freeze the same weights again."""

import keras
import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.models.adapters import add_adapters
from tfppo.text.models.reference import copy_of
from tfppo.text.models.weights import fixed_weights, freeze_paths, frozen_paths, layers_by_path, weights_by_path
from tfppo.training.checkpoints import Checkpoints

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


def paths_of_fixed(model):
    ids = {id(weight) for weight in fixed_weights(model)}
    return tuple(sorted(path for path, weight in weights_by_path(model).items() if id(weight) in ids))


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_weights_are_those_that_are_frozen(make_model, kind):
    model = make_model(kind).model
    assert fixed_weights(model) == []
    next(layer for path, layer in layers_by_path(model).items() if "embedding" in path).trainable = False
    assert paths_of_fixed(model) == frozen_paths(model) and 1 <= len(fixed_weights(model)) < len(model.weights)
    model.trainable = False
    assert len(fixed_weights(model)) == len(model.weights)


def test_with_adapters_all_other_weights_are_fixed(make_model):
    model = make_model("gpt2").model
    before = [id(weight) for weight in model.weights]
    add_adapters(model, 2)
    assert sorted(map(id, fixed_weights(model))) == sorted(before) and len(model.weights) == len(before) + 8


class Counter(keras.layers.Layer):
    """Counts its passes in a weight, also in passes that are no training."""

    def build(self, shape):
        self.passes = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="passes")

    def call(self, x):
        self.passes.assign_add(1)
        return x


def make_counting():
    """Makes a model with a frozen layer and layers that change weights of their own, of which one is frozen, too."""
    parts = [keras.layers.Dense(3), keras.layers.BatchNormalization(), Counter(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input([3]), *parts, keras.layers.Dense(2)])
    for layer in (parts[0], parts[2]):
        layer.trainable = False
    return model


def test_weights_that_layers_change_themselves_are_not_fixed_and_come_back(tmp_path):
    model, other = make_counting(), make_counting()
    assert paths_of_fixed(model) == ("dense/bias", "dense/kernel")
    for source, twin in zip(fixed_weights(model), fixed_weights(other), strict=True):
        twin.assign(source)
    for _ in range(3):
        model(np.random.default_rng(0).normal(size=[8, 3]).astype("float32"), training=True)
    changed = [weight for weight in model.weights if weight.name in ("moving_mean", "moving_variance", "passes")]
    assert len(changed) == 3 and all(np.any(weight.numpy() != 1.0) and np.any(weight) for weight in changed)
    Checkpoints(tmp_path, fixed=fixed_weights(model), model=model).save(1)
    Checkpoints(tmp_path, fixed=fixed_weights(other), model=other).restore()
    for weight, twin in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, twin)


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
