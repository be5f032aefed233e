"""One contract for every family of KerasHub that generates text: passes, sampling, copies, presets, adapters, PPO.

The quick tests hold four families, one of each kind: GPT2 (an implementation of ours), Llama with tied embeddings (a
config that KerasHub leaves incomplete), Gemma3 (a cache of another form) and SmolLM3 (layers with other names).
"""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.families import FAMILIES, VOCABULARY, make_family, make_tokenizer
from support.refusal import refusal

from tfppo import Task, TextTrainer, make_text_config
from tfppo.text.data.stop_condition import StopCondition
from tfppo.text.models.adapters import WithoutAdapters, add_adapters
from tfppo.text.models.families import REFUSED
from tfppo.text.models.language_model import CachedLanguageModel, check_decoding
from tfppo.text.models.reference import as_language_model, copy_of
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.text.rollouts.sampling import gumbel_noise, response_positions, sample

QUICK = ("GPT2", "Llama tied", "Gemma3", "SmolLM3")


def every_family(quick=QUICK):
    """Runs a test with each family; those that are not in `quick` are slow."""
    marks = {name: [] if name in quick else pytest.mark.slow for name in FAMILIES}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in FAMILIES])


EVERY_FAMILY = every_family()
LENGTHS = tf.constant([5, 2, 3, 1])
PROMPTS = tf.constant(np.random.default_rng(0).integers(3, VOCABULARY, [4, 5]), tf.int32)
RESPONSE_LENGTH = 8  # longer than the sliding windows
SEQUENCES = tf.constant(np.random.default_rng(1).integers(3, VOCABULARY, [3, 12]), tf.int32)


@functools.cache
def family(name, dtype="float32"):
    """Returns a language model of a family, made once. Tests must not change it."""
    return as_language_model(make_family(name, dtype=dtype))


def full_logits(model, token_ids=SEQUENCES):
    return model.logits(model.hidden_states(token_ids))


def sampled(model):
    return sample(
        model,
        PROMPTS,
        LENGTHS,
        RESPONSE_LENGTH,
        gumbel_noise(tf.constant([1, 2]), 4, VOCABULARY),
        stop_condition=StopCondition(1),
    )


def differences(model, samples):
    """Compares the log-probabilities that the sampler recorded with those of KerasHub's own forward pass."""
    inputs = {"token_ids": samples.token_ids, "padding_mask": tf.ones_like(samples.token_ids)}
    log_probs = tf.nn.log_softmax(tf.cast(model.model(inputs, training=False), tf.float32))
    log_probs = tf.gather(log_probs, response_positions(LENGTHS, RESPONSE_LENGTH) - 1, axis=1, batch_dims=1)
    chosen = tf.gather(log_probs, samples.responses, axis=2, batch_dims=2)
    return np.abs(chosen - samples.log_probs)[samples.mask]


@EVERY_FAMILY
def test_the_full_pass_is_that_of_keras_hub(name):
    model = family(name)
    inputs = {"token_ids": SEQUENCES, "padding_mask": tf.ones_like(SEQUENCES)}
    expected = model.model(inputs, training=False).numpy()
    assert expected.std() > 0.5  # clearly different probabilities
    np.testing.assert_allclose(full_logits(model), expected, atol=1e-5)


@EVERY_FAMILY
def test_sampled_log_probs_are_those_of_a_full_pass(name):
    assert differences(family(name), sampled(family(name))).max() < 1e-4


@pytest.mark.slow
@every_family(quick=["Gemma3"])
@pytest.mark.parametrize("mode", ["graph", pytest.param("xla", marks=pytest.mark.slow)])
def test_so_they_are_in_a_compiled_program(name, mode):
    model = family(name)  # made outside of the program
    samples = tf.function(lambda: sampled(model), jit_compile=mode == "xla")()
    assert differences(model, samples).max() < 1e-4


@EVERY_FAMILY
def test_sampling_in_bfloat16_follows_the_full_pass(name):
    model = family(name, "mixed_bfloat16")
    # A logit of 4 has a rounding error of 0.008 in bfloat16. The convolutions of Qwen3.5 round other sums in a step
    # than in a full pass, and its gates multiply the difference.
    found, factor = differences(model, sampled(model)), 5 if name.startswith("Qwen3.5") else 1
    assert found.mean() < 0.01 * factor and found.max() < 0.05 * factor


@EVERY_FAMILY
def test_a_copy_is_equal_to_the_bit(name):
    model = family(name)
    twin = copy_of(model)
    np.testing.assert_array_equal(full_logits(twin), full_logits(model))
    assert not {id(v) for v in twin.model.weights} & {id(v) for v in model.model.weights}


@EVERY_FAMILY
def test_a_saved_model_is_loaded_as_it_was(name, tmp_path):
    tokenizer = make_tokenizer(name)
    model = as_language_model(make_family(name, vocabulary_size=tokenizer.vocabulary_size()))
    save_preset(tmp_path / "preset", model.model, tokenizer, "float32")
    loaded, loaded_tokenizer = load_preset(tmp_path / "preset")
    np.testing.assert_array_equal(full_logits(as_language_model(loaded)), full_logits(model))
    assert list(loaded_tokenizer.get_vocabulary()) == list(tokenizer.get_vocabulary())
    assert loaded_tokenizer.end_token_id == tokenizer.end_token_id
    half, _ = load_preset(tmp_path / "preset", "mixed_bfloat16")
    dense = [layer for layer in half._flatten_layers() if hasattr(layer, "lora_enabled")]
    assert {layer.compute_dtype for layer in dense} == {"bfloat16"}
    assert {layer.variable_dtype for layer in dense} == {"float32"}


@EVERY_FAMILY
def test_adapters_change_the_output_and_switched_off_they_are_the_reference(name):
    before = full_logits(family(name)).numpy()
    model = as_language_model(make_family(name))
    add_adapters(model.model, 2)
    np.testing.assert_array_equal(full_logits(model), before)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(full_logits(model)[..., 3])
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    assert all(gradient is not None for gradient in gradients)
    for variable in model.trainable_variables:
        variable.assign_add(0.3 * tf.ones_like(variable))
    assert np.abs(full_logits(model) - before).max() > 0.01
    assert differences(model, sampled(model)).max() < 1e-4
    np.testing.assert_array_equal(full_logits(WithoutAdapters(model)), before)


@pytest.mark.slow
@every_family(quick=["Gemma3"])
def test_gradients_are_finite_under_xla(name):
    model = as_language_model(make_family(name))

    @tf.function(jit_compile=True)
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.log_softmax(full_logits(model))[..., 3])
        found = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        return [None if slope is None else tf.convert_to_tensor(slope) for slope in found]  # dense, also of embeddings

    found = gradients()
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in found)
    assert np.mean([np.abs(gradient).max() > 0 for gradient in found]) > 0.9  # of experts some may get no token


TASK = Task(
    name="joys",
    description="writes about joy",
    prompts=lambda split: ["A film", "the film", "It is", "a joy and"],
    make_reward=lambda: lambda prompts, responses: [float(response.count("o")) for response in responses],
    measure=lambda prompts, responses: float(np.mean([response.count("o") for response in responses])),
    metric="letters",
    target=9.0,
)


@pytest.mark.parametrize("mode", ["eager", pytest.param("xla", marks=pytest.mark.slow)])
@pytest.mark.parametrize("lora_rank", [pytest.param(0, marks=pytest.mark.slow), 2])
@every_family(quick=["Gemma3"])
def test_a_ppo_iteration_changes_the_policy_and_nothing_else(name, lora_rank, mode):
    tokenizer = make_tokenizer(name)
    model = make_family(name, vocabulary_size=tokenizer.vocabulary_size())
    config = make_text_config(
        iterations=2,
        batch_size=4,
        minibatch_size=4,
        num_epochs=1,
        response_length=4,
        learning_rate=0.01,
        lora_rank=lora_rank,
        compile_rollout=mode,
        compile_update=mode,
        device="cpu",
    )
    trainer = TextTrainer(config, task=TASK, model=(model, tokenizer))
    reference, policy = full_logits(trainer.reference), full_logits(trainer.policy.model)
    np.testing.assert_array_equal(policy, reference)
    rows = [row for _, row in trainer.iterations()]
    for row in rows:
        assert np.isfinite(row["loss/total"]) and row["policy/grad_norm"] > 0 and row["guard/skipped_updates"] == 0
        assert row["text/sampler_gap"] < 1e-4 and abs(row["policy/first_ratio_max"] - 1) < 1e-4
    assert rows[0]["text/kl"] == 0.0 and rows[1]["text/kl"] != 0.0
    np.testing.assert_array_equal(full_logits(trainer.reference), reference)
    assert np.abs(full_logits(trainer.policy.model) - policy).max() > 1e-3


@pytest.mark.fault(
    "A language model is of a family that cannot be tuned, such as RWKV-7", "A one-line error gives the reason."
)
def test_families_that_cannot_be_tuned_are_refused_with_the_reason():
    for kind, reason in REFUSED.items():
        model = object.__new__(kind)
        object.__setattr__(model, "backbone", None)
        text = refusal(as_language_model, model)
        assert text.startswith(f"model is a {kind.__name__}, which cannot be tuned, because {reason}")


@pytest.mark.fault(
    "A language model gives other logits token by token than in a full pass, as KerasHub's GPT-NeoX does",
    "A one-line error before the run begins.",
)
@EVERY_FAMILY
def test_decoding_is_checked_before_a_run_and_a_wrong_cache_is_refused(name):
    prompts, lengths = PROMPTS.numpy(), LENGTHS.numpy()
    for dtype in ("float32", "mixed_bfloat16"):
        check_decoding(family(name, dtype), prompts, lengths, 0)
    model = family(name)

    class Wrong(type(model)):
        """Decodes each token as if it were at the next position."""

        def step(self, token_ids, index, state):
            return super().step(token_ids, index + 1, state)

    text = refusal(check_decoding, Wrong(model.model), prompts, lengths, 0)
    assert text.startswith(f"{type(model.model).__name__} gives other logits token by token")


def test_the_cache_of_keras_hub_for_gpt_neox_would_be_refused():
    text = refusal(check_decoding, CachedLanguageModel(family("GPTNeoX").model), PROMPTS.numpy(), LENGTHS.numpy(), 0)
    assert "GPTNeoXCausalLM gives other logits" in text


def test_the_documentation_names_every_tested_family():
    page = (Path(__file__).parents[3] / "docs" / "guide" / "language-models.md").read_text()
    table = page.partition("<!-- families -->")[2].partition("\n\n")[0]
    for name, (kind, _) in FAMILIES.items():
        assert f"`{kind}CausalLM`" in table
        assert re.search(rf"\b{re.escape(name.removesuffix(' tied'))}\b", table)
        if name.endswith(" tied"):
            assert re.search(rf"\b{name.removesuffix(' tied')}\b[^|]*\btied or not\b", table)
