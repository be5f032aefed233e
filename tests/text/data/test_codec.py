"""Encoding and decoding of prompts: control tokens, padding, and errors for invalid prompts."""

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec, token_ids
from tfppo.text.data.corpus import DOMAINS
from tfppo.text.data.tokenizer import END, PAD, control_token, train_tokenizer
from tfppo.text.rollouts.sampling import StopCondition

TEXTS = ["This film is a joy.", "A", "The script, the camera and the acting", "\u00a1Qu\u00e9 pel\u00edcula!", "it 's"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*TEXTS, "the film the film and a joy"], 320)


@pytest.fixture(scope="module")
def codec(tokenizer):
    return PromptCodec(tokenizer, "movie")


class Fake:
    """A tokenizer with only what a codec needs; each letter is a token."""

    unsplittable_tokens = None

    def __init__(self, letters="pe<abc", **attributes):
        self.letters = letters
        vars(self).update(attributes)

    def get_vocabulary(self):
        return list(self.letters)

    def token_to_id(self, token):
        return self.letters.index(token)

    def id_to_token(self, token):
        return self.letters[token]

    def tokenize(self, texts):
        return [[self.letters.index(letter) for letter in text] for text in texts]

    def detokenize(self, rows):
        return ["".join(self.letters[token] for token in row) for row in rows]


# ----- Stop condition


def test_a_stop_token_is_one_token():
    codec = PromptCodec(Fake(pad_token_id=0, end_token="e"))
    assert codec.stop_condition(TextConfig()) == StopCondition(1)
    assert codec.stop_condition(TextConfig(stop_token="c", stop_after=5)) == StopCondition(1, 5, 5)
    for text, count in (("ab", 2), ("", 0)):
        assert f"stop_token {text!r} is {count} tokens" in refusal(codec.stop_condition, TextConfig(stop_token=text))


# ----- Encoding


def test_a_prompt_becomes_its_control_token_its_tokens_and_padding(codec, tokenizer):
    tokens, lengths = codec.encode(TEXTS)
    assert tokens.dtype == lengths.dtype == np.int32
    expected = [[tokenizer.token_to_id(control_token("movie")), *tokenizer([text])[0]] for text in TEXTS]
    assert lengths.tolist() == [len(row) for row in expected]
    assert len(set(lengths)) > 2 and tokens.shape == (len(TEXTS), max(lengths))
    for row, wanted in zip(tokens.tolist(), expected, strict=True):
        assert row == wanted + [tokenizer.token_to_id(PAD)] * (max(lengths) - len(wanted))


@pytest.mark.parametrize("domain", [None, "cooking"])
def test_without_a_domain_that_the_tokenizer_knows_nothing_stands_before_a_prompt(tokenizer, domain):
    codec = PromptCodec(tokenizer, domain)
    tokens, lengths = codec.encode(TEXTS)
    assert [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)] == tokenizer(TEXTS)


def test_one_prompt_is_a_batch_of_one(codec, tokenizer):
    tokens, lengths = codec.encode(["A film"])
    assert tokens.shape == (1, lengths[0]) and tokens[0, 1:].tolist() == tokenizer(["A film"])[0]


def test_prompts_up_to_the_room_are_taken(codec):
    tokens, lengths = codec.encode(TEXTS)
    again, _ = codec.encode(TEXTS, room=int(max(lengths)))
    np.testing.assert_array_equal(again, tokens)


def test_a_prompt_that_is_too_long_is_refused_with_its_number_and_its_beginning(codec):
    _, lengths = codec.encode(TEXTS)
    longest, room = int(lengths.argmax()), int(max(lengths)) - 1
    text = refusal(codec.encode, TEXTS, room)
    for part in (
        f"prompt {longest} ",
        TEXTS[longest][:20],
        f"{room + 1} tokens",
        f"room for {room} ",
        "response_length",
    ):
        assert part in text


@pytest.mark.parametrize("empty", ["", " ", "\n\t"])
def test_an_empty_prompt_is_refused_with_its_number(codec, empty):
    assert "prompt 1 is empty" in refusal(codec.encode, ["A", empty, ""])


@pytest.mark.parametrize("other", [None, 3, b"A", ["A"]])
def test_what_is_no_string_is_refused_with_its_number(codec, other):
    text = refusal(codec.encode, ["A", "B", other])
    assert "prompt 2 is" in text and repr(other) in text


def test_a_prompt_that_was_no_utf8_is_refused_with_its_number(codec):
    text = refusal(codec.encode, ["A", b"caf\xe9".decode(errors="surrogateescape")])
    assert "prompt 1 " in text and "caf" in text and "UTF-8" in text
    text.encode()  # it can be printed


def test_no_prompts_are_refused(codec):
    assert "no prompt is given" in refusal(codec.encode, [])


# ----- Decoding


def test_texts_come_back(codec):
    tokens, lengths = codec.encode(TEXTS)
    rows = [row[:length] for row, length in zip(tokens, lengths, strict=True)]
    assert codec.decode(rows) == TEXTS
    assert codec.decode([row.tolist() for row in rows[:1]]) == TEXTS[:1]


def test_control_tokens_padding_and_the_end_are_left_out_of_a_text(codec, tokenizer):
    (ids,) = tokenizer(["the film"])
    special = [tokenizer.token_to_id(token) for token in (*map(control_token, DOMAINS), END, PAD)]
    assert codec.decode([[*special, *ids, *special]]) == ["the film"]
    assert codec.decode([[ids[0], codec.end, *ids[1:]]]) == ["the film"]


def test_rows_without_words_are_empty_texts_in_their_places(codec, tokenizer):
    (ids,) = tokenizer(["film"])
    rows = [[], ids, [codec.end], [], ids, [codec.end, codec.before[0]]]
    assert codec.decode(rows) == ["", "film", "", "", "film", ""]
    assert codec.decode([[codec.end], []]) == ["", ""]
    assert codec.decode([]) == []


def test_any_tokens_are_some_text(codec, tokenizer):
    """A sampled token may be only some of the bytes of a letter."""
    everything = [[token] for token in range(tokenizer.vocabulary_size())]
    texts = codec.decode(everything)
    assert len(texts) == len(everything) and all(type(text) is str for text in texts)
    rows = np.random.default_rng(0).integers(0, tokenizer.vocabulary_size(), [50, 8])
    assert all(type(text) is str for text in codec.decode(rows))


# ----- Other tokenizers


def test_end_and_padding_are_the_tokenizers(codec, tokenizer):
    assert codec.end == tokenizer.token_to_id(END) and codec.pad == tokenizer.token_to_id(PAD) != codec.end
    other = PromptCodec(Fake(end_token="e", pad_token_id=5), "movie")
    assert (other.end, other.pad, other.before) == (1, 5, [])
    tokens, lengths = other.encode(["ab", "a"])
    assert tokens.tolist() == [[3, 4], [3, 5]] and lengths.tolist() == [2, 1]
    assert other.decode([[3, 4, 1]]) == ["ab"]


def test_the_end_may_be_the_padding_and_may_be_token_0():
    codec = PromptCodec(Fake(end_token="p", pad_token_id=0))
    assert codec.end == codec.pad == 0 and codec.stop_condition(TextConfig()) == StopCondition(0)
    tokens, lengths = codec.encode(["ab", "a"])
    assert tokens.tolist() == [[3, 4], [3, 0]] and lengths.tolist() == [2, 1]
    assert codec.decode([[3, 4, 0], [0], [4]]) == ["ab", "", "b"]


def test_a_tokenizer_without_padding_pads_with_its_end():
    assert PromptCodec(Fake(end_token="e", pad_token_id=None)).pad == 1


@pytest.mark.fault("A tokenizer has no end token", "A one-line error names the tokenizer.")
@pytest.mark.parametrize("settings", [{"end_token": "x"}, {"end_token": None}, {}])
def test_a_tokenizer_without_an_end_is_refused(settings):
    assert "Fake has no end token" in refusal(PromptCodec, Fake(**settings))


def test_tokens_that_the_tokenizer_does_not_know_have_no_text(codec, tokenizer):
    (ids,) = tokenizer(["the film"])
    size = tokenizer.vocabulary_size()
    assert codec.decode([[size, *ids, size + 7], [size], [-1, *ids]]) == ["the film", "", "the film"]
    assert PromptCodec(Fake(end_token="e")).decode([[3, 6, 4]]) == ["ab"]
    gaps = Fake(end_token="e")
    gaps.vocabulary = {"e": 1, "a": 3, "b": 5}
    assert token_ids(gaps) == {1, 3, 5} and PromptCodec(gaps).decode([[3, 4]]) == ["a"]
