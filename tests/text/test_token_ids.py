"""The ids of tokens do not matter: two tokenizers with other ids give the same texts, scores and log-probabilities.

In one of them the end token has id 0 and is the padding. Nothing may take a 0, or the padding, for something else.
"""

from typing import NamedTuple

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tfppo import TextTrainer, make_text_config
from tfppo.text import evaluate
from tfppo.text.data.corpus import sentences
from tfppo.text.data.likelihood import nats_per_character
from tfppo.text.data.tokenizer import END, train_tokenizer
from tfppo.text.evaluate import Responder, most_likely_domains
from tfppo.text.rewards.reward_model import RewardModel
from tfppo.text.rollouts import rollout
from tfppo.text.rollouts.sampling import gumbel_noise

TEXTS = [sentence.text for sentence in sentences("validation", "movie")][:40]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 512)


@pytest.fixture(scope="module")
def new_ids(tokenizer):
    """A permutation [V] from the ids of the first tokenizer to those of the second; the end gets 0."""
    size, end = tokenizer.vocabulary_size(), tokenizer.token_to_id(END)
    others = np.random.default_rng(0).permutation(np.delete(np.arange(size), end))
    ids = np.empty(size, int)
    ids[[end, *others]] = np.arange(size)
    return ids


@pytest.fixture(scope="module")
def permuted(tokenizer, new_ids):
    vocabulary = {token: int(new_ids[index]) for token, index in tokenizer.vocabulary.items()}
    other = keras_hub.models.GPT2Tokenizer(
        vocabulary, tokenizer.merges, unsplittable_tokens=tokenizer.unsplittable_tokens
    )
    assert other.token_to_id(END) == other.pad_token_id == 0 != tokenizer.token_to_id(END)
    return other


def make_gpt2(size):
    return keras_hub.models.GPT2CausalLM(
        keras_hub.models.GPT2Backbone(size, 1, 2, 16, 16, dropout=0.1, max_sequence_length=160)
    )


def make_llama(size):
    return keras_hub.models.LlamaCausalLM(
        keras_hub.models.LlamaBackbone(size, 1, 2, 16, 16, 1, tie_word_embeddings=True)
    )


@pytest.fixture(params=[make_gpt2, pytest.param(make_llama, marks=pytest.mark.slow)])
def models(request, tokenizer, new_ids):
    """Two models that say the same with other ids."""
    keras.utils.set_random_seed(2)
    model, other = (request.param(tokenizer.vocabulary_size()) for _ in range(2))
    rng = np.random.default_rng(1)
    for weight, twin in zip(model.weights, other.weights, strict=True):
        weight.assign(weight + rng.normal(0.0, 0.2, weight.shape))
        twin.assign(weight)
    embeddings = model.backbone.token_embedding.embeddings.numpy()
    other.backbone.token_embedding.embeddings.assign(embeddings[np.argsort(new_ids)])
    return model, other


@pytest.fixture
def same_noise(monkeypatch, new_ids):
    """Gives the same noise to the same token: `same_noise()` before the second model samples."""
    old_ids = np.argsort(new_ids)

    def permuted_noise(seed, rows, size):
        noise = gumbel_noise(seed, rows, size)
        return lambda column: tf.gather(noise(column), old_ids, axis=1)

    def same_noise():
        for module in (evaluate, rollout):
            monkeypatch.setattr(module, "gumbel_noise", permuted_noise)

    return same_noise


class Result(NamedTuple):
    """Responses and numbers of a trained and evaluated policy."""

    scored: list  # prompts, responses and scores, as the reward saw them
    rows: list  # metrics of the iterations
    texts: list  # responses of the tuned policy
    log_probs: np.ndarray
    domains: list


def run(model, tokenizer, mode):
    scored = []

    def reward(prompts, responses):
        texts = list(map("".join, zip(prompts, responses, strict=True)))
        scores = [len(text) / 10 + sum(map(ord, text)) % 7 for text in texts]
        scored.extend(zip(prompts, responses, scores, strict=True))
        return scores

    small = {"iterations": 2, "batch_size": 8, "minibatch_size": 8, "response_length": 8, "num_epochs": 1}
    settings = {"stop_token": ".", "stop_after": 3, "missing_end_penalty": 1.0, "score_position": "after_end"}
    settings |= {"compile_rollout": mode, "compile_update": mode, "normalize_scores": mode == "graph"}
    config = make_text_config(
        task="length", seed=3, learning_rate=1e-3, prompt_length=12, device="cpu", **small, **settings
    )
    trainer = TextTrainer(config, model=(model, tokenizer), reward=reward)
    rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for _, row in trainer.iterations()]
    policy, reference = (
        Responder(which, trainer.codec, config.text, mode=mode) for which in (trainer.policy.model, trainer.reference)
    )
    given = policy.respond(trainer.encode(trainer.task.prompts("test")[:60]), 3)
    return Result(
        scored, rows, given.texts, reference.total_log_probs(given), most_likely_domains(reference, TEXTS[:20])
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", pytest.param("graph", marks=pytest.mark.slow)])
def test_a_run_does_not_depend_on_the_ids_of_its_tokens(models, tokenizer, permuted, same_noise, mode):
    one = run(models[0], tokenizer, mode)
    same_noise()
    other = run(models[1], permuted, mode)
    assert one.scored == other.scored and len({response for _, response, _ in one.scored}) == len(one.scored) >= 16
    ended = one.rows[0]["text/eos_fraction"]
    assert ended < 1.0 and (ended > 0.0 or not isinstance(models[0], keras_hub.models.GPT2CausalLM))
    for row, expected in zip(other.rows, one.rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert other.texts == one.texts and other.domains == one.domains and len(set(one.domains)) > 1
    np.testing.assert_allclose(other.log_probs, one.log_probs, atol=1e-3)


@pytest.mark.parametrize("models", [make_gpt2], indirect=True)
def test_losses_and_reward_models_do_not_depend_on_the_ids(models, tokenizer, permuted):
    """A 0 is a token like any other in the corpus, too."""
    corpus = sentences("validation", "movie")[:30]
    losses = [nats_per_character(*pair, corpus) for pair in zip(models, (tokenizer, permuted), strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    head = {"kernel": np.linspace(-1, 1, 16).tolist(), "bias": 0.1, "words_slope": 0.0, "words_mean": 0.0}
    one, other = (RewardModel(*pair, head).scores(TEXTS) for pair in zip(models, (tokenizer, permuted), strict=True))
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.std(one) > 0.01
