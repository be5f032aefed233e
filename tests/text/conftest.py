"""Fixtures: a tiny language model of each kind, a bigram model with a table of logits, and prompts."""

import functools

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tfppo.text.models.copying import default_policy
from tfppo.text.models.language_model import LanguageModel
from tfppo.text.models.lstm import LSTMLanguageModel
from tfppo.text.models.reference import as_language_model

VOCABULARY, WIDTH, CONTEXT = 20, 16, 24
END = 1  # 0 is padding
KINDS = ["gpt2", "llama", "lstm"]  # GPT2LanguageModel, CachedLanguageModel, RecurrentLanguageModel
SCALES = {"gpt2": 0.3, "llama": 0.3, "lstm": 1.0}  # of the weights; large, so that the probabilities differ clearly
LENGTHS = [3, 1, 5, 2, 4, 5, 1, 2]


def make_gpt2(num_layers=2, dropout=0.3, dtype="float32"):
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=num_layers,
        num_heads=4,
        hidden_dim=WIDTH,
        intermediate_dim=24,
        dropout=dropout,
        max_sequence_length=CONTEXT,
        dtype=dtype,
    )
    return keras_hub.models.GPT2CausalLM(backbone)


def make_llama(num_layers=2, dropout=0.3, dtype="float32", tied=False):
    """Makes a Llama with fewer key heads than query heads. Its output embedding is its token embedding if `tied`."""
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=num_layers,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=WIDTH,
        intermediate_dim=24,
        dropout=dropout,
        tie_word_embeddings=tied,
        dtype=dtype,
    )
    return keras_hub.models.LlamaCausalLM(backbone)


def make_lstm(num_layers=2, dropout=0.3, dtype="float32", width=WIDTH):
    with default_policy(dtype):
        return LSTMLanguageModel(VOCABULARY, num_layers=num_layers, hidden_dim=width, dropout=dropout)


def randomize(keras_model, scale, seed):
    """Gives all weights random values, biases and normalization scales included."""
    rng = np.random.default_rng(seed)
    for weight in keras_model.weights:
        center = 1.0 if weight.path.endswith(("gamma", "scale")) else 0.0
        weight.assign(center + rng.normal(0.0, scale, weight.shape))


class BigramModel(LanguageModel):
    """Takes the logits of the next token from a table, by the last token; counts its steps in eager mode."""

    def __init__(self, table):
        self.table = np.float32(table)  # [V, V]
        self.steps = 0

    trainable_variables = ()
    output_variables = ()
    context_length = None

    @property
    def vocabulary_size(self):
        return self.table.shape[1]

    @property
    def hidden_dim(self):
        return self.table.shape[1]

    def hidden_states(self, token_ids):
        return tf.gather(tf.constant(self.table), token_ids)

    def logits(self, hidden):
        return hidden

    def begin(self, token_ids, prompt_lengths):
        return tf.reduce_min(prompt_lengths) - 1, ()

    def step(self, token_ids, index, state):
        self.steps += 1
        return self.hidden_states(token_ids), state


@pytest.fixture(scope="session")
def make_model():
    """Makes a new language model of a kind."""

    def make_model(kind, seed=0, **settings):
        keras_model = {"gpt2": make_gpt2, "llama": make_llama, "lstm": make_lstm}[kind](**settings)
        randomize(keras_model, SCALES[kind], seed)
        return as_language_model(keras_model)

    return make_model


@pytest.fixture(scope="session")
def shared_model(make_model):
    """Returns the language model of a kind, made once. Tests must not train it."""
    return functools.cache(make_model)


@pytest.fixture(scope="session", params=KINDS)
def model(request, shared_model):
    """A language model of each kind in turn. Tests must not train it."""
    return shared_model(request.param)


@pytest.fixture(scope="session")
def bigram():
    """The class of bigram models; its argument is a table of logits [V, V]."""
    return BigramModel


@pytest.fixture(scope="session")
def prompts():
    """Prompts of different lengths, int32 [B, P] and padded on the right, and their lengths [B]."""
    tokens = np.random.default_rng(3).integers(2, VOCABULARY, [len(LENGTHS), max(LENGTHS)])
    lengths = np.int32(LENGTHS)
    tokens[np.arange(max(LENGTHS)) >= lengths[:, None]] = 0
    return tf.constant(tokens, tf.int32), tf.constant(lengths)
