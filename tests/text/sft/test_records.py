"""Records of supervised fine-tuning: their files and forms, the split by a checksum, and overlap."""

import json
import re

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.data.prompt_files import split_share, write_rows
from tfppo.text.data.prompts import Prompt, as_prompts
from tfppo.text.reward_model.records import FORM as COMPARED
from tfppo.text.sft.records import FORM, Record
from tfppo.text.supervised.records import (
    as_records,
    overlap,
    read_records,
    split_records,
)

CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Bye?"},
    {"role": "assistant", "content": "Bye."},
]


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def test_each_form_of_file_is_read(tmp_path):
    lines = [{"text": "A film."}, {"prompt": "1+1=", "response": "2", "source": "mine"}]
    records = read_records(write(tmp_path, "a.jsonl", "\n\n".join(map(json.dumps, lines)) + "\n"), FORM)
    assert [record.row() for record in records] == [{"text": "A film."}, {"prompt": "1+1=", "response": "2"}]
    assert [record.origin.split(" of ")[0] for record in records] == ["line 1", "line 3"]
    csv = read_records(write(tmp_path, "a.csv", 'prompt,response\n"1, 2",3\n'), FORM)
    assert [record.row() for record in csv] == [{"prompt": "1, 2", "response": "3"}]
    assert [record.row() for record in read_records(write(tmp_path, "a.txt", "one\n\ntwo\n"), FORM)] == [
        {"text": "one"},
        {"text": "two"},
    ]


def test_each_answer_of_a_conversation_is_a_record():
    first, second = as_records([{"messages": CHAT}], "data", FORM)
    assert (first.prompt.messages, first.answer) == (CHAT[:2], "Hi.")
    assert (second.prompt.messages, second.answer) == (CHAT[:4], "Bye.")


def test_all_methods_hold_out_the_same_prompts():
    """The validation prompts of PPO are trained on neither by supervised fine-tuning nor by a reward model."""
    prompts = [Prompt(f"Question {number}?") for number in range(400)]
    _, held = split_share(prompts, 0.2)
    assert 40 < len(held) < 120
    answers = {"response": "Yes."}, {"chosen": "a", "rejected": "b"}, {"response": "a", "rating": 1}
    for answer, form in zip(answers, (FORM, COMPARED, COMPARED), strict=True):
        records = as_records([{"prompt": str(prompt), **answer} for prompt in prompts], "data", form)
        assert [str(record.prompt) for record in split_records(records, 0.2)[1]] == list(map(str, held))


def test_the_answers_of_a_conversation_are_in_one_part():
    rest = [{"role": role, "content": f"{role} {turn}"} for turn in range(3) for role in ("user", "assistant")][1:]
    talks = [{"messages": [{"role": "user", "content": f"Topic {number}"}, *rest]} for number in range(100)]
    train, validation = split_records(as_records(talks, "data", FORM), 0.2)
    topics = [{record.prompt.messages[0]["content"] for record in part} for part in (train, validation)]
    assert not topics[0] & topics[1] and sum(map(len, topics)) == 100 and 5 < len(topics[1]) < 40
    assert len(train) == 3 * len(topics[0])


def test_a_question_is_in_the_same_part_in_every_form():
    """A text and the conversation of one question are rendered alike. Other keys and their order do not matter."""

    def user(text):
        return {"role": "user", "content": text}

    numbers = range(200)
    forms = [
        [f"question {number}" for number in numbers],
        [[user(f"question {number}")] for number in numbers],
        [[{"name": "a", "content": f"question {number}", "role": "user"}] for number in numbers],
    ]
    parts = [list(map(str, split_share(as_prompts(form, "prompts"), 0.2)[1])) for form in forms]
    assert parts[0] == parts[1] == parts[2] != []
    talks = [{"messages": [*form, {"role": "assistant", "content": "Yes."}]} for form in forms[1]]
    assert [str(record.prompt) for record in split_records(as_records(talks, "data", FORM), 0.2)[1]] == parts[0]
    system = [[{"role": "system", "content": "Be brief."}, user(f"question {number}")] for number in numbers]
    assert list(map(str, split_share(as_prompts(system, "prompts"), 0.2)[1])) != parts[0]  # another conversation


def test_data_in_python_have_the_same_forms():
    rows = ["A film.", {"text": np.str_("b")}, {"prompt": CHAT[:2], "response": "Hi."}]
    assert [record.row() for record in as_records(rows, "data", FORM)] == [
        {"text": "A film."},
        {"text": "b"},
        {"prompt": CHAT[:2], "response": "Hi."},
    ]


def test_written_records_are_read_again(tmp_path):
    records = as_records([{"text": "a\nb é"}, {"messages": CHAT}], "data", FORM)
    write_rows(tmp_path / "kept.jsonl", (record.row() for record in records))
    assert [record.row() for record in read_records(tmp_path / "kept.jsonl", FORM)] == [
        record.row() for record in records
    ]


INVALID = {
    "no JSON": ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2 of .*a.jsonl is not JSON"),
    "missing column": ("a.jsonl", '{"question": "a"}\n', "line 1 of .* has no examples .it has question."),
    "prompt alone": ("a.csv", "prompt,answer\na,b\n", "line 2 of .* has no column response .it has prompt, answer."),
    "response alone": ("a.csv", "response\na\n", "line 2 of .* has no column prompt"),
    "a prompt of a text": ("a.jsonl", '{"text": "a", "prompt": "b"}', "the columns text and prompt"),
    "two forms": ("a.jsonl", '{"text": "a", "prompt": "b", "response": "c"}', "the columns text and response"),
    "number": ("a.jsonl", '{"prompt": "a", "response": 3}', "has the response 3 .int.; it must be a text"),
    "list": ("a.jsonl", '{"text": ["a"]}', r"has the text \['a'\] .list."),
    "empty response": ("a.jsonl", '{"prompt": "a", "response": " "}', "line 1 of .* has an empty response"),
    "empty prompt": ("a.jsonl", '{"prompt": "", "response": "b"}', "line 1 of .* is an empty prompt"),
    "empty file": ("a.jsonl", "\n", "a.jsonl has no examples"),
    "empty table": ("a.csv", "text\n", "a.csv has no examples"),
    "other file": ("a.parquet", "x", "ends with .parquet; a file of examples must end with .jsonl, .csv, .txt"),
    "no answer": ("a.jsonl", json.dumps({"messages": CHAT[:2]}), "has no message of the assistant"),
    "answer first": ("a.jsonl", json.dumps({"messages": CHAT[2:]}), "a message of the assistant before any other"),
    "two answers": ("a.jsonl", json.dumps({"messages": [*CHAT[:3], CHAT[2]]}), "two messages of the assistant in a"),
    "no content": (
        "a.jsonl",
        json.dumps({"messages": [CHAT[0], {"role": "assistant", "x": []}]}),
        "has the content None",
    ),
    "messages as text": ("a.jsonl", '{"messages": "hello"}', "has the messages 'hello' .str."),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_file_is_told_in_one_line(tmp_path, case):
    name, text, expected = INVALID[case]
    message = refusal(read_records, write(tmp_path, name, text), FORM)
    assert re.search(expected, message), message


@pytest.mark.parametrize("data", [3, {"text": "a"}, [3], []])
def test_invalid_data_in_python_are_told(data):
    assert "data" in refusal(as_records, data, "data", FORM)


def test_the_split_depends_on_the_prompt_alone():
    records = [Record(Prompt(f"{number}+1="), str(answer), "") for number in range(500) for answer in range(2)]
    train, validation = split_records(records, 0.05)
    assert len(train) + len(validation) == 1000 and 20 <= len(validation) <= 90
    assert not {str(record.prompt) for record in train} & {str(record.prompt) for record in validation}
    assert split_records(records[::-1], 0.05)[1] == validation[::-1]
    assert split_records(records, 0.0) == (records, [])


def test_records_in_both_parts_are_counted():
    train = as_records(["a", "b", {"prompt": "a", "response": "b"}], "data", FORM)
    assert overlap(train, as_records(["a", "a", "c", {"prompt": "a", "response": "c"}], "data", FORM)) == 2
