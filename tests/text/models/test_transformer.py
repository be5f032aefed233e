"""The small GPT-2: its size, and that it never looks ahead."""

import numpy as np
import pytest

from tfppo.errors import UsageError
from tfppo.text.config import NewModelConfig
from tfppo.text.models.transformer import make_transformer


def test_the_default_has_3_7_million_parameters():
    layer = 12 * 256**2 + 13 * 256  # attention 4 D^2 + 4 D, feed-forward 8 D^2 + 5 D, two layer norms 4 D
    expected = 2048 * 256 + 128 * 256 + 4 * layer + 2 * 256
    assert make_transformer(2048, NewModelConfig(context_length=128)).count_params() == expected == 3_716_608


def test_heads_divide_the_width_or_it_is_refused():
    with pytest.raises(UsageError, match="hidden_dim = 256.*num_heads = 6"):
        make_transformer(600, NewModelConfig(num_heads=6))


def test_the_settings_are_the_models():
    config = NewModelConfig(num_layers=2, num_heads=3, hidden_dim=12, context_length=10, dropout=0.3)
    backbone = make_transformer(600, config).backbone
    assert (backbone.vocabulary_size, backbone.num_layers, backbone.num_heads) == (600, 2, 3)
    assert (backbone.hidden_dim, backbone.intermediate_dim) == (12, 48)
    assert (backbone.max_sequence_length, backbone.dropout) == (10, 0.3)


def test_logits_depend_on_what_came_before_and_on_nothing_else():
    model = make_transformer(600, NewModelConfig(num_layers=2, num_heads=2, hidden_dim=16, context_length=12))
    tokens = np.random.default_rng(1).integers(1, 600, [3, 12])
    changed = tokens.copy()
    changed[:, 7] = (changed[:, 7] + 1) % 599 + 1
    logits, other = (model({"token_ids": t, "padding_mask": np.ones_like(t)}).numpy() for t in (tokens, changed))
    assert logits.shape == (3, 12, 600)
    np.testing.assert_allclose(logits[:, :7], other[:, :7], atol=1e-6)
    assert np.abs(logits[:, 7:] - other[:, 7:]).max(axis=(0, 2)).min() > 1e-3
