"""Records of reward models: their files and forms, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from support.refusal import refusal

from tfppo.text.data.corpus import sentences
from tfppo.text.data.prompt_files import write_rows
from tfppo.text.reward_model.config import RewardModelConfig
from tfppo.text.reward_model.records import FORM, ShippedRatings, load
from tfppo.text.supervised.records import as_records, read_records, split_records

CHAT = [{"role": "user", "content": "Good?"}]
COMPARISON = {"prompt": "A film", "chosen": " is good", "rejected": " is bad"}


def rows_of(records):
    return [record.row() for record in records]


def test_a_jsonl_and_a_csv_file_have_the_three_forms(tmp_path):
    lines = [COMPARISON | {"margin": 0.5, "id": 3}, COMPARISON | {"prompt": CHAT}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert rows_of(read_records(tmp_path / "a.jsonl", FORM)) == [COMPARISON | {"margin": 0.5}, lines[1]]
    (tmp_path / "a.csv").write_text('text,rating,more\n"good, very",4.5,x\nbad,-1,y\n')
    assert rows_of(read_records(tmp_path / "a.csv", FORM)) == [
        {"text": "good, very", "rating": 4.5},
        {"text": "bad", "rating": -1.0},
    ]
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected,margin\nA,b,c,\nA,b,d,2\n")
    assert [record.margin for record in read_records(tmp_path / "b.csv", FORM)] == [None, 2.0]
    rated = {"prompt": CHAT, "response": "Yes.", "rating": 3.0}
    assert rows_of(as_records([rated], "data", FORM)) == [rated]


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"text": ["a", "b"], "rating": np.array([1, 3], np.int16)}),
        tf.data.Dataset.from_tensor_slices({"text": ["a", "b"], "rating": tf.constant([1, 3], tf.int64)}),
        [{"text": "a", "rating": np.float32(1)}, {"text": "b", "rating": 3}],
    ],
    ids=lambda data: type(data).__name__,
)
def test_python_data_have_the_same_forms(data):
    assert rows_of(as_records(data, "data", FORM)) == [{"text": "a", "rating": 1.0}, {"text": "b", "rating": 3.0}]


def test_a_missing_margin_of_a_dataframe_is_that_of_the_setting():
    frame = pd.DataFrame([COMPARISON, COMPARISON | {"margin": 1.0}])
    assert [record.margin for record in as_records(frame, "data", FORM)] == [None, 1.0]


def test_records_come_back_from_the_folder_of_a_run(tmp_path):
    rows = [COMPARISON | {"margin": 0.1}, COMPARISON | {"prompt": CHAT, "chosen": "é\n\ud800"}]
    records = as_records(rows, "data", FORM)
    write_rows(tmp_path / "kept.jsonl", (record.row() for record in records))
    assert rows_of(read_records(tmp_path / "kept.jsonl", FORM)) == rows_of(records)


WRONG = {
    "no columns": ({"question": "a"}, "has no column text (it has question); it must have prompt, chosen and rejected"),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "has no column prompt"),
    "no rejected": ({"prompt": "a", "chosen": "b"}, "has no column rejected"),
    "no rating": ({"text": "a"}, "has no column rating"),
    "no response": ({"prompt": "a", "rating": 1}, "has no column text"),
    "two kinds": (COMPARISON | {"rating": 1}, "has the columns chosen and rating"),
    "a prompt of a text": ({"prompt": "p", "text": "a", "rating": 1}, "has the columns text and prompt"),
    "two texts": ({"prompt": "p", "text": "a", "response": "b", "rating": 1}, "has the columns text and response"),
    "rating is a word": ({"text": "a", "rating": "good"}, "has the rating 'good' (str); it must be a finite number"),
    "rating is NaN": ({"text": "a", "rating": float("nan")}, "has the rating nan (float)"),
    "rating is infinite": ({"text": "a", "rating": float("-inf")}, "has the rating -inf"),
    "rating is null": ({"text": "a", "rating": None}, "has the rating None (NoneType)"),
    "rating is a bool": ({"text": "a", "rating": True}, "has the rating True (bool)"),
    "chosen is a number": (COMPARISON | {"chosen": 3}, "has the chosen 3 (int); it must be a text"),
    "rejected is empty": (COMPARISON | {"rejected": " "}, "has an empty rejected"),
    "margin is negative": (COMPARISON | {"margin": -1}, "has the margin -1; it must be at least 0"),
    "margin is a word": (COMPARISON | {"margin": "big"}, "has the margin 'big' (str)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_one_line_that_names_it(case):
    row, expected = WRONG[case]
    message = refusal(as_records, [COMPARISON, row], "data", FORM)
    assert message.startswith("row 1 of data ") and expected in message


def test_examples_of_two_kinds_are_refused():
    rated = {"text": "a", "rating": 1}
    message = refusal(load, RewardModelConfig(), [COMPARISON, rated], None)
    assert message.startswith("row 1 of data has text, rating, and row 0 of data has prompt, chosen, rejected")
    assert "one kind" in refusal(load, RewardModelConfig(), [rated, rated | {"rating": 2}], [COMPARISON])
    assert "without data" in refusal(load, RewardModelConfig(), None, [rated])


def test_without_data_the_records_are_the_shipped_ratings():
    records = load(RewardModelConfig(), None, None)
    assert isinstance(records, ShippedRatings)
    for part, split in ((records.train, "train"), (records.validation, "validation")):
        assert [(record.text, record.rating) for record in part] == [
            (sentence.text, sentence.rating) for sentence in sentences(split, "movie")
        ]


def test_the_two_parts_share_no_prompt():
    rows = [COMPARISON | {"prompt": f"film {number % 40}", "chosen": f"{number}"} for number in range(200)]
    train, held_out = split_records(as_records(rows, "data", FORM), 0.2)
    assert held_out and not {str(one.prompt) for one in train} & {str(one.prompt) for one in held_out}
