"""Adapters: only they are trained, and with them off the model is unchanged (statement 37)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo import TextTrainer, make_text_config
from tfppo.text.models.adapters import WithoutAdapters, adapters_off, add_adapters
from tfppo.text.models.reference import as_language_model, copy_of
from tfppo.text.presets.folder import load_preset
from tfppo.text.rollouts.sampling import StopCondition, gumbel_noise, sample
from tfppo.training.checkpoints import Checkpoints

TOKENS = tf.constant(np.random.default_rng(4).integers(2, 20, [4, 9]), tf.int32)
EVERY_KIND = pytest.mark.parametrize("kind", ["gpt2", "llama"])


def logits(model):
    return model.logits(model.hidden_states(TOKENS)).numpy()


def adapted(model, rank=2, seed=3):
    """Copies a language model, and gives the copy adapters with random weights."""
    copy = copy_of(model)
    add_adapters(copy.model, rank, seed)
    rng = np.random.default_rng(5)
    for variable in copy.trainable_variables:
        variable.assign(variable + rng.normal(0.0, 0.5, variable.shape))
    return copy


@EVERY_KIND
def test_new_adapters_change_nothing_and_they_alone_are_trained(shared_model, kind):
    before = shared_model(kind)
    model = copy_of(before)
    add_adapters(model.model, 2)
    np.testing.assert_array_equal(logits(model), logits(before))
    names = [variable.path.rpartition("/")[2] for variable in model.trainable_variables]
    assert sorted(set(names)) == ["lora_kernel_a", "lora_kernel_b"] and len(names) == 2 * 2 * 2  # layers x (Q, V)


@pytest.mark.representatives(1)
@EVERY_KIND
@pytest.mark.parametrize(
    "options",
    [None, pytest.param({}, marks=pytest.mark.slow), pytest.param({"jit_compile": True}, marks=pytest.mark.slow)],
    ids=["eager", "graph", "xla"],
)
def test_without_its_adapters_a_model_is_what_it_was(shared_model, prompts, kind, options):
    before = shared_model(kind)
    model = adapted(before)
    reference = WithoutAdapters(model)

    def answer(model):
        noise = gumbel_noise(tf.constant([1, 2]), prompts[0].shape[0], model.vocabulary_size)
        samples = sample(model, *prompts, 6, noise, stop_condition=StopCondition(1))
        return model.logits(model.hidden_states(TOKENS)), samples

    def run(model):
        function = lambda: answer(model)  # noqa: E731
        return function() if options is None else tf.function(function, autograph=False, **options)()

    for expected, given in zip(tf.nest.flatten(run(before)), tf.nest.flatten(run(reference)), strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-5)
    assert np.abs(run(model)[0] - run(before)[0]).max() > 0.1  # the adapters are on again
    assert reference.model is model.model and reference.trainable_variables == []
    sizes = ("vocabulary_size", "hidden_dim", "context_length")
    assert [getattr(reference, size) for size in sizes] == [getattr(before, size) for size in sizes]


def test_adapters_are_on_again_after_an_error(shared_model):
    model = adapted(shared_model("gpt2"))
    expected = logits(model)
    with pytest.raises(KeyError), adapters_off(model.model):
        raise KeyError
    np.testing.assert_array_equal(logits(model), expected)


def test_the_seed_fixes_the_adapters(shared_model):
    def first_factors(seed):
        model = copy_of(shared_model("gpt2"))
        add_adapters(model.model, 2, seed)
        return [variable.numpy() for variable in model.trainable_variables[::2]]

    one, same, other = map(first_factors, (3, 3, 4))
    np.testing.assert_array_equal(np.stack(one), np.stack(same))
    assert np.abs(np.stack(one) - np.stack(other)).min() > 0
    assert np.abs(one[0] - one[1]).min() > 0  # each layer has other values


@pytest.mark.slow
def test_tuning_moves_the_policy_and_leaves_the_reference(preset, tmp_path):
    settings = {"iterations": 2, "batch_size": 8, "minibatch_size": 8, "response_length": 6, "learning_rate": 1e-2}
    run = make_text_config(task="length", preset=preset, lora_rank=4, **settings)
    trainer = TextTrainer(run)
    assert trainer.reference.model is trainer.policy.model.model  # not a copy
    metrics = [metrics for _, metrics in trainer.iterations()]
    assert metrics[0]["text/kl"] == 0.0 and metrics[1]["text/kl"] != 0.0
    np.testing.assert_allclose(logits(trainer.reference), logits(as_language_model(load_preset(preset)[0])), atol=1e-6)
    assert np.abs(logits(trainer.policy.model) - logits(trainer.reference)).max() > 1e-2
    Checkpoints(tmp_path, 1, **trainer.state).save(2)
    again = TextTrainer(run)
    Checkpoints(tmp_path, 1, **again.state).restore()
    np.testing.assert_array_equal(logits(again.policy.model), logits(trainer.policy.model))
    np.testing.assert_array_equal(logits(again.reference), logits(trainer.reference))


def test_models_without_adapters_are_refused(shared_model):
    assert "LSTMLanguageModel can have no adapters" in refusal(add_adapters, copy_of(shared_model("lstm")).model, 2)
    assert "has adapters already" in refusal(add_adapters, adapted(shared_model("gpt2")).model, 2)
    assert "Sequential can have no adapters" in refusal(add_adapters, keras.Sequential(), 2)
