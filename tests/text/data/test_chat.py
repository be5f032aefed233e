"""Chat templates: rendering, the sandbox, special tokens in messages, and the end of an answer."""

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.data.chat import ChatTemplate, mark_special, split_special
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.prompts import Prompt
from tfppo.text.data.special_tokens import SpecialTokens
from tfppo.text.data.tokenizer import END, train_tokenizer

IM = (  # the form of ChatML, as in SmolLM2 and Qwen
    "{% for message in messages %}{{ '<|movie|>' + message['role'] + '\n' + message['content'] + '<|nyt|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|movie|>assistant\n' }}{% endif %}"
)
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the film and the user of the assistant", "a system"], 330)


def test_a_text_is_the_message_of_a_user():
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}: {{ m.content | trim }}]{% endfor %}", NAMES
    )
    assert template.render(" why? ") == "<s>[user: why?]"
    assert template.render(Prompt(CHAT)) == "<s>[user: a][assistant: b][user: c]"


def test_a_system_text_comes_first_unless_a_conversation_has_one():
    template = ChatTemplate("{% for m in messages %}{{ m.role[0] }}:{{ m.content }} {% endfor %}", {}, "be brief")
    assert template.render("why?") == "s:be brief u:why? "
    own = Prompt([{"role": "system", "content": "own"}, {"role": "user", "content": "why?"}])
    assert template.render(own) == "s:own u:why? "


def test_templates_have_the_means_that_transformers_documents():
    source = (
        "{%- for m in messages %}\n    {%- if loop.first %}{% continue %}{% endif %}\n"
        "    {{- {'<é>': m.content} | tojson }}\n{%- endfor %}{{ strftime_now is defined }}{{ tools is none }}"
    )
    assert ChatTemplate(source, {}, "x").render("a") == '{"<é>": "a"}FalseTrue'  # no HTML escapes, no dates


def test_the_date_of_a_template_never_changes():
    """A template may choose its own date where there is no date; one that does not ask gets a fixed one (SmolLM3)."""
    asks = "{% if strftime_now is defined %}now{% else %}1 Jan 2020{% endif %}{{ messages[0].content }}"
    assert ChatTemplate(asks, {}).render("a") == "1 Jan 2020a"
    assert ChatTemplate("{{ strftime_now('%d %B %Y') }}{{ messages[0].content }}", {}).render("a") == "26 July 2024a"


def test_the_marks_of_answers_change_no_text():
    """Transformers makes masks of the blocks `generation`."""
    source = (
        "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }} {% else %}"
        "{% generation %}a:{{ m.content }} {% endgeneration %}{% endif %}{% endfor %}"
    )
    roles = ("user", "Why?"), ("assistant", " So."), ("user", " And?")
    spoken = Prompt([{"role": role, "content": content} for role, content in roles])
    assert ChatTemplate(source, {}).render(spoken) == "u:Why? a:So. u: And? "  # an answer begins without a space
    assert "unknown tag 'endgeneration'" in refusal(ChatTemplate, "{% endgeneration %}", {})


@pytest.mark.fault("A chat template is wrong, raises or tries to leave its sandbox", "One line says what it raised.")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('no system role') }}", "the chat template raised TemplateError: no system role"),
        ("{{ messages[7].content }}", "the chat template raised UndefinedError"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "the chat template raised SecurityError"),
        ("{{ messages.append(1) }}", "the chat template raised SecurityError"),
        ("{% for i in range(10**9) %}{% endfor %}", "the chat template raised OverflowError"),
    ],
)
def test_a_template_that_fails_is_one_line(source, said):
    assert said in refusal(ChatTemplate(source, {}).render, "why?")


def test_a_template_that_is_no_template_is_one_line():
    assert "the chat template is not valid" in refusal(ChatTemplate, "{% for %}", {})


@pytest.mark.fault("A chat template leaves out the messages", "One line says what it writes.")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "the chat template writes no text for row 0"),
        (" \n  ", "the chat template writes no text for row 0"),
        ("{% for m in mesages %}{{ m.content }}{% endfor %}[answer]", "writes '[answer]' whatever the user says"),
    ],
)
def test_a_template_without_the_messages_is_refused(source, said):
    assert said in refusal(lambda: ChatTemplate(source, {}).render(Prompt("why?", origin="row 0")))


def test_an_error_of_a_template_names_the_prompt():
    template = ChatTemplate(
        "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ messages }}", {}
    )
    given = Prompt([{"role": "system", "content": "a"}, *CHAT], origin="line 3 of all.jsonl")
    assert "the chat template raised TemplateError for line 3 of all.jsonl: no; change" in refusal(
        template.render, given
    )


def test_all_messages_must_be_utf8(tokenizer):
    codec = PromptCodec(tokenizer, template=IM)
    said = refusal(codec.encode, [Prompt([{"role": "user", "content": "\ud83d"}, *CHAT[1:]], origin="row 0")])
    assert "row 0 ('c') has bytes that are not UTF-8" in said


def test_special_tokens_that_a_message_spells_out_stay_text():
    special = ["<|end|>", "<|end|>x", "[A]"]
    marked = mark_special("a<|end|>x [A] <|en", special)
    assert split_special(marked, special) == [("a<", False), ("|end|>x [", False), ("A] <|en", False)]
    assert split_special(f"{marked}<|end|>[A]", special)[-2:] == [("<|end|>", True), ("[A]", True)]
    assert split_special("a<|end|>xb", special) == [("a", False), ("<|end|>x", True), ("b", False)]
    assert split_special(mark_special("plain", []), []) == [("plain", False)]


def test_the_codec_encodes_rendered_prompts(tokenizer):
    codec = PromptCodec(tokenizer, "movie", template=IM)
    ids, lengths = codec.encode(["the film", Prompt(CHAT)])
    movie, nyt = tokenizer.token_to_id("<|movie|>"), tokenizer.token_to_id("<|nyt|>")
    texts = [list(map(int, tokenizer([text])[0])) for text in ("user\nthe film", "\n", "assistant\n")]
    assert ids[0, : lengths[0]].tolist() == [movie, *texts[0], nyt, *texts[1], movie, *texts[2]]
    assert (ids[1] == movie).sum() == 4 and (ids[1] == nyt).sum() == 3  # no control token before it
    assert codec.before == [] and codec.join(["Why?"], ["So."]) == ["Why? So."]
    assert PromptCodec(tokenizer).join(["It is", "It"], [" so", "s"]) == ["It is so", "Its"]


def test_spelled_tokens_are_text_with_and_without_a_template(tokenizer):
    for codec in (PromptCodec(tokenizer, template=IM), PromptCodec(tokenizer)):
        ids, _ = codec.encode(["the <|nyt|> film"])
        count = int((ids == tokenizer.token_to_id("<|nyt|>")).sum())
        assert count == (0 if codec.chat is None else 1)
        assert "<|nyt|> film" in tokenizer.detokenize(ids)[0].replace("<|nyt|>\n", "")


def test_an_answer_ends_at_the_tokenizers_end_and_at_that_of_the_template(tokenizer):
    codec = PromptCodec(tokenizer, template=IM)
    end, turn = tokenizer.token_to_id(END), tokenizer.token_to_id("<|nyt|>")
    assert codec.ends == (end, turn) and codec.special == SpecialTokens(None, (end, turn), IM)
    assert codec.decode([[*map(int, tokenizer(["film"])[0]), turn]]) == ["film"]
    refuses = "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}"
    assert PromptCodec(tokenizer, template=refuses).ends == (end,)


def test_messages_need_a_template(tokenizer):
    said = refusal(PromptCodec(tokenizer).encode, ["a", Prompt(CHAT, origin="line 3 of a.jsonl")])
    assert said.startswith("line 3 of a.jsonl is a list of messages, and the run has no chat template")


def test_the_start_token_of_a_template_is_not_doubled(tokenizer):
    start = tokenizer.token_to_id("<|amazon|>")
    codec = PromptCodec(tokenizer, special=SpecialTokens(start, (1,)), template="<|amazon|>{{ messages[0].content }}")
    ids, _ = codec.encode(["the film"])
    assert ids[0].tolist() == [start, *map(int, tokenizer(["the film"])[0])]
    assert np.count_nonzero(PromptCodec(tokenizer, special=SpecialTokens(start, (1,))).encode(["the"])[0] == start) == 1
