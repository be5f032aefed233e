"""Language models given in Python: each is tuned rightly, or refused in one line before anything is trained."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from support.refusal import refusal
from support.remedy import advised_settings

from tfppo import TextTrainer, make_text_config, train_text
from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.models.copying import default_policy
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.models.weights import frozen_paths, weights_by_path
from tfppo.text.presets.folder import load_preset
from tfppo.text.start.given import given_model


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["A film", "the film the film and a joy"], 300)


@pytest.fixture(scope="module")
def sizes(tokenizer):
    return {"vocabulary_size": tokenizer.vocabulary_size(), "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 8}


@pytest.fixture
def gpt2(tokenizer, sizes):
    """Makes a GPT-2 with settings of its own, and with a preprocessor if `with_tokenizer`."""

    def gpt2(with_tokenizer=False, **settings):
        keras.utils.set_random_seed(1)
        backbone = keras_hub.models.GPT2Backbone(num_heads=2, max_sequence_length=32, **(sizes | settings))
        backbone.token_embedding.embeddings.assign(10 * backbone.token_embedding.embeddings)
        preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer) if with_tokenizer else None
        return keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor)

    return gpt2


@pytest.fixture
def llama(sizes):
    def llama(**settings):
        heads = {"num_query_heads": 2, "num_key_value_heads": 1}
        return keras_hub.models.LlamaCausalLM(keras_hub.models.LlamaBackbone(**(sizes | heads | settings)))

    return llama


def config(**settings):
    small = {"iterations": 1, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 0}
    more = {"num_epochs": 1, "learning_rate": 0.01, "prompt_length": 20, "device": "cpu", "normalize_scores": False}
    more |= {"compile_rollout": "eager", "compile_update": "eager"}
    return make_text_config(**({"task": "length"} | small | more | settings))


def refused(model, **settings):
    return refusal(lambda: TextTrainer(config(**settings), model=model))


def values(model):
    return {path: weight.numpy() for path, weight in weights_by_path(model).items()}


# ----- What `model` may be


def test_a_model_comes_with_its_tokenizer_in_three_forms(gpt2, tokenizer):
    model = gpt2(with_tokenizer=True)
    for given in ((model, tokenizer), (model, model.preprocessor), model):
        found = given_model(given, "float32")
        assert found[0] is model and found[1] is tokenizer
    lstm = LSTMLanguageModel(tokenizer.vocabulary_size(), 1, 8)
    assert given_model((lstm, tokenizer), "float32") == (lstm, tokenizer)


@pytest.mark.fault("`model=` is not a language model with its tokenizer", "A one-line error says what to give.")
def test_anything_else_is_refused(gpt2, tokenizer, sizes):
    model = gpt2()
    for given, said in [
        (model, "GPT2CausalLM alone, and it has no preprocessor"),
        (LSTMLanguageModel(20, 1, 8), "LSTMLanguageModel alone"),
        (gpt2(with_tokenizer=True).preprocessor, "model is a keras_hub.GPT2CausalLMPreprocessor; it must be"),
        ((), "a tuple of 0"),
        ((model, tokenizer, None), "a tuple of 3"),
        ([model, tokenizer], "model is a list; it must be"),
        ("gpt2_base_en", "model is a str; it must be"),
        ((tokenizer, model), "the language model must be the first"),
        ((model.backbone, tokenizer), "a keras_hub.GPT2Backbone and a keras_hub.GPT2Tokenizer; none is a language"),
        ((keras.Sequential(), tokenizer), "none is a language model"),
        ((model, None), "is a NoneType; it must be a KerasHub tokenizer"),
        ((model, keras_hub.models.GPT2CausalLMPreprocessor(None)), "is a NoneType; it must be a KerasHub tokenizer"),
    ]:
        text = refusal(given_model, given, "float32")
        assert said in text and ("model=(causal_lm, tokenizer)" in text), text


@pytest.mark.fault("The tokenizer of `model=` is one of Hugging Face", "A one-line error says how to load KerasHub's.")
def test_a_tokenizer_of_another_library_is_refused(gpt2):
    text = refusal(given_model, (gpt2(), tokenizers.Tokenizer(tokenizers.models.BPE())), "float32")
    assert "is a tokenizers.Tokenizer; it must be a KerasHub tokenizer" in text
    assert "keras_hub.models.Tokenizer.from_preset(folder)" in text


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"prompt_length": 2}, 1),
        ({"prompt_length": 30, "response_length": 4}, 2),
        ({"dtype": "mixed_bfloat16"}, 1),
        ({"batch_size": 12, "minibatch_size": 8}, 1),
    ],
)
def test_settings_are_accepted_after_what_the_message_advises(gpt2, tokenizer, settings, count):
    given = (gpt2(), tokenizer)
    alternatives = advised_settings(refused(given, **settings), settings)
    assert len(alternatives) == count
    for changed in alternatives:
        while changed.get("prompt_length", 20) < 8:  # a person raises it until it is enough
            changed = advised_settings(refused(given, **changed), changed)[0]
        TextTrainer(config(**changed), model=given)


# ----- Precision


@pytest.mark.slow
def test_the_config_records_the_precision_of_the_model(gpt2, tokenizer):
    for dtype in ("float32", "mixed_bfloat16"):
        trainer = TextTrainer(config(), model=(gpt2(dtype=dtype), tokenizer))
        assert trainer.config.text.dtype == dtype
    trainer = TextTrainer(config(dtype="mixed_bfloat16"), model=(gpt2(dtype="mixed_bfloat16"), tokenizer))
    assert trainer.config.text.dtype == "mixed_bfloat16"


@pytest.mark.fault("The given language model has another precision than `dtype`", "A one-line error names both.")
def test_another_precision_than_the_models_is_refused(gpt2, tokenizer):
    text = refused((gpt2(), tokenizer), dtype="mixed_bfloat16")
    assert "dtype is mixed_bfloat16; it must be the dtype policy of the given model, which is float32" in text


@pytest.mark.fault("The weights of the given language model are not float32", "A one-line error says how to load it.")
def test_weights_that_lose_small_updates_are_refused(gpt2, llama, tokenizer):
    for dtype in ("bfloat16", "float16"):
        text = refusal(given_model, (llama(dtype=dtype), tokenizer), "float32")
        assert f"weights of the given model are {dtype}" in text and "dtype='mixed_bfloat16'" in text
    assert "dtype policy mixed_float16" in refusal(given_model, (gpt2(dtype="mixed_float16"), tokenizer), "float32")
    quantized = llama()
    quantized.quantize("int8")
    assert "is quantized (int8)" in refusal(given_model, (quantized, tokenizer), "float32")
    with default_policy("mixed_bfloat16"):
        lstm = LSTMLanguageModel(20, 1, 8)
    assert "the given LSTM has the dtype policy mixed" in refusal(given_model, (lstm, tokenizer), "float32")


# ----- Replicas


@pytest.mark.fault("A given language model is to be trained by several replicas", "A one-line error says what to set.")
def test_replicas_need_copies_of_the_weights(gpt2, tokenizer):
    assert "2 replicas train them" in refusal(given_model, (gpt2(), tokenizer), "float32", 2)


# ----- Adapters


@pytest.mark.fault("The given language model has LoRA adapters", "A one-line error says how to merge them.")
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("tied llama", marks=pytest.mark.slow)])
def test_adapters_are_merged_as_the_error_says(gpt2, llama, tokenizer, tmp_path, kind):
    model = gpt2() if kind == "gpt2" else llama(tie_word_embeddings=True)
    model.backbone.enable_lora(2)
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(0.0, 0.3, variable.shape))
    for settings in ({}, {"lora_rank": 2}):
        text = refused((model, tokenizer), **settings)
        assert "has LoRA adapters (enable_lora was called)" in text
    folder = tmp_path / "merged"
    for step in ("model.save_to_preset(folder)", "tokenizer.save_to_preset(folder)"):
        assert step in text
        eval(step, {"model": model, "tokenizer": tokenizer, "folder": str(folder)})
    assert "preset=folder and lora_rank" in text
    trainer = TextTrainer(config(preset=folder, lora_rank=2))
    tokens = tf.constant([[5, 6, 7, 8, 9]])
    inputs = {"token_ids": tokens, "padding_mask": tf.ones_like(tokens)}
    expected = model(inputs).numpy()
    for merged in (trainer.policy.model, trainer.reference):
        np.testing.assert_allclose(merged.logits(merged.hidden_states(tokens)), expected, atol=1e-5)
    for layer in model._flatten_layers():
        if getattr(layer, "lora_enabled", False):
            layer.lora_enabled = False
    assert np.abs(model(inputs) - expected).max() > 0.01  # the adapters mattered


# ----- Frozen weights


@pytest.mark.fault("All weights of a language model are frozen", "A one-line error before anything is trained.")
def test_a_frozen_model_is_refused(gpt2, tokenizer, tmp_path):
    model = gpt2()
    model.trainable = False
    assert "all weights of GPT2CausalLM are frozen" in refused((model, tokenizer))
    model.save_to_preset(tmp_path)
    tokenizer.save_to_preset(tmp_path)
    assert load_preset(tmp_path)[0].trainable_variables == []  # a preset keeps this flag
    assert "all weights of GPT2CausalLM are frozen" in refused(None, preset=tmp_path)


def test_frozen_weights_stay_frozen(gpt2, tokenizer, tmp_path):
    model = gpt2(num_layers=2)
    model.backbone.token_embedding.trainable = False
    model.backbone.transformer_layers[0].trainable = False
    before, frozen = values(model), frozen_paths(model)
    trainer = TextTrainer(config(separate_critic=True), model=(model, tokenizer))
    assert frozen_paths(trainer.policy.critic.model) == frozen and trainer.reference.trainable_variables == []
    list(trainer.iterations())
    after = values(model)
    assert {path for path in before if np.array_equal(before[path], after[path])} == set(frozen)
    for path, value in values(trainer.reference.model).items():
        np.testing.assert_array_equal(value, before[path])
    assert frozen_paths(model) == frozen


def test_adapters_can_be_trained_in_a_frozen_model(gpt2, tokenizer):
    model = gpt2()
    model.trainable = False
    trainer = TextTrainer(config(lora_rank=2), model=(model, tokenizer))
    names = {variable.name for variable in trainer.policy.model.trainable_variables}
    assert names == {"lora_kernel_a", "lora_kernel_b"}


# ----- Tokenizers and vocabularies


@pytest.mark.fault("The tokenizer has more tokens than the language model", "A one-line error names both numbers.")
def test_a_tokenizer_with_too_many_tokens_is_refused(gpt2, tokenizer, tmp_path):
    size = tokenizer.vocabulary_size()
    model = gpt2(vocabulary_size=size - 1)
    for given, settings in (((model, tokenizer), {}), ((model, tokenizer), {"lora_rank": 2})):
        text = refused(given, **settings)
        assert f"has {size} tokens, but the model has embeddings for only {size - 1}" in text
    assert len(model.trainable_weights) == len(model.weights)  # no adapters were added
    with pytest.raises(ValueError, match=f"has {size} tokens"):
        train_text(config(runs_dir=tmp_path / "runs"), model=(model, tokenizer))
    assert not (tmp_path / "runs").exists()


@pytest.mark.fault("The tokenizer pads, or returns strings", "A one-line error.")
def test_a_tokenizer_that_returns_more_than_the_tokens_is_refused(gpt2, tokenizer):
    parts = {"vocabulary": tokenizer.vocabulary, "merges": tokenizer.merges}
    for settings, said in (({"sequence_length": 9}, "has sequence_length 9"), ({"dtype": "string"}, "returns strings")):
        assert said in refused((gpt2(), keras_hub.models.GPT2Tokenizer(**parts, **settings)))


@pytest.mark.fault("The tokenizer has no end token", "A one-line error.")
def test_a_tokenizer_without_an_end_token_is_refused(gpt2, tokenizer):
    names = [name for name in tokenizer.vocabulary if not name.startswith("<|")]
    without = keras_hub.tokenizers.BytePairTokenizer({name: i for i, name in enumerate(names)}, tokenizer.merges)
    assert "BytePairTokenizer has no end token ('<|endoftext|>' is not" in refused((gpt2(), without))
    assert "ByteTokenizer has no end token" in refused((gpt2(), keras_hub.tokenizers.ByteTokenizer()))


@pytest.mark.slow
def test_a_model_may_have_a_padded_vocabulary(gpt2, tokenizer):
    """Half of the sampled tokens are unknown to the tokenizer. They have no text."""
    size = tokenizer.vocabulary_size()
    trainer = TextTrainer(config(temperature=100.0), model=(gpt2(vocabulary_size=2 * size), tokenizer))  # near uniform
    ((_, row),) = trainer.iterations()
    assert np.isfinite(row["text/score_mean"])
    prompts, lengths = (tf.constant(array[:8]) for array in trainer.prompts[:2])
    samples = trainer.collector.sample_responses(tf.constant(0, tf.int64), prompts, lengths)
    responses, mask = samples.responses.numpy(), samples.mask.numpy()
    assert (responses[mask] >= size).mean() > 0.3
    known = [[token for token in row[kept] if token < size] for row, kept in zip(responses, mask, strict=True)]
    assert trainer.codec.decode_masked(responses, mask) == trainer.codec.decode(known)


@pytest.mark.slow
def test_a_run_with_a_padded_vocabulary_is_evaluated(gpt2, tokenizer, tmp_path):
    model = gpt2(vocabulary_size=2 * tokenizer.vocabulary_size())
    settings = {"runs_dir": tmp_path, "eval_prompts": 8, "temperature": 100.0, "normalize_scores": True}
    folder = train_text(config(**settings), model=(model, tokenizer))
    assert (folder / "evaluation.json").exists()


# ----- Dropout


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("gpt2", "eager"),
        pytest.param("llama", "eager", marks=pytest.mark.slow),
        pytest.param("gpt2", "graph", marks=pytest.mark.slow),
        pytest.param("llama", "graph", marks=pytest.mark.slow),
    ],
)
def test_dropout_is_off_in_every_pass(gpt2, llama, tokenizer, kind, mode):
    model = (gpt2 if kind == "gpt2" else llama)(dropout=0.5)
    given = config(compile_rollout=mode, compile_update=mode, num_epochs=2, learning_rate=1e-30)
    trainer = TextTrainer(given, model=(model, tokenizer))
    ((_, row),) = trainer.iterations()
    assert row["text/kl"] == 0.0 and row["text/sampler_gap"] < 1e-5
    assert row["policy/first_ratio_max"] == row["policy/ratio_max"] == 1.0
    tokens = tf.constant([[5, 6, 7, 8, 9]])
    for part in (trainer.policy.model, trainer.reference):
        np.testing.assert_array_equal(part.hidden_states(tokens), part.hidden_states(tokens))
    if mode == "graph":
        assert trainer.judge(8, 1) == trainer.judge(8, 1)
