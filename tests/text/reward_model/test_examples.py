"""Examples of reward models: how texts are cut, which pairs are compared, and how batches are laid out."""

import numpy as np
import pytest

from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.special_tokens import SpecialTokens
from tfppo.text.data.tokenizer import train_tokenizer
from tfppo.text.reward_model.examples import encode_records, has_pairs, lay_out, pairs_of
from tfppo.text.reward_model.records import FORM
from tfppo.text.rewards.encoding import TextEncoder
from tfppo.text.supervised.records import as_records

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["A film is good and a film is bad."], 512)


def encoder_of(tokenizer, length, template=None, start=None):
    end = int(tokenizer.token_to_id("<|endoftext|>"))
    return TextEncoder(PromptCodec(tokenizer, None, SpecialTokens(start, (end,)), template), length)


def ids(tokenizer, *texts):
    return [int(token) for text in texts for token in tokenizer([text])[0]]


def examples_of(rows, encoder, margin=0.0):
    return encode_records(as_records(rows, "data", FORM), encoder, margin)


def test_a_response_ends_with_the_end_token_behind_its_prompt(tokenizer):
    end = int(tokenizer.token_to_id("<|endoftext|>"))
    rows = [{"prompt": "A film", "chosen": " is good", "rejected": " is bad"}]
    (example,) = examples_of(rows, encoder_of(tokenizer, 50)).examples
    for text, response in zip(example.texts, (" is good", " is bad"), strict=True):
        assert text.tolist() == [*ids(tokenizer, "A film", response), end]


def test_messages_are_rendered_and_a_text_is_not(tokenizer):
    end = int(tokenizer.token_to_id("<|endoftext|>"))
    encoder = encoder_of(tokenizer, 90, TEMPLATE)
    rows = [{"prompt": [{"role": "user", "content": "A film"}], "response": "good", "rating": 2}]
    (example,) = examples_of(rows, encoder).examples
    assert example.texts[0].tolist() == [*ids(tokenizer, "[user]A film[assistant]"), *ids(tokenizer, "good"), end]
    (text,) = encoder.texts(["A film"]).rows
    assert text.tolist() == [*ids(tokenizer, "A film"), end]


@pytest.mark.parametrize("start", [None, 7])
def test_a_long_prompt_loses_its_beginning_and_a_long_text_its_end(tokenizer, start):
    end = int(tokenizer.token_to_id("<|endoftext|>"))
    starts = [] if start is None else [start]
    prompt, response = ids(tokenizer, "A film is good and bad"), ids(tokenizer, " is")
    length = len(prompt) + len(response) - 1 + len(starts)
    encoder = encoder_of(tokenizer, length, start=start)
    encoded = encoder.responses(["A film is good and bad"], [" is"])
    assert encoded.rows[0].tolist() == [*starts, *prompt[2:], *response, end] and encoded.cut.tolist() == [True]
    long = encoder_of(tokenizer, 3, start=start).responses(["A film"], [" is good and"])
    assert long.rows[0].tolist() == ids(tokenizer, " is good and")[:3]  # even without the prompt it is too long
    texts = encoder_of(tokenizer, 4, start=start).texts(["A film is good and bad", "A"])
    assert texts.rows[0].tolist() == [*starts, *prompt][:4] and texts.cut.tolist() == [True, False]
    assert texts.rows[1].tolist() == [*starts, *ids(tokenizer, "A"), end]


def test_equal_responses_are_left_out_also_if_they_are_equal_only_after_the_cut(tokenizer):
    rows = [
        {"prompt": "A", "chosen": " film is good", "rejected": " film is bad"},
        {"prompt": "A", "chosen": " film", "rejected": " film"},
        {"prompt": "A", "chosen": " good", "rejected": " bad", "margin": 2.5},
    ]
    found = examples_of(rows, encoder_of(tokenizer, 50), margin=0.5)
    assert (len(found.examples), found.equal, found.truncated) == (2, 1, 0)
    assert [example.value for example in found.examples] == [0.5, 2.5]
    assert [record.chosen for record in found.records] == [" film is good", " good"]
    short = examples_of(rows, encoder_of(tokenizer, len(ids(tokenizer, " film is"))))
    assert (len(short.examples), short.equal) == (1, 2)


def slow_pairs(ratings, difference, neutral):
    all_ratings = [*ratings, *([] if neutral is None else [neutral])]
    numbers = range(len(all_ratings))
    return {(a, b) for a in numbers for b in numbers if all_ratings[a] - all_ratings[b] > difference}


@pytest.mark.parametrize("neutral", [None, 0.0, 3.0])
@pytest.mark.parametrize("difference", [0.5, 1.0, 9.0])
def test_pairs_are_those_whose_ratings_differ_enough(difference, neutral):
    ratings = np.array([2.5, -0.25, 1.0, -3.0, 1.5, 2.0])
    found = pairs_of(ratings, difference, neutral)
    assert found.shape[1] == 2 and set(map(tuple, found.tolist())) == slow_pairs(ratings, difference, neutral)


def test_ratings_are_compared_within_a_batch_only(tokenizer):
    rows = [{"text": "a" * length, "rating": rating} for length, rating in enumerate([5, 5, 5, 5, 1], 1)]
    examples = examples_of(rows, encoder_of(tokenizer, 50)).examples
    assert [has_pairs(examples, size, 1.0, None) for size in (2, 4, 5)] == [False, False, True]
    assert has_pairs(examples, 2, 1.0, 3.0) and not has_pairs([], 2, 1.0, None)
    compared = examples_of([{"prompt": "A", "chosen": " b", "rejected": " c"}], encoder_of(tokenizer, 50)).examples
    assert has_pairs(compared, 1, 99.0, None)


def test_a_batch_pads_on_the_right_and_names_its_pairs(tokenizer):
    rows = [
        {"prompt": "A film", "chosen": " is", "rejected": " is good and bad", "margin": 1},
        {"prompt": "A", "chosen": " b", "rejected": " c"},
    ]
    examples = examples_of(rows, encoder_of(tokenizer, 50)).examples
    batch = lay_out(examples, 1.0, None)
    assert batch.pairs.tolist() == [[0, 1], [2, 3]] and batch.margins.tolist() == [1.0, 0.0]
    texts = [text for example in examples for text in example.texts]
    for row, mask, text in zip(batch.token_ids, batch.is_token, texts, strict=True):
        assert row[mask].tolist() == text.tolist() and not row[~mask].any() and not mask[len(text) :].any()
    rated = examples_of([{"text": "A", "rating": 2}, {"text": "film", "rating": -1}], encoder_of(tokenizer, 50))
    batch = lay_out(rated.examples, 1.0, 0.0)
    assert set(map(tuple, batch.pairs.tolist())) == {(0, 1), (0, 2)}  # -1 and 0 do not differ by more than 1
    assert batch.margins.tolist() == [0.0, 0.0]
