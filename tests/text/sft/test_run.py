"""Runs of supervised fine-tuning: what they learn, their files, resume to the bit, and presets for PPO."""

import keras
import numpy as np
import pytest
from support.families import FAMILIES, make_family, make_tokenizer
from support.refusal import refusal
from support.run_files import evaluation_of, rows_of
from support.signals import stopped_after

import tfppo
from tfppo.text.config import TextConfig
from tfppo.text.data.codec import PromptCodec
from tfppo.text.data.special_tokens import special_tokens_of
from tfppo.text.evaluate import Responder
from tfppo.text.models.reference import as_language_model
from tfppo.text.presets.folder import load_preset
from tfppo.text.sft.config import SFTRunConfig
from tfppo.training import run_folder

CAPITALS = """
France Paris, Italy Rome, Spain Madrid, Peru Lima, Chile Santiago, Kenya Nairobi, Egypt Cairo, Japan Tokyo,
India Delhi, Nepal Kathmandu, Cuba Havana, Ghana Accra, Mali Bamako, Oman Muscat, Iran Tehran, Iraq Baghdad, Fiji Suva,
Laos Vientiane, Togo Lome, Chad Djamena"""
PAIRS = [pair.split() for pair in CAPITALS.split(",")]
ROWS = [{"prompt": f"The capital of {country} is", "response": f" {city}."} for country, city in PAIRS]
LETTERS = [{"prompt": chr(65 + n) * 2, "response": chr(97 + 7 * n % 20) * 2} for n in range(20)]
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "vocabulary_size": 512, "context_length": 32}
FAST = {"learning_rate": 1e-2, "validation_share": 0.0}


def greedy(preset, prompts):
    model, tokenizer = load_preset(preset)
    codec = PromptCodec(tokenizer, None, special_tokens_of(tokenizer))
    responder = Responder(as_language_model(model), codec, TextConfig(response_length=12), temperature=0.0)
    return responder.respond(codec.encode(prompts), 0).texts


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A new model that has learned twenty responses by heart."""
    settings = SMALL | FAST | {"dropout": 0.0, "epochs": 120, "batch_size": 20, "validation_interval": 40}
    return tfppo.sft(LETTERS, **settings, runs_dir=tmp_path_factory.mktemp("runs"))


def test_a_new_model_learns_the_responses(taught):
    assert float(rows_of(taught)[-1]["sft/loss"]) < 0.1
    assert greedy(taught / "preset", [row["prompt"] for row in LETTERS]) == [row["response"] for row in LETTERS]


def test_a_run_leaves_its_files_and_no_more(taught):
    assert taught.name == "sft-seed1"
    names = {path.name for path in taught.iterdir() if not path.name.startswith("events.out")}
    files = "config.yaml metrics.csv evaluation.json curve.png checkpoints preset model examples .lock"
    assert names == set(files.split())
    config = run_folder.read_config(taught, SFTRunConfig)
    assert (config.sft.epochs, config.sft.learning_rate, config.model.hidden_dim) == (120, 1e-2, 32)
    assert run_folder.kind_of(taught) == "sft" and run_folder.is_finished(taught)
    assert len(list((taught / "checkpoints").iterdir())) == 2


def test_the_evaluation_counts_examples_and_tokens(taught):
    evaluation = evaluation_of(taught)
    assert evaluation["train"]["examples"] == 20 and evaluation["validation"] is None
    assert (evaluation["steps"], evaluation["epochs"], evaluation["packed"]) == (120, 120, True)
    _, tokenizer = load_preset(taught / "preset")
    tokens = sum(len(tokenizer([row["response"]])[0]) + 1 for row in LETTERS)
    assert evaluation["train"]["tokens"] == tokens


@pytest.mark.slow
def test_ppo_and_supervised_fine_tuning_go_on_from_the_preset(taught, tmp_path):
    preset = taught / "preset"
    config = tfppo.make_text_config(
        preset=preset,
        iterations=1,
        batch_size=4,
        minibatch_size=4,
        response_length=6,
        eval_prompts=0,
        runs_dir=tmp_path,
    )
    prompts = [row["prompt"] for row in LETTERS[:4]]
    folder = tfppo.train_text(
        config, prompts=prompts, reward=lambda prompts, responses: [float(len(r)) for r in responses]
    )
    assert run_folder.is_finished(folder)
    again = tfppo.sft(LETTERS, preset=preset, epochs=1, validation_share=0.0, learning_rate=1e-6, runs_dir=tmp_path)
    assert float(rows_of(again)[0]["sft/loss"]) < 0.1  # it knows them already
    assert run_folder.read_config(again, SFTRunConfig).sft.preset == preset.resolve()
    with pytest.raises(tfppo.UsageError, match="give .*preset"):
        load_preset(taught)


# ----- Resume
RESUMED = SMALL | {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "dropout": 0.2, "validation_share": 0.2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that is not interrupted, with dropout, validation and early stopping."""
    return tfppo.sft(ROWS, **RESUMED, runs_dir=tmp_path_factory.mktemp("runs"), name="whole")


def assert_same(folder, whole):
    assert evaluation_of(folder)["weights"] == evaluation_of(whole)["weights"]
    assert evaluation_of(folder)["validation"] == evaluation_of(whole)["validation"]
    assert rows_of(folder) == rows_of(whole)


@pytest.mark.slow
def test_a_run_that_a_signal_stops_goes_on_to_the_same_bits(whole, tmp_path, capsys):
    with stopped_after(6):
        folder = tfppo.sft(ROWS, **RESUMED, runs_dir=tmp_path, name="stopped")
    stopped = evaluation_of(whole)["steps"]
    assert "stopped after step 6 of 12" in capsys.readouterr().out and stopped == 12  # in the second of three epochs
    assert not (folder / "evaluation.json").exists()
    assert tfppo.resume(folder) == folder
    assert "resumed from checkpoint 000006" in capsys.readouterr().out
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_its_latest_checkpoint(whole, tmp_path, monkeypatch):
    def killed(guard, iteration):
        if iteration == 6:
            raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("tfppo.ppo.guard.Guard.check", killed)
        tfppo.sft(ROWS, **RESUMED, runs_dir=tmp_path, name="killed", checkpoint_interval=5)
    assert sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()) == ["000004", "000005"]
    assert_same(tfppo.resume(tmp_path / "killed"), whole)


def test_a_finished_run_is_only_evaluated_again(whole):
    before = evaluation_of(whole)
    rows = rows_of(whole)
    tfppo.resume(whole)
    after = evaluation_of(whole)
    assert {k: v for k, v in after.items() if k != "seconds"} == {k: v for k, v in before.items() if k != "seconds"}
    assert rows_of(whole) == rows


def test_a_resumed_run_has_its_own_examples(whole):
    data = whole / "examples" / "train.jsonl"
    text = data.read_text()
    data.write_text(text.replace("Paris", "London").replace("Rome", "London").replace("Lima", "London"))
    assert "the training examples in the run's folder have the checksum" in refusal(tfppo.resume, whole)
    data.write_text(text)


@pytest.mark.slow
# ----- Settings
def test_early_stopping_keeps_the_best_weights(tmp_path, capsys):
    settings = SMALL | {"epochs": 30, "batch_size": 5, "learning_rate": 3e-2, "patience": 2, "validation_share": 0.3}
    folder = tfppo.sft(ROWS, **settings, runs_dir=tmp_path)
    losses = [float(row["validation/loss"]) for row in rows_of(folder)]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 30  # patience
    assert evaluation_of(folder)["validation"]["loss"] == pytest.approx(losses[best], rel=1e-6)
    assert "2 validations without a lower loss" in capsys.readouterr().out
    evaluation = evaluation_of(folder)["validation"]
    assert evaluation["perplexity"] == pytest.approx(np.exp(evaluation["loss"]))
    assert evaluation["loss_before"] > evaluation["loss"]


QUICK = ("GPT2", "Llama tied", "Gemma3", "SmolLM3")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_takes_a_step_and_is_saved(name, tmp_path):
    tokenizer = make_tokenizer(name)
    model = make_family(name, scale=0.1, vocabulary_size=len(tokenizer.get_vocabulary()))
    rows = [{"prompt": "A film", "response": "is a joy."}, {"text": "Not good"}]
    folder = tfppo.sft(
        rows, model=(model, tokenizer), epochs=2, validation_share=0, learning_rate=1e-2, runs_dir=tmp_path
    )
    losses = [float(row["sft/loss"]) for row in rows_of(folder)]
    assert losses[1] < losses[0]
    loaded, _ = load_preset(folder / "preset")
    for mine, its in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_adapters_train_nothing_else_and_are_merged(preset, tmp_path):
    config = {"epochs": 2, "validation_share": 0.0, "learning_rate": 1e-2, "lora_rank": 2, "lora_alpha": 4.0}
    folder = tfppo.sft(ROWS, preset=preset, **config, runs_dir=tmp_path)
    (old, _), (new, _) = load_preset(preset), load_preset(folder / "preset")
    changed = {
        weight.path.split("/")[-2]
        for weight, before in zip(new.weights, old.weights, strict=True)
        if not np.allclose(weight.numpy(), before.numpy(), atol=1e-6)
    }
    assert changed == {"query", "value"}
    assert float(rows_of(folder)[1]["sft/loss"]) < float(rows_of(folder)[0]["sft/loss"])
    with np.load(folder / "checkpoints" / "000002" / "state.npz") as state:
        models = [array.shape for name, array in state.items() if name.startswith("model/")]
    assert len(models) == 4  # two factors of each of the two adapters
    again = tfppo.resume(folder)
    assert evaluation_of(again)["steps"] == 2


@pytest.mark.slow
def test_an_overlap_and_cut_examples_are_told(preset, tmp_path, capsys):
    long = [{"text": "word " * 200}]
    folder = tfppo.sft(ROWS[:6] + long, preset=preset, validation_data=ROWS[4:8], epochs=1, runs_dir=tmp_path)
    printed = capsys.readouterr().out
    assert "warning: 2 of 4 validation examples are also training examples" in printed
    assert "note: 1 of 7 training examples are longer than 64 tokens and are cut" in printed
    evaluation = evaluation_of(folder)
    assert evaluation["train"]["truncated"] == 1 and evaluation["validation"]["in_training_data"] == 2


@pytest.mark.slow
def test_an_lstm_learns_too(presets, tmp_path):
    folder = tfppo.sft(ROWS, preset=presets("lstm"), **FAST, epochs=4, runs_dir=tmp_path)
    losses = [float(row["sft/loss"]) for row in rows_of(folder)]
    assert losses[-1] < losses[0] and not evaluation_of(folder)["packed"]


def test_steps_with_numbers_that_are_not_finite_are_skipped_and_then_told(preset, tmp_path):
    model, tokenizer = load_preset(preset)
    model.backbone.layer_norm.gamma.assign(np.full(16, np.inf))
    arguments = {"model": (model, tokenizer), "epochs": 9, "batch_size": 4, "runs_dir": tmp_path, "validation_share": 0}
    message = refusal(tfppo.sft, ROWS, **arguments)
    assert "the loss was not finite in 5 updates in a row" in message and "lower the learning rate" in message


def test_frozen_models_and_wrong_settings_are_refused(preset, tmp_path):
    frozen, tokenizer = load_preset(preset)
    frozen.trainable = False
    assert "are frozen" in refusal(tfppo.sft, ROWS, model=(frozen, tokenizer), runs_dir=tmp_path)
    both = {"model": (frozen, tokenizer), "preset": preset}
    assert "a run has one start" in refusal(tfppo.sft, ROWS, **both, runs_dir=tmp_path)
    assert "max_length is 65" in refusal(tfppo.sft, ROWS, preset=preset, max_length=65, runs_dir=tmp_path)
    assert "adapters tune a trained model" in refusal(tfppo.sft, ROWS, lora_rank=4, runs_dir=tmp_path)
    assert "hidden_dim is 32, and the run starts from a trained model" in refusal(
        tfppo.sft, ROWS, preset=preset, hidden_dim=32, runs_dir=tmp_path
    )
    assert "no word of at least two characters" in refusal(tfppo.sft, ["a", "b"], runs_dir=tmp_path)
    assert "no data is given" in refusal(tfppo.sft, runs_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_chat_template_of_a_file_is_kept_for_ppo(preset, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    rows = [{"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": " Hello."}]}] * 3
    settings = {"preset": preset, "chat_template": str(template), "epochs": 1, "validation_share": 0.0}
    folder = tfppo.sft(rows, **settings, runs_dir=tmp_path)
    _, tokenizer = load_preset(folder / "preset")
    assert special_tokens_of(tokenizer).chat_template == template.read_text()
    template.unlink()
    tfppo.resume(folder)  # it keeps its template
    assert keras.config.dtype_policy().name == "float32"
