"""Estimates of memory: weights that do not fit are refused, minibatches that do not fit are divided."""

import dataclasses

import pytest
from support.refusal import refusal

from text.conftest import VOCABULARY, WIDTH, make_gpt2, make_lstm
from tfppo.text.config import TextRunConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.models import vocabulary
from tfppo.text.start import memory
from tfppo.text.start.memory import (
    check_memory,
    choose_micro_batches,
    fixed_memory,
    host_memory,
    update_memory,
)
from tfppo.text.trainer import TextTrainer

GIGA = 10**9


def config_of(**settings):
    return make_text_config(**settings)


def test_weights_are_counted_once_for_each_copy():
    """Of 1 million weights: weights and reference 4 MB each, gradients 4 MB, Adam 8 MB."""
    assert fixed_memory(10**6, config_of()) == 20 * 10**6
    assert fixed_memory(10**6, config_of(lora_rank=4)) == 4 * 10**6  # the reference is the same model
    assert fixed_memory(10**6, config_of(separate_critic=True)) == 36 * 10**6
    assert fixed_memory(10**6, config_of(lora_rank=4, separate_critic=True)) == 20 * 10**6  # the critic is trained
    rloo = config_of(advantages="rloo", responses_per_prompt=4)  # never has a critic
    assert fixed_memory(10**6, rloo) == 20 * 10**6


@pytest.mark.fault("A language model is too large for the memory", "One line says what it needs, before it is loaded.")
def test_a_model_that_cannot_fit_is_refused():
    check_memory(10**9, config_of(), None)
    check_memory(10**9, config_of(), 20 * GIGA)
    said = refusal(check_memory, 10**9, config_of(), 19 * GIGA)
    assert (
        said.startswith("a language model of 1000M parameters needs 20.0 GB for its weights")
        and "--lora-rank 16" in said
    )
    assert "use a smaller model" in refusal(check_memory, 10**9, config_of(lora_rank=1), 3 * GIGA)


def test_a_minibatch_is_divided_until_it_fits():
    model = make_gpt2()
    each = update_memory(model, 1, 20)
    assert each == 20 * (2 * WIDTH * 34 + VOCABULARY * 6) * 4
    assert choose_micro_batches(make_lstm(), TextRunConfig(), 20, 1) == 1  # of unknown sizes
    config = config_of(minibatch_size=16)
    fixed = fixed_memory(model.count_params(), config)
    chosen = {
        room: choose_micro_batches(model, config, 20, int((fixed + room * each) / 0.6) + 9) for room in (0, 1, 5, 8, 16)
    }
    assert chosen == {0: 16, 1: 16, 5: 4, 8: 2, 16: 1}
    own = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, num_micro_batches=2))
    assert choose_micro_batches(model, own, 20, 1) == 2 and choose_micro_batches(model, config, 20, None) == 1


def test_chunks_and_rematerialization_lower_the_estimate(monkeypatch):
    model = make_gpt2()
    monkeypatch.setattr(vocabulary, "MAX_LOGITS", 30 * VOCABULARY)  # logits of 30 positions
    layers, logits = 2 * WIDTH * 34 * 4, VOCABULARY * 6 * 4
    assert update_memory(model, 1, 20) == 20 * layers + 20 * logits
    assert update_memory(model, 8, 20) == 160 * layers + 30 * logits
    monkeypatch.setattr(vocabulary, "MAX_LOGITS", 1)
    assert update_memory(model, 8, 20) == 160 * layers + logits
    assert update_memory(model, 8, 20, rematerialize=True) == 160 * WIDTH * (2 + 34) * 4 + logits
    config = config_of(minibatch_size=16, rematerialize=True)
    room = fixed_memory(model.count_params(), config) + update_memory(model, 4, 20, rematerialize=True)
    assert choose_micro_batches(model, config, 20, int(room / 0.6) + 9) == 4
    assert choose_micro_batches(model, config_of(minibatch_size=16), 20, int(room / 0.6) + 9) == 8


def test_the_run_records_how_its_minibatches_are_divided(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "choose_micro_batches", lambda *_: 4)
    config = config_of(preset=preset, runs_dir=tmp_path, batch_size=8, minibatch_size=8, task="length")
    trainer = TextTrainer(config)
    assert trainer.config.ppo.num_micro_batches == 4 and trainer.collector.chunk == 2
    assert trainer.parts.notes[0].startswith(
        "num_micro_batches is 4, because a minibatch of 8 responses would need about "
    )


def test_this_host_says_how_much_memory_it_has():
    assert host_memory() is None or host_memory() > GIGA / 4
