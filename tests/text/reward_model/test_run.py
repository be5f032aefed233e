"""Runs of reward models: what they learn, their files, resume to the bit, and their use as rewards of PPO."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.families import make_family, make_tokenizer
from support.refusal import refusal
from support.run_files import evaluation_of, rows_of
from support.signals import stopped_after

import tfppo
from tfppo.text.data.corpus import sentences
from tfppo.text.models.reference import as_language_model
from tfppo.text.reward_model.config import RewardModelRunConfig
from tfppo.text.rewards.reward_model import RewardModel
from tfppo.training import run_folder

GOOD, BAD = ["good", "great", "fine", "best"], ["bad", "poor", "worst", "dull"]
THINGS = ["film", "book", "song", "play", "story", "dance", "joke", "scene", "poem", "show"]
COMPARISONS = [
    {"prompt": f"The {thing} is", "chosen": f" {good}.", "rejected": f" {bad}."}
    for thing in THINGS
    for good, bad in zip(GOOD, BAD, strict=True)
]
FAST = {"learning_rate": 1e-2, "batch_size": 8, "validation_share": 0.3}


@pytest.fixture(scope="module")
def whole(preset, tmp_path_factory):
    """A run on comparisons that is not interrupted."""
    runs_dir = tmp_path_factory.mktemp("runs")
    return tfppo.reward_model(COMPARISONS, preset=preset, **FAST, epochs=3, runs_dir=runs_dir, name="whole")


def test_a_run_learns_the_preferences_and_leaves_its_files(whole):
    found = evaluation_of(whole)["validation"]
    assert found["pair_accuracy"] > 0.9 and found["loss"] < 0.4 < found["loss_before"]
    assert found["pairs"] == found["examples"] and 0.5 < found["interval"][0] < found["interval"][1] == 1.0
    assert {"calibration", "calibration_error", "length", "longer_wins", "in_training_data"} <= set(found)
    names = {path.name for path in whole.iterdir() if not path.name.startswith("events.out")}
    files = "config.yaml metrics.csv evaluation.json curve.png reliability.png checkpoints reward-model examples .lock"
    assert names == set(files.split())
    assert run_folder.kind_of(whole) == "reward_model" and run_folder.is_finished(whole)
    assert set(rows_of(whole)[0]) >= {"reward_model/loss", "reward_model/accuracy", "validation/accuracy"}
    model = RewardModel.load(whole)
    scores = model(["The tale is"] * 2, [" great.", " poor."])
    assert scores[0] > scores[1] and model.reads_responses and model.head["words_slope"] == 0


@pytest.mark.slow
def test_a_run_that_a_signal_stops_goes_on_to_the_same_bits(whole, preset, tmp_path, capsys):
    with stopped_after(5):
        folder = tfppo.reward_model(COMPARISONS, preset=preset, **FAST, epochs=3, runs_dir=tmp_path, name="stopped")
    assert "stopped after step 5 of" in capsys.readouterr().out
    assert not (folder / "evaluation.json").exists()
    assert tfppo.resume(folder) == folder
    assert "resumed from checkpoint 000005" in capsys.readouterr().out
    one, other = evaluation_of(folder), evaluation_of(whole)
    assert (one["weights"], one["validation"]) == (other["weights"], other["validation"])
    assert rows_of(folder) == rows_of(whole)
    head = "reward-model/head.json"
    assert (folder / head).read_text() == (whole / head).read_text()


SMALL = {"iterations": 1, "batch_size": 4, "minibatch_size": 4, "response_length": 4, "eval_prompts": 0}
PROMPTS = ["The film is", "The book is", "The song is", "The play is"]


@pytest.mark.slow
def test_a_run_of_ppo_takes_the_folder_and_goes_on_with_the_same_reward_model(whole, preset, tmp_path):
    config = tfppo.make_text_config(**SMALL, preset=preset, runs_dir=tmp_path, reward_model=whole)
    folder = tfppo.train_text(config, prompts=PROMPTS)
    kept = run_folder.read_config(folder, tfppo.TextRunConfig)
    assert kept.text.reward_model == whole and kept.text.reward is None
    assert kept.parts.reward_model_sha256 == RewardModel.load(whole).checksum()
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    again = RewardModel.load(whole / "reward-model")([samples[0]["prompt"]], [samples[0]["policy"]])
    assert samples[0]["policy_score"] == pytest.approx(float(again[0]), abs=1e-3)
    tfppo.resume(folder)
    head = whole / "reward-model" / "head.json"
    text = head.read_text()
    try:
        head.write_text(text.replace('"bias": ', '"bias": 1'))
        assert "the reward model has the checksum" in refusal(tfppo.resume, folder)
        head.unlink()
        assert "is not the folder of a reward model" in refusal(tfppo.resume, folder)
        assert len(tfppo.generate(folder, ["The film is"])) == 1  # it needs no reward
    finally:
        head.write_text(text)


@pytest.mark.slow
def test_a_reward_model_in_python_is_the_same_reward(whole, preset, tmp_path):
    scores = {}
    given = {"folder": whole, "text": str(whole), "object": RewardModel.load(whole), "sum": [len_of, whole]}
    for name, reward in given.items():
        config = tfppo.make_text_config(**SMALL, preset=preset, runs_dir=tmp_path, name=name)
        folder = tfppo.train_text(config, prompts=PROMPTS, reward=reward)
        scores[name] = float(rows_of(folder)[0]["text/score_mean"])
        parts = run_folder.read_config(folder, tfppo.TextRunConfig).parts
        assert parts.reward_model_sha256 == RewardModel.load(whole).checksum()
    assert scores["folder"] == scores["text"] == scores["object"]
    row = rows_of(tmp_path / "sum")[0]
    assert float(row["reward/RewardModel"]) == pytest.approx(scores["folder"], abs=1e-5)
    assert "must be the last reward" in refusal(
        tfppo.train_text, tfppo.make_text_config(**SMALL, preset=preset), prompts=PROMPTS, reward=[whole, len_of]
    )
    moved = tmp_path / "moved"
    whole.rename(moved)
    try:
        assert tfppo.resume(tmp_path / "folder", reward=moved) == tmp_path / "folder"
        assert "is not the folder of a reward model" in refusal(tfppo.resume, tmp_path / "folder")
    finally:
        moved.rename(whole)


def len_of(prompts, responses):
    return [float(len(response)) for response in responses]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_its_latest_checkpoint(whole, preset, tmp_path, monkeypatch):
    def killed(guard, iteration):
        if iteration == 6:
            raise MemoryError

    settings = FAST | {"epochs": 3, "runs_dir": tmp_path, "name": "killed", "checkpoint_interval": 5}
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("tfppo.ppo.guard.Guard.check", killed)
        tfppo.reward_model(COMPARISONS, preset=preset, **settings)
    assert evaluation_of(tfppo.resume(tmp_path / "killed"))["weights"] == evaluation_of(whole)["weights"]
    rows = rows_of(whole)
    before = evaluation_of(whole)
    tfppo.resume(whole)  # it is only evaluated again
    after = evaluation_of(whole)
    assert before | {"seconds": 0} == after | {"seconds": 0} and rows_of(whole) == rows


@pytest.mark.slow
def test_a_run_on_the_shipped_ratings(preset, tmp_path, monkeypatch, capsys):
    few = {split: sentences(split, "movie")[:60] for split in ("train", "validation", "test")}
    monkeypatch.setattr("tfppo.text.reward_model.records.sentences", lambda split, domain: few[split])
    folder = tfppo.reward_model(preset=preset, epochs=2, max_length=16, runs_dir=tmp_path)
    assert folder == tmp_path / f"reward-model-{preset.name}-seed1"
    evaluation = evaluation_of(folder)
    assert evaluation["test"]["texts"] == 60 and 0 <= evaluation["test"]["accuracy"] <= 1
    config = run_folder.read_config(folder, RewardModelRunConfig)
    assert config.reward_model.learning_rate == 2e-4 and config.parts.domain == "movie"
    model = RewardModel.load(folder)
    assert (model.head["domain"], model.head["max_length"], model.reads_responses) == ("movie", 16, False)
    assert model.head["words_slope"] != 0
    words = np.array([len(s.text.split()) for s in few["validation"]])
    assert abs(np.polyfit(words, model.scores([s.text for s in few["validation"]]), 1)[0]) < 0.05
    tfppo.resume(folder)
    assert evaluation_of(folder) | {"seconds": 0} == evaluation | {"seconds": 0}
    assert "of 60" not in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_learn_alone_and_are_merged(preset, tmp_path):
    settings = FAST | {"learning_rate": 3e-2, "epochs": 20, "patience": 20, "lora_rank": 4, "lora_targets": "all"}
    folder = tfppo.reward_model(COMPARISONS, preset=preset, **settings, runs_dir=tmp_path)
    assert evaluation_of(folder)["validation"]["pair_accuracy"] > 0.8
    size = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    assert size < 3 * (folder / "reward-model" / "model.weights.h5").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama tied", "Gemma3", "SmolLM3"])
def test_a_model_of_another_family_learns_and_comes_back(family, tmp_path):
    tokenizer = make_tokenizer(family)
    model = make_family(family, scale=0.1, vocabulary_size=len(tokenizer.get_vocabulary()))
    settings = {"learning_rate": 1e-2, "epochs": 4, "batch_size": 8, "validation_share": 0.3, "max_length": 30}
    folder = tfppo.reward_model(COMPARISONS, model=(model, tokenizer), **settings, runs_dir=tmp_path)
    scorer = RewardModel.load(folder)
    prompts, texts = ([row[name] for row in COMPARISONS[:5]] for name in ("prompt", "chosen"))
    together = scorer(prompts, texts)
    alone = [scorer([prompt], [text])[0] for prompt, text in zip(prompts, texts, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    (tokens,) = scorer.encoder.responses(prompts[:1], texts[:1]).rows
    hidden = as_language_model(scorer.model).hidden_states(tf.constant(tokens[None]))[0, -1]
    slow = float(np.dot(keras.ops.convert_to_numpy(hidden), scorer.head["kernel"])) + scorer.head["bias"]
    assert together[0] == pytest.approx(slow, abs=1e-3)


@pytest.mark.slow
def test_what_is_cut_left_out_or_in_both_parts_is_told(preset, tmp_path, capsys):
    rows = [*COMPARISONS[:8], {"prompt": "A", "chosen": " b", "rejected": " b"}]
    rows += [{"prompt": "long " * 90, "chosen": " good.", "rejected": " bad."}]
    tfppo.reward_model(rows, preset=preset, validation_data=COMPARISONS[:3], epochs=1, runs_dir=tmp_path)
    out = capsys.readouterr().out
    assert "warning: 1 of 10 training examples are left out, because their chosen and rejected responses are eq" in out
    assert "note: 1 of 10 training examples are longer than 64 tokens" in out
    assert "warning: 3 of 3 validation examples are also training examples" in out
    rated = [{"text": f"{thing} {word}", "rating": 5.0 * (word in GOOD)} for thing in THINGS for word in GOOD + BAD]
    same = [{"text": "one", "rating": 1}, {"text": "two", "rating": 1}]
    folder = tfppo.reward_model(rated, preset=preset, validation_data=same, epochs=1, runs_dir=tmp_path)
    assert "no two validation examples of a batch have ratings that differ by more than 1" in capsys.readouterr().out
    assert "accuracy" not in evaluation_of(folder)["validation"]  # there is no neutral rating between 0 and 5


@pytest.mark.slow
def test_a_run_that_diverges_is_told(preset, tmp_path):
    message = refusal(
        tfppo.reward_model, COMPARISONS, preset=preset, epochs=3, learning_rate=1e38, batch_size=4, runs_dir=tmp_path
    )
    assert "were not finite" in message or "was not finite" in message or "updates in a row" in message


@pytest.mark.slow  # it compiles for a minute
def test_a_family_that_needs_a_fixed_length_is_trained(tmp_path):
    tokenizer = make_tokenizer("Qwen3.5")
    model = make_family("Qwen3.5", vocabulary_size=len(tokenizer.get_vocabulary()))
    rows = [{"prompt": "A film", "chosen": "is a joy.", "rejected": "is not."}] * 4
    folder = tfppo.reward_model(rows, model=(model, tokenizer), epochs=2, validation_share=0, runs_dir=tmp_path)
    assert np.isfinite([float(row["reward_model/loss"]) for row in rows_of(folder)]).all()
