"""Prompts with labels: the forms in which users give them, and files of them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.text.data.prompt_files import read_prompts, split_share, write_prompts
from tfppo.text.data.prompts import Prompt, as_prompts, labels_of

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
ROWS = [
    {"prompt": "The capital of France", "capital": "Paris", "size": 68},
    {"prompt": "Of Chad", "capital": "N'Djamena"},
]


def plain(prompts):
    return [(str(prompt), dict(prompt.labels)) for prompt in prompts]


# ----- Forms in Python


def test_a_prompt_is_a_text_with_labels():
    prompt = Prompt("Why?", {"answer": "because", "n": np.float32(2), "tags": ["a", None]}, "here")
    assert prompt == "Why?" and isinstance(prompt, str) and prompt.messages is None
    assert prompt.labels == {"answer": "because", "n": 2.0, "tags": ["a", None]}
    again = pickle.loads(pickle.dumps(prompt))
    assert (again, again.labels, again.origin) == (prompt, prompt.labels, "here")


def test_a_conversation_is_the_text_of_its_last_message():
    prompt = Prompt(CHAT)
    assert prompt == "Why?" and prompt.messages == CHAT
    assert prompt.row() == {"prompt": CHAT}


@pytest.mark.parametrize(
    "form",
    [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        pd.DataFrame(ROWS),
        tf.data.Dataset.from_tensor_slices(
            {"prompt": [row["prompt"] for row in ROWS], "capital": [row["capital"] for row in ROWS]}
        ),
    ],
    ids=["list", "tuple", "iterator", "pandas", "tf.data"],
)
def test_rows_of_every_form_become_prompts_with_labels(form):
    prompts = as_prompts(form, "prompts")
    assert [str(prompt) for prompt in prompts] == [row["prompt"] for row in ROWS]
    assert labels_of(prompts)["capital"] == ["Paris", "N'Djamena"]
    assert labels_of(prompts).get("size", [68, None]) == [68, None]  # a missing value of pandas is None
    assert as_prompts(prompts, "again") == prompts and as_prompts(prompts, "again")[0] is prompts[0]


def test_labels_are_those_that_a_file_gives_back(tmp_path):
    """So a resumed run calls the reward with the same values."""
    labels = {"pair": (1, 2), "by_key": {1: "a", "b": np.float32(2)}, "tags": [b"x", "\udc80"], "half": "\ud83d"}
    (prompt,) = as_prompts([{"prompt": [{"role": "user", "content": "a", "time": np.int64(3)}], **labels}], "prompts")
    assert prompt.labels == {"pair": [1, 2], "by_key": {"1": "a", "b": 2}, "tags": ["x", "\udc80"], "half": "\ud83d"}
    write_prompts(tmp_path / "kept.jsonl", [prompt])
    (again,) = read_prompts(tmp_path / "kept.jsonl")
    assert again.labels == prompt.labels and again.messages == prompt.messages == [
        {**CHAT[1], **{"content": "a", "time": 3}}
    ]


@pytest.mark.parametrize("form", [["a", "b"], np.array(["a", "b"]), tf.data.Dataset.from_tensor_slices(["a", "b"])])
def test_texts_of_every_form_become_prompts(form):
    assert plain(as_prompts(form, "prompts")) == [("a", {}), ("b", {})] and labels_of(as_prompts(["a"], "")) == {}


@pytest.mark.fault(
    "Prompts or labels in Python have another form", "One line names the row and the form that is allowed."
)
@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("why", "prompts is 'why' (str); it must be a list of texts"),
        ("all.jsonl", "give a file as a setting, as in make_text_config(prompts=...)"),
        (Path("all.csv"), "prompts is the path 'all.csv'; it must be a list of texts"),
        ({"why", "how"}, "(set); it must be a list of texts"),
        ((1 / number for number in (1, 0)), "prompts cannot be read (ZeroDivisionError: division by zero): fix"),
        (CHAT, "row 0 of prompts is a single message; a conversation is a list of messages"),
        ([[{**CHAT[0], "tool": object}]], "row 0 of prompts has the message {"),
        (7, "prompts is 7 (int); it must be a list of texts"),
        ({"prompt": ["why"]}, "it must be a list of texts"),
        ([7], "row 0 of prompts has the prompt 7 (int); a prompt must be a text, or a list of messages"),
        ([[]], "row 0 of prompts has the prompt [] (list)"),
        ([[{"role": "user"}]], "row 0 of prompts has the prompt [{'role': 'user'}]"),
        ([[*CHAT, {"role": "assistant", "content": "So"}]], "row 0 of prompts ends with a message of the assistant"),
        (["why", " "], "row 1 of prompts is an empty prompt"),
        ([{"question": "why"}], "row 0 of prompts has no column prompt (it has question): name the column"),
        ([{"prompt": "why", "responses": 1}], "row 0 of prompts has a column 'responses'; a label must have a name"),
        ([{"prompt": "why", 3: 1}], "row 0 of prompts has a column 3"),
        ([{"prompt": "why", "key": object}], "row 0 of prompts has the label key <class 'object'> (type)"),
        (tf.data.Dataset.from_tensors("why").repeat(), "prompts is an infinite tf.data.Dataset"),
    ],
)
def test_other_forms_are_refused(form, said):
    assert said in refusal(as_prompts, form, "prompts")


# ----- Files


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
def test_files_have_prompts_and_labels(tmp_path, mark):
    jsonl, table, text = (tmp_path / f"all{ending}" for ending in (".jsonl", ".CSV", ".txt"))
    jsonl.write_text(mark + "\n\n".join(map(json.dumps, [*ROWS, {"prompt": CHAT}])), encoding="utf-8")
    table.write_text(
        mark + 'capital,prompt\r\nParis,"one, ""two""\nthree"\r\n\r\nRoma,Où?\r\n', encoding="utf-8", newline=""
    )
    text.write_text(mark + "one\n\n two \r\nthree\u2028 four", encoding="utf-8")
    assert plain(read_prompts(jsonl)) == [
        ("The capital of France", {"capital": "Paris", "size": 68}),
        ("Of Chad", {"capital": "N'Djamena"}),
        ("Why?", {}),
    ]
    assert read_prompts(jsonl)[2].messages == CHAT
    assert plain(read_prompts(table)) == [('one, "two"\nthree', {"capital": "Paris"}), ("Où?", {"capital": "Roma"})]
    assert read_prompts(text) == ["one", " two ", "three", " four"]


def test_written_prompts_are_read_again(tmp_path):
    prompts = as_prompts([*ROWS, {"prompt": CHAT, "size": 1.5}, "Où? \U0001f642\nhere"], "prompts")
    write_prompts(tmp_path / "kept.jsonl", prompts)
    again = read_prompts(tmp_path / "kept.jsonl")
    assert plain(again) == plain(prompts) and [p.messages for p in again] == [p.messages for p in prompts]


@pytest.mark.fault("A file of prompts is damaged", "One line names the file, the line and what is wrong.")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[]", "ends with .json; a file of prompts must end with .jsonl, .csv, .txt"),
        ("a", b"why", "ends with no extension"),
        ("a.txt", b" \n\n", "has no prompts"),
        ("a.txt", b"one\ntwo \xff\n", "line 2 of {} is not UTF-8"),
        ("a.csv", "prompt\nwhy".encode("utf-16"), "{} is encoded in UTF-16; it must be UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt": ', "line 3 of {} is not JSON"),
        ("a.jsonl", b'["a"]', "line 1 of {} is a JSON list; it must be an object"),
        ("a.jsonl", b'{"prompt": ""}', "line 1 of {} is an empty prompt"),
        ("a.jsonl", b'{"prompt": null}', "line 1 of {} has the prompt None (NoneType)"),
        ("a.jsonl", b'{"text": "a"}', "line 1 of {} has no column prompt (it has text)"),
        ("a.csv", b"question,answer\na,b\n", "line 2 of {} has no column prompt (it has question, answer)"),
        ("a.csv", b"prompt,answer\na\n", "line 2 of {} has 1 values; line 1 names 2 columns"),
        ("a.csv", b"prompt,answer\na,b,c\n", "line 2 of {} has 3 values; line 1 names 2 columns"),
        ("a.csv", b"prompt,prompt\na,b\n", "line 1 of {} names the column 'prompt' twice"),
        ("a.csv", b'prompt\n"a', "line 2 of {} is not CSV"),
        ("a.csv", b"prompt\n", "has no prompts"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert said.format(tmp_path / name) in refusal(read_prompts, tmp_path / name)


def test_a_missing_file_is_one_line(tmp_path):
    assert "cannot be read (No such file or directory)" in refusal(read_prompts, tmp_path / "none.txt")


def test_equal_prompts_are_in_the_same_part_whatever_else_there_is():
    prompts = as_prompts([f"question {number}" for number in range(400)], "prompts")
    train, held_out = split_share(prompts, 0.25)
    assert 70 <= len(held_out) <= 130 and sorted(train + held_out) == sorted(prompts)
    assert split_share(prompts[::-1][:50], 0.25)[1] == [p for p in prompts[::-1][:50] if p in held_out]
    assert set(split_share(prompts, 0.1)[1]) < set(held_out)  # a larger share keeps the smaller one
