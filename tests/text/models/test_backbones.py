"""Attributes that only some backbones have."""

import keras
import pytest

from tfppo.text.models.language_model import context_length, final_normalization


@pytest.mark.parametrize(("kind", "length"), [("gpt2", 24), ("llama", None), ("lstm", None)])
def test_only_some_models_have_a_limit(shared_model, kind, length):
    assert context_length(shared_model(kind).model) == length


def test_what_scales_the_logits_is_the_last_normalization(shared_model):
    for kind in ("gpt2", "llama"):
        model = shared_model(kind).model
        assert final_normalization(model) is model.backbone.layer_norm
    assert final_normalization(shared_model("lstm").model) is None


def test_another_model_has_neither():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert context_length(model) is None and final_normalization(model) is None
