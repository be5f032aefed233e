"""Runs whose parts are Python objects: what their folder keeps, and what must be given again."""

import dataclasses
import json
import shutil
import sys
import types

import numpy as np
import pytest
from support.refusal import refusal

import tfppo
from tfppo import Task, saved_runs, train_text
from tfppo.cli import main
from tfppo.control import run as control_run
from tfppo.control.recipes import make_control_config
from tfppo.text.config import TextRunConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.presets.folder import load_preset
from tfppo.text.start.parts import OWN_MODEL
from tfppo.text.tasks import get_task
from tfppo.text.tasks.definition import registry
from tfppo.text.trainer import TEXT
from tfppo.training import driver, run_folder

SPLITS = {
    "train": ["Is this film", "Did the plot", "Was it", "Why does the camera", "Who wrote", "What a strange"],
    "validation": ["Can a movie", "Has the actor"],
    "test": ["Does the end", "Will you", "Are the songs", "Could it"],
}


def asks(prompts, responses):
    return [float(len(response)) for response in responses]


def share_of_questions(prompts, responses):
    return np.mean([response.endswith("?") for response in responses])


QUESTIONS = Task(
    name="questions",
    description="end with a question mark",
    prompts=lambda split: SPLITS[split],
    make_reward=lambda: asks,
    measure=share_of_questions,
    metric="questions",
    target=0.5,
    domain=None,
)


def tiny(folder, preset, **settings):
    small = {"iterations": 3, "batch_size": 8, "minibatch_size": 4, "num_epochs": 1, "response_length": 6}
    often = {"checkpoint_interval": 1, "keep_checkpoints": 9, "sample_interval": 9, "eval_prompts": 4}
    where = {"runs_dir": folder, "preset": preset, "name": "mine", "device": "cpu", "learning_rate": 0.01}
    return make_text_config(**(small | often | where | settings))


def config_of(folder):
    return run_folder.read_config(folder, TextRunConfig)


def weights_of(folder, **given):
    with driver.opened(TEXT, folder, "latest", given) as trainer:
        return trainer.weights[0].numpy(), trainer.policy.value_head.get_weights()[0]


def evaluation_of(folder):
    return {k: v for k, v in run_folder.read_evaluation(folder).items() if k != "seconds"}


def broken_after(calls, reward=asks):
    """Returns the reward until it was called this often, then raises."""
    done = []

    def asks(prompts, responses):
        done.append(1)
        if len(done) > calls:
            raise KeyError("the power is gone")
        return reward(prompts, responses)

    return asks


@pytest.fixture(scope="module")
def other_model(preset):
    """A language model that no folder holds: the weights of the preset, changed."""
    model, tokenizer = load_preset(preset)
    rng = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(weight.numpy() + rng.normal(0.0, 0.2, weight.shape).astype(np.float32))
    return model, tokenizer


@pytest.fixture(scope="module")
def own(preset, tmp_path_factory, other_model):
    """The folder of a finished run with an own task, an own reward and an own model."""
    folder = tmp_path_factory.mktemp("own")
    before = other_model[0].get_weights()
    made = train_text(tiny(folder, None), task=QUESTIONS, reward=asks, model=other_model)
    for weight, value in zip(other_model[0].weights, before, strict=True):
        weight.assign(value)
    return made


def test_config_yaml_names_the_parts_as_they_are(own):
    config = config_of(own)
    assert config.text.task == f"{__name__}:QUESTIONS" and config.text.reward == f"{__name__}:asks"
    assert config.text.preset == OWN_MODEL and (own / OWN_MODEL).is_dir()
    assert config.parts.domain is None
    assert all(len(getattr(config.parts, f"{part}_sha256")) == 64 for part in ("model", "tokenizer", "prompts"))
    assert "parts" not in json.dumps(run_folder.flat_settings(config), default=str)


@pytest.mark.slow
def test_an_evaluation_of_the_folder_is_that_of_the_run(own):
    again = saved_runs.evaluate(str(own), prompts=4, task=QUESTIONS, reward=asks)
    wanted = evaluation_of(own)
    assert again["task"] == "questions" and again["prompts"] == 4 and again["questions"] == wanted["questions"]
    assert again["score"] == wanted["score"] and again["weights"] == wanted["weights"]
    assert again["kl"] == pytest.approx(wanted["kl"], abs=1e-5) and wanted["kl"] != 0.0
    # under its names, too, which import the modules
    named = saved_runs.evaluate(own, prompts=4, task=f"{__name__}:QUESTIONS", reward=f"{__name__}:asks")
    assert named == again


@pytest.mark.slow
def test_generate_and_export_need_none_of_the_parts(own, tmp_path):
    folder = shutil.copytree(own, tmp_path / "elsewhere")
    written = saved_runs.generate(folder, ["Is it"], samples=2, seed=3)
    assert len(written) == 2
    exported = saved_runs.export(folder)
    assert exported == folder / "export"
    # the export starts a second run
    again = train_text(tiny(tmp_path, exported, iterations=1, eval_prompts=0), task=QUESTIONS)
    with driver.opened(TEXT, again, "latest") as trainer, driver.opened(TEXT, folder, "latest") as first:
        reference, policy = trainer.reference.model.weights[0], first.policy.model.model.weights[0]
        np.testing.assert_array_equal(reference.numpy(), policy.numpy())


@pytest.mark.slow
def test_a_run_that_broke_off_ends_as_if_it_had_not(own, tmp_path, other_model, capsys):
    config = tiny(tmp_path, None)
    before = other_model[0].get_weights()
    with pytest.raises(tfppo.UsageError, match="the power is gone"):  # two tables of samples, four rollouts, two more
        train_text(config, task=QUESTIONS, reward=broken_after(8), model=other_model)
    for weight, value in zip(other_model[0].weights, before, strict=True):
        weight.assign(value)
    folder = (tmp_path / "mine").rename(tmp_path / "moved")
    assert config_of(folder).text.reward.endswith(":<broken_after.<locals>.asks>")
    told = refusal(saved_runs.resume, folder, task=QUESTIONS)
    assert "given in Python" in told and "reward=..." in told
    assert run_folder.resume_command(folder) == f"tfppo.resume({str(folder)!r}, reward=...) in Python"
    saved_runs.resume(folder, task=QUESTIONS, reward=asks)
    assert evaluation_of(folder) == evaluation_of(own)
    assert (folder / "samples.jsonl").read_text() == (own / "samples.jsonl").read_text()
    for found, wanted in zip(weights_of(folder), weights_of(own), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.fault(
    "A run whose task or reward is a Python object is used without it",
    "A one-line error names the part, and how to give it. Nothing else takes its place.",
)
def test_a_part_that_is_missing_or_another_is_refused(own, preset, other_model, tmp_path, capsys):
    reward, questions = f"{__name__}:asks", f"{__name__}:QUESTIONS"
    told = refusal(saved_runs.resume, own)
    assert f"names the task '{questions}'" in told and f"--task {questions}" in told
    told = refusal(saved_runs.resume, own, task=QUESTIONS)
    assert f"names the reward '{reward}'" in told and f"reward='{reward}'" in told
    assert "the run has the task" in refusal(saved_runs.evaluate, own, task=get_task("length"), reward=asks)
    assert "the run has the reward" in refusal(saved_runs.evaluate, own, task=QUESTIONS, reward=share_of_questions)
    assert "has the reward" in refusal(saved_runs.evaluate, own, task=QUESTIONS, reward="somewhere:asks_not")
    assert "has no env" in refusal(saved_runs.evaluate, own, env="CartPole-v1")
    assert "prompts is 0" in refusal(saved_runs.evaluate, own, prompts=0)
    told = refusal(saved_runs.evaluate, own, task=QUESTIONS, reward=asks, model=load_preset(preset))
    assert "the given language model has the checksum" in told and "or start a new run" in told
    assert main(["evaluate", str(own), "--reward", reward]) == 2
    assert f"--task {questions}" in capsys.readouterr().err
    assert main(["evaluate", str(own), "--reward", reward, "--task", questions, "--prompts", "2"]) == 0


@pytest.mark.fault(
    "The prompts of a task, or the preset of a run, have changed since the run began",
    "A one-line error says which part differs, before anything is trained.",
)
def test_changed_parts_are_refused(preset, tmp_path):
    mine = shutil.copytree(preset, tmp_path / "preset")
    folder = train_text(tiny(tmp_path, mine, iterations=1, eval_prompts=0), task=QUESTIONS)
    longer = dataclasses.replace(QUESTIONS, prompts=lambda split: [*SPLITS[split], "One more"])
    told = refusal(saved_runs.resume, folder, task=dataclasses.replace(longer))
    assert "the list of training prompts has the checksum" in told
    assert len(saved_runs.generate(folder, ["It"])) == 1
    path = next(mine.glob("model.weights.h5"))
    import h5py

    with h5py.File(path, "r+") as file:
        found = []
        file.visititems(lambda name, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        found[0][...] = found[0][...] + 1
    for use in (saved_runs.generate, saved_runs.resume):
        told = refusal(use, folder, *([["It"]] if use is saved_runs.generate else []), task=QUESTIONS)
        assert f"the language model in {mine} has the checksum" in told


def test_a_control_run_has_the_same_functions(tmp_path):
    config = make_control_config(
        env="CartPole-v1", total_steps=256, num_envs=8, rollout_length=16, minibatch_size=64, num_epochs=1,
        eval_episodes=3, video_episodes=0, runs_dir=tmp_path, compile_rollout="graph", compile_update="graph",
    )  # fmt: skip
    folder = control_run.train_control(config)
    recorded = (folder / run_folder.CONFIG).read_text()
    (folder / run_folder.CONFIG).write_text(recorded.replace("video_episodes: 0", "video_episodes: 1"))
    evaluation = saved_runs.evaluate(str(folder), episodes=3)
    assert not (folder / run_folder.VIDEO).exists()  # an evaluation writes nothing
    (folder / run_folder.CONFIG).write_text(recorded)
    assert evaluation["weights"] == run_folder.read_evaluation(folder)["weights"]
    assert saved_runs.resume(folder) == folder
    assert saved_runs.export(folder) == folder / "export"
    assert "has no task" in refusal(saved_runs.resume, folder, task="length")
    assert "generate needs a text run" in refusal(saved_runs.generate, folder, ["It"])


@pytest.mark.parametrize(
    ("file", "spec", "name"),
    [
        ("/somewhere/text_reward.py", None, "text_reward:asks"),
        ("/somewhere/package/mine.py", types.SimpleNamespace(name="package.mine"), "package.mine:asks"),
        (None, None, "__main__:asks"),
    ],
    ids=["script", "module", "notebook"],
)
def test_a_script_is_named_after_its_file(file, spec, name, monkeypatch):
    from tfppo.training.user_modules import is_importable, name_of, same_name

    script = types.ModuleType("__main__")
    exec("def asks(prompts, responses): return []\nhere = [asks]\n", vars(script))
    script.__spec__ = spec
    if file is not None:
        script.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setitem(sys.modules, "__mp_main__", script)  # as after an import of TensorFlow
    assert name_of(script.asks, "asks") == name
    assert is_importable(name) == (file is not None)
    assert name_of(script.here, "list") == name.replace("asks", "here")
    assert same_name("examples.text_reward:asks", name) == name.startswith("text_reward")
    assert not is_importable(name_of(lambda: 0, "<lambda>")) and not same_name("a:b", "a:c")


def test_a_task_is_recorded_under_a_name_that_finds_it(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    assert registry.task_name(get_task("length")) == "length"
    assert registry.task_name(QUESTIONS) == f"{__name__}:QUESTIONS" and get_task(f"{__name__}:QUESTIONS") is QUESTIONS
    local = dataclasses.replace(get_task("length"))
    assert "<length>" in registry.task_name(local)
    registered = registry.register_task(dataclasses.replace(QUESTIONS, name="registered"))
    assert registry.task_name(registered) == "registered"
    assert "tfppo.Task" in refusal(get_task, f"{__name__}:asks") and "has no NOPE" in refusal(
        get_task, f"{__name__}:NOPE"
    )
