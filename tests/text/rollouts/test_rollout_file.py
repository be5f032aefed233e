"""The file with the responses of training: its size, its end after a kill, and reading."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.refusal import refusal

from tfppo.text.config import TextConfig
from tfppo.text.rollouts import rollout_file
from tfppo.text.rollouts.rollout_file import END_MARK, RolloutFile, read_rollouts
from tfppo.training.run_folder import ROLLOUTS

PROMPTS = ["one", "two", "three"]
B, R = 4, 3
INDICES = np.array([2, 0, 1, 2])
ENDED = np.array([True, False, True, True])


class Tensor:
    """Stands for a tensor."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def numpy(self):
        return self.array


def decode(responses, mask):
    return [" ".join(map(str, row[kept])) for row, kept in zip(responses, mask, strict=True)]


def make_rollout(iteration, scores=(1.0, 2.0, 3.0, 4.0)):
    """Makes a rollout of random tokens, which do not compress well."""
    rng = np.random.default_rng(iteration)
    return SimpleNamespace(
        responses=Tensor(rng.integers(0, 9999, [B, R])),
        mask=Tensor(np.arange(R) < np.array([3, 3, 1, 2])[:, None]),
        prompt_indices=Tensor(INDICES),
        raw_scores=Tensor(np.float32(scores)),
        scores=Tensor(np.float32(scores) / 3),
        ended=Tensor(ENDED),
        log_ratio=Tensor(np.float32([[0.5, 0.25, 0.25], [0.5, -1.5, 0.0], [0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])),
    )


def open_file(folder, **settings):
    return RolloutFile(folder, TextConfig(**settings), SimpleNamespace(decode_masked=decode), PROMPTS)


def filled(folder, iterations, **settings):
    file = open_file(folder, **settings)
    for iteration in iterations:
        file.append(iteration, make_rollout(iteration))
    return folder / ROLLOUTS


def iterations_in(folder):
    return list(dict.fromkeys(row["iteration"] for row in read_rollouts(folder)))


def test_every_response_comes_back_with_its_numbers(tmp_path):
    path = filled(tmp_path, range(3), missing_end_penalty=0.5)
    rows = list(read_rollouts(str(tmp_path)))
    assert len(rows) == 3 * B and iterations_in(tmp_path) == [0, 1, 2]
    rollout = make_rollout(1)
    assert rows[B + 1] == {
        "iteration": 1,
        "prompt": "one",
        "response": decode(rollout.responses.numpy(), rollout.mask.numpy())[1],
        "score": 2.0,
        "scaled_score": 0.6666667,
        "missing_end_penalty": 0.5,
        "kl": -1.0,
        "ended": False,
    }
    assert [row["missing_end_penalty"] for row in rows[:B]] == [0.0, 0.5, 0.0, 0.0]
    assert [row["prompt"] for row in rows[:B]] == ["three", "one", "two", "three"]
    assert [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()] == rows  # as with zcat


def test_equal_rollouts_give_equal_bytes(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    assert filled(tmp_path / "one", range(2)).read_bytes() == filled(tmp_path / "other", range(2)).read_bytes()


def test_a_score_that_is_not_finite_is_none(tmp_path):
    open_file(tmp_path).append(0, make_rollout(0, [np.nan, np.inf, 1.0, 2.0]))
    assert [row["score"] for row in read_rollouts(tmp_path)] == [None, None, 1.0, 2.0]


@pytest.mark.fault(
    "The file of responses (`save_rollouts`) reaches its largest size",
    "A line says so. Later responses are not kept, also not after a resume.",
)
def test_a_full_file_keeps_no_later_responses_also_when_it_is_opened_again(tmp_path, monkeypatch, capsys):
    path = filled(tmp_path, range(4))
    room = path.stat().st_size
    path.unlink()
    monkeypatch.setattr(rollout_file, "MEGABYTE", room // 2)  # so 2 megabytes are less than four rollouts and a mark
    assert filled(tmp_path, range(6), save_rollouts=2) == path
    whole = path.read_bytes()
    assert iterations_in(tmp_path) == [0, 1, 2] and len(whole) <= 2 * (room // 2)
    (line,) = capsys.readouterr().out.splitlines()
    assert "2 megabytes" in line and "iteration 4 and later" in line and "larger --save-rollouts" in line
    filled(tmp_path, [6], save_rollouts=1000)
    assert path.read_bytes() == whole and capsys.readouterr().out == ""
    path.write_bytes(whole[: -len(END_MARK)])  # cut back to a checkpoint after iteration 2
    filled(tmp_path, range(3, 6), save_rollouts=2)
    assert path.read_bytes() == whole


@pytest.mark.fault("A kill leaves half a line in the file of responses", "Readers leave the unfinished iteration out.")
def test_the_unfinished_end_of_a_killed_run_is_left_out(tmp_path, monkeypatch):
    path = filled(tmp_path, range(2))
    size = path.stat().st_size
    filled(tmp_path, [2])
    whole = path.read_bytes()
    monkeypatch.setattr(rollout_file, "BLOCK", 7)  # so that a block ends in every part of a member
    assert iterations_in(tmp_path) == [0, 1, 2]
    for end in range(size, len(whole)):
        path.write_bytes(whole[:end])
        assert iterations_in(tmp_path) == [0, 1]


def test_a_run_without_responses_and_a_damaged_file_are_one_line(tmp_path):
    assert f"{tmp_path} holds no {ROLLOUTS}" in refusal(read_rollouts, tmp_path)
    path = filled(tmp_path, range(2))
    data = bytearray(path.read_bytes())
    data[20] ^= 255
    path.write_bytes(data)
    assert f"{path} is damaged" in refusal(lambda: list(read_rollouts(tmp_path)))
    path.write_bytes(gzip.compress(b"{ not json\n"))
    assert f"{path} is damaged" in refusal(lambda: list(read_rollouts(tmp_path)))
