"""The LSTM language model against its equations, one token at a time."""

import keras
import numpy as np
import pytest

from tfppo.text.config import NewModelConfig
from tfppo.text.models.lstm import LSTMLanguageModel, make_lstm

TOKENS = np.random.default_rng(2).integers(1, 40, [3, 9])


@pytest.fixture
def model():
    """A model with larger weights than new ones, so that its probabilities differ clearly."""
    model = LSTMLanguageModel(40, num_layers=2, hidden_dim=8, dropout=0.5)
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0.0, 0.5, weight.shape) for weight in model.get_weights()])
    return model


def inputs(tokens):
    return {"token_ids": tokens, "padding_mask": (tokens != 0).astype("int32")}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, hidden, cell, kernel, recurrent_kernel, bias):
    """Hochreiter and Schmidhuber 1997 with forget gates (Gers et al. 2000); Keras' order of gates."""
    update, forget, candidate, output = np.split(x @ kernel + hidden @ recurrent_kernel + bias, 4)
    cell = sigmoid(forget) * cell + sigmoid(update) * np.tanh(candidate)
    return sigmoid(output) * np.tanh(cell), cell


def slow_logits(model, sentence):
    """Computes logits [S, V] of tokens [S], one token at a time."""
    embeddings, *weights = (weight.astype(np.float64) for weight in model.get_weights())
    layers = [weights[3 * n : 3 * n + 3] for n in range(model.num_layers)]
    states = [(np.zeros(model.hidden_dim), np.zeros(model.hidden_dim)) for _ in layers]
    logits = []
    for token in sentence:
        x = embeddings[token]
        for n, layer in enumerate(layers):
            states[n] = lstm_step(x, *states[n], *layer)
            x = states[n][0]
        logits.append(embeddings @ x)
    return np.array(logits)


def test_whole_sequences_equal_the_equations_step_by_step(model):
    logits = model(inputs(TOKENS)).numpy()
    assert logits.shape == (3, 9, 40) and logits.dtype == np.float32
    expected = np.array([slow_logits(model, sentence) for sentence in TOKENS])
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_padding_on_the_right_changes_nothing(model):
    padded = np.pad(TOKENS, [[0, 0], [0, 5]])
    np.testing.assert_allclose(model(inputs(padded))[:, :9], model(inputs(TOKENS)), atol=1e-6)


def test_logits_are_made_from_the_hidden_states(model):
    hidden = model.hidden_states(TOKENS)
    assert hidden.shape == (3, 9, 8)
    np.testing.assert_allclose(model(inputs(TOKENS)), hidden.numpy() @ model.get_weights()[0].T, atol=1e-5)


def test_dropout_is_on_in_training_only(model):
    calm = model(inputs(TOKENS))
    np.testing.assert_array_equal(model(inputs(TOKENS)), calm)
    assert np.abs(model(inputs(TOKENS), training=True) - calm).max() > 0.01


def test_a_model_comes_back_from_its_config(model):
    config = model.get_config()
    assert config == {"vocabulary_size": 40, "num_layers": 2, "hidden_dim": 8, "dropout": 0.5}
    twin = LSTMLanguageModel.from_config(config)
    assert [weight.shape for weight in twin.get_weights()] == [weight.shape for weight in model.get_weights()]
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(twin(inputs(TOKENS)), model(inputs(TOKENS)))


def test_a_model_comes_back_from_a_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is LSTMLanguageModel and loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(loaded(inputs(TOKENS)), model(inputs(TOKENS)))


def test_the_settings_are_the_models():
    model = make_lstm(600, NewModelConfig(num_layers=3, hidden_dim=16, dropout=0.2))
    assert model.get_config() == {"vocabulary_size": 600, "num_layers": 3, "hidden_dim": 16, "dropout": 0.2}
    assert model.count_params() == 600 * 16 + 3 * 4 * (16 * 16 + 16 * 16 + 16)
    assert len(model.trainable_variables) == 1 + 3 * 3
