"""KerasHub's text classifiers as rewards."""

import keras_hub
import numpy as np
import pytest
from support.families import perturb
from support.refusal import refusal

from tfppo.text.rewards.callables import as_reward, checked_scores

PROMPTS, RESPONSES = ["The film is", "The", "A"], [" good", " film", " bad film"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "is", "good", "bad", "a"]


def make_classifier(classes, **settings):
    backbone = keras_hub.models.BertBackbone(len(WORDS), 1, 2, 8, 16, max_sequence_length=12)
    tokenizer = keras_hub.models.BertTokenizer(WORDS, lowercase=True)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=12)
    return keras_hub.models.BertTextClassifier(
        backbone, classes, **{"preprocessor": preprocessor, "dropout": 0.5} | settings
    )


@pytest.fixture(scope="module")
def pair():
    model = make_classifier(2)
    perturb(model, 0.3, seed=1)
    return model


def test_the_score_is_the_logit_difference_of_two_classes_or_the_one_logit(pair):
    reward = as_reward(pair)
    logits = pair(pair.preprocessor(["The film is good", "The film", "A bad film"]), training=False).numpy()
    expected = logits[:, 1] - logits[:, 0]
    assert np.std(expected) > 1e-3
    np.testing.assert_allclose(checked_scores(reward, PROMPTS, RESPONSES), expected, atol=1e-5)
    np.testing.assert_allclose(checked_scores(reward, PROMPTS[:1], RESPONSES[:1]), expected[:1], atol=1e-5)
    one = make_classifier(1)
    logits = one(one.preprocessor(["The film is good"]), training=False).numpy()
    np.testing.assert_allclose(checked_scores(as_reward(one), PROMPTS[:1], RESPONSES[:1]), logits[0], atol=1e-5)


def test_other_text_classifiers_are_refused_in_one_line(pair):
    assert "BertTextClassifier with 3 classes; it must have 1" in refusal(as_reward, make_classifier(3))
    assert "without a preprocessor" in refusal(as_reward, make_classifier(2, preprocessor=None))
    assert "with the activation softmax" in refusal(as_reward, make_classifier(2, activation="softmax"))
