"""Examples: tokens as PPO sees them, and a mask of the tokens that count."""

import numpy as np
import pytest
from support.families import make_tokenizer
from support.refusal import refusal

from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.special_tokens import SpecialTokens, special_tokens_of
from tfppo.text.sft.examples import check_some_are_left, encode_records
from tfppo.text.sft.records import FORM
from tfppo.text.supervised.records import as_records

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("Llama3")  # it has a start token


def codecs(tokenizer, template=None):
    special = special_tokens_of(tokenizer)
    codec = PromptCodec(tokenizer, None, special, template)
    return codec, PromptCodec(tokenizer, None, special)


def encoded(tokenizer, rows, loss_on="responses", length=1000, template=None):
    return encode_records(as_records(rows, "data", FORM), *codecs(tokenizer, template), loss_on, length)


def ids(tokenizer, text):
    return [int(token) for token in tokenizer([text])[0]]


def test_a_prompt_and_its_response_are_what_ppo_samples(tokenizer):
    (example,), *_ = encoded(tokenizer, [{"prompt": "A film", "response": " is good."}])
    codec, _ = codecs(tokenizer)
    prompt, response = ids(tokenizer, "A film"), ids(tokenizer, " is good.")
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    assert example.tokens.tolist() == [start, *prompt, *response, end]
    assert example.counts.tolist() == [False] * (1 + len(prompt)) + [True] * (len(response) + 1)
    seen, lengths = codec.encode(["A film"])  # as PPO encodes the prompt, and decodes the response
    assert example.tokens[: lengths[0]].tolist() == seen[0].tolist()
    assert codec.decode([example.tokens[lengths[0] :]]) == [" is good."]


def test_a_response_in_a_conversation_has_no_space_at_its_beginning(tokenizer):
    """The space separates it from a prompt that it continues. Only one space is left out, and none of a text."""
    for response, kept in ((" is good.", "is good."), ("  is", " is"), ("\n is", "\n is")):
        for template, wanted in ((TEMPLATE, kept), (None, response)):
            (example,), *_ = encoded(tokenizer, [{"prompt": "A film", "response": response}], template=template)
            assert example.tokens[example.counts].tolist()[:-1] == ids(tokenizer, wanted)
    (text,), *_ = encoded(tokenizer, [{"text": " A joy"}], template=TEMPLATE)
    assert text.tokens.tolist()[1:-1] == ids(tokenizer, " A joy")


def test_a_tokenizer_that_puts_a_space_before_each_text_gets_none():
    """SentencePiece as in Mistral: "is Paris" has one space, and so has "is" with the response " Paris"."""
    tokenizer = make_tokenizer("Mistral")
    (example,), *_ = encoded(tokenizer, [{"prompt": "A film", "response": " is good"}])
    whole = [tokenizer.start_token_id, *ids(tokenizer, "A film is good"), tokenizer.end_token_id]
    assert example.tokens.tolist() == whole
    codec, _ = codecs(tokenizer)
    response = codec.decode([example.tokens[example.counts]])
    assert response == ["is good"] and codec.join(["A film"], response) == ["A film is good"]


def test_records_that_spell_special_tokens_are_counted(tokenizer):
    rows = [{"text": "<|im_end|> is text"}, {"text": "A film"}, {"prompt": "Q", "response": "A<|im_end|>"}]
    tokens = [tokenizer.end_token, "A", tokenizer.start_token]
    assert encoded(tokenizer, [{"text": f"{token} film"} for token in tokens]).spelled == 2
    assert encoded(tokenizer, rows).spelled == 0  # no token of this tokenizer


def test_all_tokens_but_the_first_can_count(tokenizer):
    (example,), *_ = encoded(tokenizer, [{"prompt": "A film", "response": " good"}], "all")
    assert example.counts.tolist() == [False] + [True] * (len(example.tokens) - 1)


def test_each_token_of_a_conversation_counts_once(tokenizer):
    """A conversation has a record for each answer, whose prompts repeat what was said before."""
    turns = ["A film", "Is bad", "Why", "Not good", "A joy", "Good"]
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(turns)]
    other = [{"role": "user", "content": "Good"}, {"role": "assistant", "content": "A film"}]
    rows = [{"messages": messages}, {"messages": other}, {"messages": other}]
    examples = encoded(tokenizer, rows, "all", template=TEMPLATE, length=200).examples
    first, second, third, *others = (example.counts for example in examples)
    assert first.tolist() == [False] + [True] * (len(first) - 1)
    assert second.tolist() == [False] * len(first) + [True] * (len(second) - len(first))
    assert third.tolist() == [False] * len(second) + [True] * (len(third) - len(second))
    assert [counts.sum() for counts in others] == [len(counts) - 1 for counts in others]  # which begin anew


def test_all_tokens_of_a_text_count(tokenizer):
    (example,), *_ = encoded(tokenizer, [{"text": "A joy"}], template=TEMPLATE)  # which does not render a text
    text = ids(tokenizer, "A joy")
    assert example.tokens.tolist() == [tokenizer.start_token_id, *text, tokenizer.end_token_id]
    assert example.counts.tolist() == [False] + [True] * (len(text) + 1)


def test_a_text_without_a_start_token_begins_with_a_token_that_cannot_count():
    tokenizer = make_tokenizer("GPT2")
    (example,), *_ = encoded(tokenizer, [{"text": "A joy"}])
    assert example.tokens.tolist() == [*ids(tokenizer, "A joy"), tokenizer.end_token_id]
    assert example.counts.tolist() == [False] + [True] * (len(example.tokens) - 1)


def test_an_answer_in_a_conversation_ends_as_the_template_ends_it(tokenizer):
    messages = [{"role": "user", "content": "Good?"}, {"role": "assistant", "content": "Not <|im_end|> bad"}]
    (example,), *_ = encoded(tokenizer, [{"messages": messages}], template=TEMPLATE)
    turn = tokenizer.token_to_id("<|im_end|>")
    assert example.tokens[-1] == turn
    response = example.tokens[example.counts]
    assert turn not in response[:-1]  # what an answer spells out stays text
    codec, _ = codecs(tokenizer, TEMPLATE)
    assert codec.decode([response[:-1]]) == ["Not <|im_end|> bad"]
    prompt, lengths = codec.encode(["Good?"])
    assert example.tokens[: lengths[0]].tolist() == prompt[0].tolist()
    assert (~example.counts).sum() == lengths[0]


def test_messages_need_a_template(tokenizer):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    assert "row 0 of data is a list of messages" in refusal(encoded, tokenizer, rows)


def test_long_examples_are_cut_and_counted(tokenizer):
    rows = [{"prompt": "the film " * 30, "response": "a"}, {"prompt": "A", "response": " film" * 30}, {"text": "A"}]
    found = encoded(tokenizer, rows, length=10)
    assert [len(example.tokens) for example in found.examples] == [10, 3]
    assert (found.truncated, found.left_out) == (1, 1)
    assert found.examples[0].counts.sum() == 10 - 2  # without the start token and the prompt
    assert found.tokens == 8 + 2
    only = encoded(tokenizer, rows[:1], length=10)
    assert "the prompts of all 1 training examples fill 10" in refusal(
        check_some_are_left, only, "training examples", 10
    )


def test_the_checksum_depends_on_tokens_and_masks(tokenizer):
    rows = [{"prompt": "A film", "response": " good"}]
    sums = {encoded(tokenizer, rows).checksum(), encoded(tokenizer, rows, "all").checksum()}
    assert len(sums) == 2 and encoded(tokenizer, rows).checksum() in sums


def test_several_ends_keep_the_first_for_texts(tokenizer):
    end, turn = tokenizer.end_token_id, tokenizer.token_to_id("<|eot_id|>")
    special = SpecialTokens(None, (end, turn))
    codec = PromptCodec(tokenizer, None, special)
    (example,), *_ = encode_records(as_records(["A"], "data", FORM), codec, codec, "responses", 10)
    np.testing.assert_array_equal(example.tokens[-1:], [end])
