"""Runs that start from the policy of another run: their models, what they keep, and what does not fit."""

import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal

import tfppo
from tfppo import TextTrainer
from tfppo.cli import main
from tfppo.control.config import ControlRunConfig
from tfppo.errors import UsageError
from tfppo.execution.variables import named_variables, weights_hash
from tfppo.text import run
from tfppo.text.config import TextRunConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.models.reference import as_language_model
from tfppo.text.models.weights import frozen_paths
from tfppo.text.presets.folder import load_preset, save_preset
from tfppo.text.rollouts.rollout_file import read_rollouts
from tfppo.text.start.initial import MODEL, REFERENCE, START
from tfppo.text.trainer import TEXT
from tfppo.training import driver, run_folder
from tfppo.training.checkpoints import STATE, Checkpoints

TOKENS = np.random.default_rng(1).integers(6, 500, [5, 20]).astype(np.int32)


def tiny(folder, **settings):
    small = {"iterations": 3, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 4}
    every = {"sample_interval": 2, "checkpoint_interval": 1, "keep_checkpoints": 9, "num_epochs": 1}
    return make_text_config(**(small | every | {"runs_dir": folder, "task": "length", "device": "cpu"} | settings))


def make_run(config, iteration=3, model=None):
    """Makes a run's folder with one checkpoint of random weights. Returns the trainer, too."""
    trainer, rng = TextTrainer(config, model=model), np.random.default_rng(7)
    with driver.start_run(trainer, "other") as folder:
        for variable in trainer.policy.trainable_variables:
            variable.assign(variable + rng.normal(0.0, 0.3, variable.shape))
        driver.checkpoints_of(trainer, folder).save(iteration)
    return folder, trainer


@pytest.fixture(scope="module")
def others(preset, tmp_path_factory):
    """Runs that can be started from, by kind: the folder and the trainer of each."""
    kinds = {"plain": {}, "adapters": {"lora_rank": 2}, "critic": {"separate_critic": True}}
    kinds["adapters and critic"] = kinds["adapters"] | kinds["critic"]
    kinds["rloo"] = {"advantages": "rloo", "responses_per_prompt": 4}
    folder = tmp_path_factory.mktemp("others")
    return {kind: make_run(tiny(folder, name=kind, preset=preset, **kinds[kind])) for kind in kinds}


def log_probs(model):
    return tf.nn.log_softmax(model.logits(model.hidden_states(tf.constant(TOKENS)))).numpy()


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def state_of(trainer):
    """All weights of a trainer's models and of its reference policy."""
    return weights_hash([*named_variables(trainer.models).values(), *trainer.reference.model.weights])


def test_a_run_starts_with_the_policy_of_another_run(others, tmp_path):
    folder, other = others["plain"]
    trainer = TextTrainer(tiny(tmp_path, init_from=folder))
    for model in (trainer.policy.model, trainer.reference):
        assert_equal(model.model.get_weights(), other.policy.model.model.get_weights())
    assert_equal(trainer.policy.value_head.get_weights(), other.policy.value_head.get_weights())
    assert np.abs(trainer.policy.value_head.get_weights()[0]).max() > 0.1
    assert int(trainer.learner.optimizer.iterations) == trainer.iteration == 0
    assert trainer.config.text.init_from == folder.resolve() and trainer.config.text.init_checkpoint == "3"
    assert not trainer.start.is_tuned and trainer.reference.model is not trainer.policy.model.model


@pytest.mark.slow
def test_the_reference_can_be_that_of_the_other_run(others, preset, tmp_path):
    folder, other = others["plain"]
    trainer = TextTrainer(tiny(tmp_path, init_from=folder, init_reference="run"))
    assert_equal(trainer.policy.model.model.get_weights(), other.policy.model.model.get_weights())
    assert_equal(trainer.reference.model.get_weights(), load_preset(preset)[0].get_weights())
    assert not trainer.reference.trainable_variables
    # a third run from the second one still has the model before all tuning as its reference
    second, _ = make_run(trainer.config, iteration=0)
    third = TextTrainer(tiny(tmp_path, init_from=second, init_reference="run"))
    assert_equal(third.reference.model.get_weights(), load_preset(preset)[0].get_weights())


@pytest.mark.representatives(2)
@pytest.mark.parametrize(("reference", "rank"), [("start", 0), ("start", 3), ("run", 0)])
def test_adapters_of_the_other_run_are_merged(others, preset, tmp_path, reference, rank):
    folder, other = others["adapters"]
    trainer = TextTrainer(tiny(tmp_path, init_from=folder, init_reference=reference, lora_rank=rank))
    tuned, untuned = log_probs(other.policy.model), log_probs(as_language_model(load_preset(preset)[0]))
    assert np.abs(tuned - untuned).max() > 0.05
    np.testing.assert_allclose(log_probs(trainer.policy.model), tuned, rtol=1e-4, atol=1e-5)
    wanted = tuned if reference == "start" else untuned
    np.testing.assert_allclose(log_probs(trainer.reference), wanted, rtol=1e-4, atol=1e-5)
    count = len(trainer.policy.model.trainable_variables)
    assert count == len(other.policy.model.trainable_variables) if rank else count > 10


def test_adapters_continue_if_the_reference_is_the_model_below_them(others, preset, tmp_path):
    folder, other = others["adapters"]
    trainer = TextTrainer(tiny(tmp_path, init_from=folder, init_reference="run", lora_rank=2))
    assert_equal(trainer.policy.model.model.get_weights(), other.policy.model.model.get_weights())
    np.testing.assert_array_equal(log_probs(trainer.policy.model), log_probs(other.policy.model))
    np.testing.assert_array_equal(log_probs(trainer.reference), log_probs(as_language_model(load_preset(preset)[0])))
    assert trainer.start.is_tuned


@pytest.mark.slow
def test_frozen_weights_are_those_of_the_other_runs_model(preset, tmp_path):
    model, tokenizer = load_preset(preset)
    model.backbone.token_embedding.trainable = False
    folder, other = make_run(tiny(tmp_path, name="frozen"), model=(model, tokenizer))
    with np.load(folder / run_folder.CHECKPOINTS / "000003" / STATE) as file:
        count = sum(name.startswith("model/") for name in file.files)
    assert count == len(model.trainable_weights) < len(model.weights)
    for reference in ("start", "run"):
        trainer = TextTrainer(tiny(tmp_path, init_from=folder, init_reference=reference))
        assert_equal(trainer.policy.model.model.get_weights(), other.policy.model.model.get_weights())
        assert frozen_paths(trainer.policy.model.model) == frozen_paths(model)


def with_other_embedding(preset, folder):
    """Copies a preset with other values of one weight."""
    model, tokenizer = load_preset(preset)
    model.backbone.token_embedding.embeddings.assign_add(tf.ones_like(model.backbone.token_embedding.embeddings))
    save_preset(folder, model, tokenizer)
    return folder


def changed(folder, **values):
    """Changes lines of a run's config.yaml."""
    text = (folder / run_folder.CONFIG).read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^  {name}: .*$", f"  {name}: {value}", text, flags=re.MULTILINE)
        assert count == 1
    (folder / run_folder.CONFIG).write_text(text)


@pytest.mark.fault(
    "The language model of the run that `--init-from` names has changed, and that run has adapters or frozen weights",
    "A one-line error names both checksums.",
)
def test_adapters_are_not_added_to_another_model(others, preset, tmp_path):
    adapters, plain = (shutil.copytree(others[kind][0], tmp_path / kind) for kind in ("adapters", "plain"))
    found = with_other_embedding(preset, tmp_path / "preset")
    for folder in (adapters, plain):
        changed(folder, preset=found)
    text = refusal(TextTrainer, tiny(tmp_path, init_from=adapters))
    assert f"the language model that {adapters} started from has changed" in text and "from a copy" in text
    trainer = TextTrainer(tiny(tmp_path, init_from=plain))  # its checkpoint holds all weights
    assert_equal(trainer.policy.model.model.get_weights(), others["plain"][1].policy.model.model.get_weights())


@pytest.mark.slow
@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_complete_checkpoint_of_an_older_version_is_a_start(others, preset, tmp_path, has_checksum):
    """A run of version 0.2 has no checksum. Its model is the one in its checkpoint, whatever the preset has become."""
    source, other = others["adapters"]
    folder = shutil.copytree(source, tmp_path / "older")
    Checkpoints(folder / run_folder.CHECKPOINTS, **other.state).save(3)
    if not has_checksum:
        changed(folder, preset=with_other_embedding(preset, tmp_path / "preset"), model_sha256="null")
    trainer = TextTrainer(tiny(tmp_path, init_from=folder))
    wanted = TextTrainer(tiny(tmp_path, init_from=source))
    assert_equal(trainer.policy.model.model.get_weights(), wanted.policy.model.model.get_weights())


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    ("kind", "critic", "words"),
    [
        ("plain", True, "its value head continues, and the critic is a copy of the policy"),
        pytest.param("critic", True, "its value head and its critic continue", marks=pytest.mark.slow),
        ("adapters and critic", True, "its value head and its critic continue"),
        ("critic", False, "the value head is new, because that run has a separate critic"),
    ],
)
def test_value_head_and_critic_continue_where_they_fit(others, tmp_path, capsys, kind, critic, words):
    folder, other = others[kind]
    trainer = TextTrainer(tiny(tmp_path, init_from=folder, separate_critic=critic))
    head = trainer.policy.value_head.get_weights()
    assert_equal(head, [0 * x for x in head] if "is new" in words else other.policy.value_head.get_weights())
    if critic:
        source = other.policy.model if other.policy.critic is None else other.policy.critic
        assert_equal(trainer.policy.critic.model.get_weights(), source.model.get_weights())
    with driver.start_run(trainer, "new"):
        assert capsys.readouterr().out.splitlines() == [
            f"the run starts from the policy of {folder} after iteration 3; {words}"
        ]


RLOO = {"advantages": "rloo", "responses_per_prompt": 2}


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("rloo", {}, "the value head is new, because that run has no value function"),
        pytest.param(
            "rloo",
            {"separate_critic": True},
            "the value head is new, because that run has no value function",
            marks=pytest.mark.slow,
        ),
        pytest.param("rloo", RLOO, "this run has no value function", marks=pytest.mark.slow),
        ("plain", RLOO, "this run has no value function"),
        pytest.param("adapters and critic", RLOO, "this run has no value function", marks=pytest.mark.slow),
    ],
)
def test_runs_with_and_without_a_value_function_start_from_each_other(others, tmp_path, capsys, kind, settings, words):
    folder, other = others[kind]
    trainer = TextTrainer(tiny(tmp_path, init_from=folder, **settings))
    if not other.config.text.lora_rank:
        assert_equal(trainer.policy.model.model.get_weights(), other.policy.model.model.get_weights())
    assert list(trainer.models) == ["model"] + ["value_head"] * (settings != RLOO) + ["critic"] * (
        "separate_critic" in settings
    )
    if trainer.policy.critic is not None:
        assert_equal(trainer.policy.critic.model.get_weights(), other.policy.model.model.get_weights())
    with driver.start_run(trainer, "new") as new:
        assert f"after iteration 3; {words}" in capsys.readouterr().out
        assert (new / START).exists() == ("critic" in trainer.models)
    again = TextTrainer(trainer.config, folder=new)
    assert state_of(again) == state_of(trainer)


STARTS = {
    "start": ("plain", {}),
    "run": ("plain", {"init_reference": "run"}),
    "new adapters": ("adapters", {"lora_rank": 3}),
    "same adapters": ("adapters", {"lora_rank": 2, "init_reference": "run"}),
    "critic": ("critic", {"separate_critic": True}),
}


@pytest.mark.parametrize(
    "start", [pytest.param(start, marks=[] if start == "run" else pytest.mark.slow) for start in STARTS]
)
def test_the_folder_of_the_run_keeps_its_start(others, tmp_path, start):
    """Without a checkpoint and without the other run, every weight is the same bit for bit."""
    kind, settings = STARTS[start]
    other = shutil.copytree(others[kind][0], tmp_path / "other")
    trainer = TextTrainer(tiny(tmp_path, name="new", init_from=other, **settings))
    before = state_of(trainer)
    with driver.start_run(trainer, "new") as folder:
        assert (folder / MODEL).is_dir() and (folder / START).is_file()
        assert (folder / REFERENCE).is_dir() == (start == "run")
    assert state_of(trainer) == before
    shutil.rmtree(other)
    folder = folder.rename(tmp_path / "moved")
    again = TextTrainer(run_folder.read_config(folder, TextRunConfig), folder=folder)
    assert state_of(again) == before and again.start.is_tuned == trainer.start.is_tuned
    assert "other" in refusal(TextTrainer, again.config)  # the folder is needed


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "is_that_of_the_preset"), [("run", True), ("start", False)])
def test_scores_are_normalized_by_the_responses_of_the_reference(
    others, preset, tmp_path, reference, is_that_of_the_preset
):
    scales = []
    for settings in ({"preset": preset}, {"init_from": others["plain"][0], "init_reference": reference}):
        trainer = TextTrainer(tiny(tmp_path, **settings))
        trainer._fit_scale()
        scales.append([float(variable.numpy()) for variable in trainer.scorer.scale])
    assert (scales[0] == scales[1]) == is_that_of_the_preset and scales[0] != [0.0, 1.0]


@pytest.mark.slow
@pytest.mark.fault(
    "A run that started from another run is interrupted, and the other run's folder is deleted",
    "The resumed run ends with the same bits.",
)
@pytest.mark.parametrize(("start", "done"), [("run", 0), ("same adapters", 1), ("critic", 0)])
def test_a_run_from_another_run_is_resumed_without_it(others, tmp_path, start, done):
    kind, settings = STARTS[start]
    other = shutil.copytree(others[kind][0], tmp_path / "other")
    whole = run.train_text(tiny(tmp_path, name="whole", init_from=other, learning_rate=3e-3, **settings))
    cut = shutil.copytree(whole, tmp_path / "cut")
    for path in (cut / run_folder.CHECKPOINTS).iterdir():
        if int(path.name) > done:
            shutil.rmtree(path)
    for name in (run_folder.CURVE, run_folder.EVALUATION):
        (cut / name).unlink()
    shutil.rmtree(other)
    driver.resume(TEXT, cut)
    evaluations = [run_folder.read_evaluation(folder) for folder in (whole, cut)]
    for evaluation in evaluations:
        del evaluation["seconds"]
    assert evaluations[0] == evaluations[1] and evaluations[0]["kl"] != 0.0
    assert list(read_rollouts(whole)) == list(read_rollouts(cut))
    assert (whole / run_folder.SAMPLES).read_text() == (cut / run_folder.SAMPLES).read_text()
    assert tfppo.generate(cut, ["It"]) == tfppo.generate(whole, ["It"])


@pytest.mark.fault(
    "`--init-from` names a run that does not fit, or none at all", "A one-line error says what is missing."
)
def test_what_does_not_fit_together_is_refused(others, preset, tmp_path, capsys):
    folder = others["adapters"][0]
    for kind, rank in (("adapters", 3), ("plain", 3)):
        config = tiny(tmp_path, init_from=others[kind][0], init_reference="run", lora_rank=rank)
        said = refusal(TextTrainer, config)
        assert said.startswith("init_reference is run, lora_rank is 3, and ") and "init_reference to start" in said
    assert "no checkpoint '7'" in refusal(TextTrainer, tiny(tmp_path, init_from=folder, init_checkpoint="7"))
    for name in ("control", "empty"):
        (tmp_path / name).mkdir()
    run_folder.write_config(tmp_path / "control", ControlRunConfig())
    run_folder.write_config(tmp_path / "empty", tiny(tmp_path, preset=preset))
    assert "is a control run" in refusal(TextTrainer, tiny(tmp_path, init_from=tmp_path / "control"))
    assert "holds no checkpoint" in refusal(TextTrainer, tiny(tmp_path, init_from=tmp_path / "empty"))
    assert "is not the folder of a run" in refusal(TextTrainer, tiny(tmp_path, init_from=tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="a model is given"):
        TextTrainer(tiny(tmp_path, init_from=folder), model=load_preset(preset))
    for arguments, said in (
        (["--init-from", "a", "--preset", "b"], "init_from is a and preset is b"),
        (["--init-reference", "run"], "init_reference is run and init_from is None"),
        (["--init-checkpoint", "best"], "init_checkpoint is best and init_from is None"),
        (
            ["--lora-alpha", "32"],
            "lora_alpha is 32.0 and lora_rank is 0; it needs adapters: set lora_rank, for",
        ),
        (["--lora-targets", "all"], "lora_targets is 'all' and lora_rank is 0; it needs adapters"),
        (["--init-from", "a", "--init-checkpoint", "first"], "latest, best or the number of an iteration"),
    ):
        assert main(["train", "text", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_a_damaged_start_is_one_line(others, tmp_path):
    trainer = TextTrainer(tiny(tmp_path, name="new", init_from=others["plain"][0]))
    with driver.start_run(trainer, "new") as folder:
        (folder / START).write_bytes(b"PK broken")
    assert f"{folder / START} cannot be read" in refusal(
        lambda: TextTrainer(run_folder.read_config(folder, TextRunConfig), folder=folder)
    )
