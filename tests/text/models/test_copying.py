"""Copies are complete, whatever the config of a model leaves out, or they are refused."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.text.models.copying import ModelsDiffer, check_same
from tfppo.text.models.language_model import CachedLanguageModel
from tfppo.text.models.reference import as_language_model, copy_of
from tfppo.text.models.weights import frozen_paths

TOKENS = tf.constant(np.random.default_rng(4).integers(2, 20, [4, 9]), tf.int32)


def logits(model):
    return model.logits(model.hidden_states(TOKENS)).numpy()


def normalizations(model):
    layers = [layer for layer in model.model._flatten_layers() if hasattr(layer, "epsilon")]
    assert layers
    return layers


def test_a_model_with_tied_embeddings_is_copied(make_model):
    """KerasHub's Llama leaves `tie_word_embeddings` out of its config."""
    model = make_model("llama", tied=True)
    assert "tie_word_embeddings" not in model.model.backbone.get_config()
    twin = copy_of(model)
    assert twin.model.backbone.token_embedding.tie_weights
    np.testing.assert_array_equal(logits(twin), logits(model))
    assert len(twin.model.weights) == len(make_model("llama").model.weights) - 1


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_epsilon_that_the_config_does_not_know_is_copied(make_model, kind):
    model = make_model(kind)
    before = logits(model)
    for layer in normalizations(model):
        layer.epsilon = 0.3
    twin = copy_of(model)
    assert {layer.epsilon for layer in normalizations(twin)} == {0.3}
    np.testing.assert_array_equal(logits(twin), logits(model))
    assert np.abs(logits(model) - before).max() > 0.01


def test_frozen_parts_are_frozen_in_a_copy(make_model):
    model = make_model("gpt2")
    model.model.backbone.transformer_layers[1].trainable = False
    assert frozen_paths(copy_of(model).model) == frozen_paths(model.model) != ()


class Louder(keras_hub.models.LlamaBackbone):
    """A backbone that its config does not describe: the length of the hidden states is set after it is made."""

    factor = 1.0

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) * self.factor


@pytest.fixture
def odd(make_model):
    """Makes language models that cannot be copied from their config."""
    config = make_model("llama").model.backbone.get_config()

    def odd(kind):
        backbone = Louder(**config) if kind == "louder" else keras_hub.models.LlamaBackbone(**config)
        if kind == "louder":
            backbone.factor = 2.0
        if kind == "other layer":
            backbone.layer_norm.__class__ = type("OtherNorm", (type(backbone.layer_norm),), {})
        model = keras_hub.models.LlamaCausalLM(backbone)
        if kind == "adapters":
            backbone.enable_lora(2)
        return CachedLanguageModel(model)

    return odd


@pytest.mark.fault(
    "A language model cannot be copied as the reference policy", "A one-line error names its class and what differs."
)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("louder", "the hidden states of its copy differ by up to"),
        ("other layer", "layernorm is a OtherNorm in the model and a LlamaLayerNorm in its copy"),
        ("adapters", "lora_kernel_a is float32 [16, 4, 2] in the model and missing in its copy"),
    ],
)
def test_a_copy_that_would_differ_is_refused(odd, kind, said):
    text = refusal(copy_of, odd(kind))
    assert "LlamaCausalLM cannot be copied (" in text and said in text and "set lora_rank" in text, text


def test_a_model_that_its_config_cannot_build_is_refused(make_model):
    class Strange(keras_hub.models.LlamaBackbone):
        def __init__(self, strength, **settings):
            super().__init__(**settings)

    backbone = Strange(1.0, **make_model("llama").model.backbone.get_config())
    text = refusal(copy_of, CachedLanguageModel(keras_hub.models.LlamaCausalLM(backbone)))
    assert "it cannot be built from its config: TypeError" in text and "strength" in text


def test_models_of_other_weights_are_not_the_same(make_model):
    check_same(make_model("gpt2"), make_model("gpt2"))
    with pytest.raises(ModelsDiffer, match="hidden states"):
        check_same(make_model("gpt2"), make_model("gpt2", seed=1))
    other = make_model("llama")
    other.model.backbone.token_embedding.reverse_embeddings.assign_add(np.full([16, 20], 1e-6))
    with pytest.raises(ModelsDiffer, match="logits"):
        check_same(make_model("llama"), other)
    check_same(make_model("llama"), other, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("GPT2", "OPT", "Bloom", "Falcon", "Llama", "Llama3", "Mistral", "Mixtral", "Phi3", "Gemma"),
        *("Qwen", "QwenMoe", "Qwen3", "Qwen3Moe", "GptOss"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_families_of_kerashub(name, tied):
    import inspect

    kind = getattr(keras_hub.models, f"{name}Backbone")
    possible = {"vocabulary_size": 20, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 24, "head_dim": 8}
    possible |= {"num_heads": 4, "num_query_heads": 4, "num_key_value_heads": 2, "max_sequence_length": 24}
    possible |= {"num_experts": 4, "top_k": 2, "moe_intermediate_dim": 8, "shared_expert_intermediate_dim": 8}
    possible |= {"num_attention_heads": 4, "tie_word_embeddings": tied, "layer_norm_epsilon": 1e-3}
    names = inspect.signature(kind.__init__).parameters
    if tied and "tie_word_embeddings" not in names:
        pytest.skip("this family has one form")
    settings = {key: value for key, value in possible.items() if key in names}
    model = as_language_model(getattr(keras_hub.models, f"{name}CausalLM")(kind(**settings)))
    for weight in model.model.weights:
        weight.assign(weight + np.random.default_rng(0).normal(0.0, 0.3, weight.shape))
    np.testing.assert_array_equal(logits(copy_of(model)), logits(model))


def test_a_layer_of_keras_has_the_attributes_that_are_left_alone():
    """Names, flags and counters of Keras itself are not copied; the epsilon of a normalization is."""
    own = set(vars(keras.layers.Layer()))
    assert {"name", "built"} <= own and not {"epsilon", "rate", "reverse_dtype"} & own
