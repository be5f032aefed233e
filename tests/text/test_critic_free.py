"""Runs without a value function: GRPO and RLOO against their equations, whole runs, resume, export and learning."""

import csv
import functools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import reference
import tensorflow as tf

import tfppo
from tfppo.cli import main
from tfppo.ops.nest import map_tensors
from tfppo.ppo.config import PPOConfig
from tfppo.ppo.learner import PPOLearner
from tfppo.reporting.metrics import METRICS
from tfppo.text import run
from tfppo.text.config import TextConfig, TextRunConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.models.reference import copy_of, freeze
from tfppo.text.policy import TextPolicy, response_states
from tfppo.text.rollouts.batch import to_batch
from tfppo.text.rollouts.rollout import TextCollector
from tfppo.text.rollouts.rollout_file import read_rollouts
from tfppo.text.rollouts.sampling import StopCondition
from tfppo.text.trainer import TEXT, TextTrainer
from tfppo.training import driver, run_folder
from tfppo.training.pipeline import prompt_dataset, rollout_dataset

END, B, R, N = 1, 8, 6, 4
BETA = 0.3
# With this large epsilon the first step of Adam is minus the gradient: sqrt(1 - beta_2) learning_rate / epsilon = 1.
PLAIN = {"adam_epsilon": 1e4, "learning_rate": 1e4 / 0.001**0.5, "max_grad_norm": None}
PPO = PPOConfig(
    **PLAIN,
    num_epochs=1,
    minibatch_size=B,
    kl_coeff=BETA,
    value_coeff=0.0,
    entropy_coeff=0.0,
    normalize_advantages=False,
)
GRPO = {"kl_in": "loss", "kl_estimator": "k3", "loss_average": "sequences", "clip_ratio": 0.2}


def text_config(advantages, **settings):
    return TextConfig(batch_size=B, response_length=R, responses_per_prompt=N, advantages=advantages, **settings)


class Parts:
    """A policy without values, its reference and the collector of its rollouts, of tiny models."""

    def __init__(self, model, text, scorer, other=None, mode="eager", beta=BETA):
        self.text = text
        self.policy = TextPolicy(model, has_values=False)
        self.scorer = scorer
        self.collector = TextCollector(
            self.policy,
            freeze(copy_of(model) if other is None else other),
            self.score,
            text,
            kl_coeff=tf.Variable(beta, trainable=False),
            stop_condition=StopCondition(END),
            chunk=text.batch_size,
            sampling_mode=mode,
            mode=mode,
        )

    def score(self, prompt_indices, responses, mask, rows):
        scores = np.array([self.scorer(responses[row, mask[row]].tolist()) for row in rows], np.float32)
        return [scores, scores, np.array(0.0), np.array(0.0)]


@pytest.fixture(scope="module")
def rollout(shared_model, prompts):
    """A rollout of two prompts with four responses each. An older policy than the one that is trained drew them."""
    text, others = text_config("rloo"), shared_model("gpt2", seed=5)
    scorer = lambda tokens: 0.5 * len(tokens) + sum(tokens) % 5  # noqa: E731
    parts = Parts(shared_model("gpt2"), text, scorer, others)
    (batch,) = prompt_dataset(*prompts, B, seed=0, repeats=N).take(1)
    drawn = parts.collector.collect(tf.constant(0, tf.int64), *batch)
    noise = np.random.default_rng(1).normal(0.0, 0.5, [B, R])
    return drawn._replace(log_probs=drawn.log_probs + tf.constant(noise, tf.float32))


def test_the_responses_to_a_prompt_are_different_draws(rollout):
    prompts = rollout.prompt_indices.numpy()
    np.testing.assert_array_equal(prompts, np.repeat(prompts[::N], N))
    assert prompts[0] != prompts[N] and rollout.values == ()
    for first in (0, N):
        assert len({tuple(row) for row in rollout.responses.numpy()[first : first + N]}) == N


# ----- One step, against the equations of the papers


def step(make_model, rollout, text, ppo, mode="eager"):
    """Returns what one plain step subtracts from the weights: the gradient of the loss."""
    policy = TextPolicy(make_model("gpt2"), has_values=False)
    learner = PPOLearner(policy, ppo, 4, prepare=lambda rollout: to_batch(rollout, text, ppo), mode=mode)
    before = [variable.numpy() for variable in policy.trainable_variables]
    metrics = learner.update(rollout)
    return [old - variable.numpy() for old, variable in zip(before, policy.trainable_variables, strict=True)], metrics


def gradient_of(make_model, rollout, objective):
    """Returns minus the gradient of an objective of the log-probabilities of all tokens, [B][R] lists of scalars."""
    model = make_model("gpt2")
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        logits = model.logits(response_states(model, to_batch(rollout, text_config("rloo"), PPO).inputs, R))
        log_softmax = tf.nn.log_softmax(logits)
        total = objective(
            [[log_softmax[n, t, rollout.responses[n, t]] for t in range(R)] for n in range(B)],
        )
    return [-tf.convert_to_tensor(slope).numpy() for slope in tape.gradient(total, variables)], -float(total)


def grpo(rollout, advantages, low=0.2, high=0.2, beta=BETA, rows=range(B)):
    """Returns Shao et al. 2024, equation 3, as a function of log-probabilities: a loop over responses and tokens."""

    def objective(log_probs):
        total = 0.0
        for n in rows:
            length = int(rollout.mask.numpy()[n].sum())
            for t in range(length):
                ratio = tf.exp(log_probs[n][t] - rollout.log_probs[n, t])
                clipped = tf.minimum(tf.maximum(ratio, 1 - low), 1 + high)
                gain = tf.minimum(ratio * advantages[n], clipped * advantages[n])
                other = tf.exp(rollout.reference_log_probs[n, t] - log_probs[n][t])  # pi_ref / pi
                total += (gain - beta * (other - tf.math.log(other) - 1)) / length / len(rows)
        return total

    return objective


def assert_same(actual, expected):
    (slopes, metrics), (expected_slopes, loss) = actual, expected
    scale = max(np.abs(slope).max() for slope in expected_slopes)
    assert scale > 0.01
    for a, b in zip(slopes, expected_slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * scale)
    np.testing.assert_allclose(metrics["loss/total"], loss, rtol=1e-4)


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    "num_micro_batches, mode",
    [
        (1, "eager"),
        (4, "graph"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(4, "eager"), (1, "graph"), (1, "xla"), (4, "xla")]),
    ],
)
def test_a_step_of_grpo_is_the_gradient_of_its_objective(make_model, rollout, mode, num_micro_batches):
    advantages = reference.group_relative_advantages(rollout.scores.numpy(), N)
    expected = gradient_of(make_model, rollout, grpo(rollout, advantages))
    ppo = replace(PPO, **GRPO, num_micro_batches=num_micro_batches)
    assert_same(step(make_model, rollout, text_config("group"), ppo, mode), expected)


def test_a_step_of_dapo_has_its_upper_clip_masks_what_was_cut_and_averages_over_tokens(make_model, rollout):
    """Yu et al. 2025 without dynamic sampling: no KL, and each token counts the same."""
    advantages = reference.group_relative_advantages(rollout.scores.numpy(), N)
    rows = [0, 1, 3, 5, 6]  # of the responses that ended, so that the others are left out
    rollout = rollout._replace(ended=tf.constant([n in rows for n in range(B)]))
    tokens = sum(int(rollout.mask.numpy()[n].sum()) for n in rows)

    def objective(log_probs):
        total = 0.0
        for n in rows:
            for t in range(int(rollout.mask.numpy()[n].sum())):
                ratio = tf.exp(log_probs[n][t] - rollout.log_probs[n, t])
                clipped = tf.minimum(tf.maximum(ratio, 0.8), 1.5)
                total += tf.minimum(ratio * advantages[n], clipped * advantages[n]) / tokens
        return total

    expected = gradient_of(make_model, rollout, objective)
    ppo = replace(PPO, kl_in="loss", kl_coeff=0.0, clip_ratio_high=0.5)
    actual = step(make_model, rollout, text_config("group", mask_truncated=True), ppo)
    assert_same(actual, expected)
    same = step(make_model, rollout, text_config("group", mask_truncated=True), replace(ppo, clip_ratio_high=None))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(actual[0], same[0], strict=True))


def test_on_the_policy_that_sampled_a_step_of_rloo_is_the_leave_one_out_policy_gradient(make_model, rollout):
    """Ahmadian et al. 2024: 1/k sum_i (R_i - mean of the others) grad log pi(y_i), here as a mean over all tokens."""
    model = make_model("gpt2")
    inputs = to_batch(rollout, text_config("rloo"), PPO).inputs
    log_probs = TextPolicy(model, has_values=False).evaluate_actions(inputs, rollout.responses).log_probs
    rollout = rollout._replace(log_probs=log_probs)
    log_ratio = np.where(rollout.mask, log_probs - rollout.reference_log_probs, 0.0).sum(axis=1)
    advantages = reference.leave_one_out_advantages(rollout.scores.numpy() - BETA * log_ratio, N)

    def objective(log_probs):
        tokens = [(n, t) for n, t in np.ndindex(B, R) if rollout.mask.numpy()[n, t]]
        return sum(advantages[n] * log_probs[n][t] for n, t in tokens) / len(tokens)

    slopes, _ = step(make_model, rollout, text_config("rloo"), replace(PPO, kl_in="reward"))
    expected, _ = gradient_of(make_model, rollout, objective)
    scale = max(np.abs(slope).max() for slope in expected)
    assert scale > 0.01
    for a, b in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * scale)


@pytest.mark.parametrize("kind", ["llama", "lstm"])
def test_the_order_of_the_responses_in_the_minibatch_is_no_matter(make_model, rollout, kind):
    text, ppo = text_config("rloo"), replace(PPO, kl_in="reward")
    order = np.random.default_rng(0).permutation(B)
    steps = []
    for rows in (np.arange(B), order):
        batch = map_tensors(lambda x, rows=rows: tf.gather(x, rows), to_batch(rollout, text, ppo))
        policy = TextPolicy(make_model(kind), has_values=False)
        learner = PPOLearner(policy, ppo, 4, mode="eager")
        learner.update(batch)
        steps.append([variable.numpy() for variable in policy.trainable_variables])
    for a, b in zip(*steps, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


# ----- Whole runs


def tiny(folder, preset, **settings):
    small = {"iterations": 2, "batch_size": 8, "minibatch_size": 4, "response_length": 6, "eval_prompts": 4}
    every = {"sample_interval": 2, "checkpoint_interval": 1, "keep_checkpoints": 9, "num_epochs": 1}
    kind = {"advantages": "rloo", "responses_per_prompt": 4, "task": "length"}
    return make_text_config(**(small | every | kind | {"runs_dir": folder, "preset": preset, "name": "run"} | settings))


def rows_of(folder):
    with (folder / run_folder.METRICS).open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


ABSENT = {"loss/value", "value/clip_fraction", "value/explained_variance"}
RUNS = {
    "rloo": {"compile_update": "graph", "validation_interval": 2, "num_validation_prompts": 4},
    "group": {"advantages": "group", "compile_update": "xla", "clip_ratio_high": 0.3} | GRPO,
}


@pytest.fixture(scope="module")
def runs(preset, tmp_path_factory):
    """Returns finished runs by kind: rloo as a graph with a validation, group with an update that XLA compiles."""
    return functools.cache(lambda kind: run.train_text(tiny(tmp_path_factory.mktemp(kind), preset, **RUNS[kind])))


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_trains_no_value_function_and_says_so_in_its_metrics(runs, kind):
    folder = runs(kind)
    rows = rows_of(folder)
    wanted = {name for name in METRICS if name.startswith(("loss/", "policy/"))} - ABSENT - {"loss/pretraining"}
    assert len(rows) == 2 and wanted <= set(rows[0]) and not ABSENT & set(rows[0])
    assert float(rows[0]["text/kl"]) == 0.0 != float(rows[1]["text/kl"])
    with np.load(folder / run_folder.CHECKPOINTS / "000002" / "state.npz") as state:
        assert not [name for name in state.files if "value_head" in name or "critic" in name]
    kept = list(read_rollouts(folder))
    groups = [[row["prompt"] for row in kept[i : i + 4]] for i in range(0, len(kept), 4)]
    assert len(groups) == 4 and all(len(set(group)) == 1 for group in groups)
    assert json.loads((folder / run_folder.EVALUATION).read_text())["prompts"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rloo", "group"])
def test_a_run_that_is_cut_short_resumes_to_the_same_bits(runs, tmp_path, kind):
    whole, cut = runs(kind), tmp_path / "run"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / run_folder.CHECKPOINTS / "000002")
    (cut / run_folder.EVALUATION).unlink()
    driver.resume(TEXT, cut)
    assert rows_of(cut) == rows_of(whole)
    weights = [run_folder.read_evaluation(folder)["weights"] for folder in (cut, whole)]
    assert weights[0] == weights[1]
    assert (cut / run_folder.ROLLOUTS).read_bytes() == (whole / run_folder.ROLLOUTS).read_bytes()


@pytest.mark.slow
def test_a_run_generates_evaluates_and_exports_as_any_other(runs, tmp_path, capsys):
    folder = runs("rloo")
    assert len(tfppo.generate(folder, ["It"], samples=2)) == 2
    assert main(["evaluate", str(folder), "--prompts", "4"]) == 0
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert main(["export", str(copy)]) == 0
    card = next(copy.rglob("README.md")).read_text()
    assert "| responses to each prompt | 4 |" in card and "| advantages | rloo |" in card


def test_the_command_line_has_the_defaults_of_a_run_without_values(preset, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr(run, "train_text", lambda config, seconds: used.append(config))
    sizes = "--batch-size 8 --minibatch-size 8 --responses-per-prompt 4 --advantages group --group-std False"
    more = "--clip-ratio-high 0.28 --loss-average sequences --mask-truncated --kl-in loss --kl-estimator k3"
    assert main(["train", "text", "--task", "length", "--preset", str(preset), *sizes.split(), *more.split()]) == 0
    (config,) = used
    assert isinstance(config, TextRunConfig)
    assert config.ppo.value_coeff == 0.0 and not config.ppo.normalize_advantages and not config.text.group_std
    assert (config.ppo.clip_ratio_high, config.ppo.loss_average) == (0.28, "sequences") and config.text.mask_truncated


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train text --advantages rloo", "responses_per_prompt is 1"),
        ("train text --advantages rloo --responses-per-prompt 4 --value-coeff 0.5", "value_coeff is 0.5"),
        ("train text --responses-per-prompt 7", "batch_size = 64 is not a multiple of responses_per_prompt = 7"),
        ("train cartpole --advantages group", "--advantages"),
        ("train cartpole --loss-average sequences", "a control run allows only tokens"),
    ],
)
def test_contradictions_on_the_command_line_are_one_line(arguments, said, capsys):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and said in error[0]


@pytest.mark.slow
def test_a_run_tells_which_settings_of_the_value_function_it_does_not_use(preset, tmp_path, capsys):
    settings = {"gae_lambda": 0.5, "value_clip": None, "iterations": 1, "normalize_scores": False}
    trainer = TextTrainer(tiny(tmp_path, preset, **settings))
    assert trainer.subject.endswith("8 responses per iteration, 4 to each prompt")
    list(trainer.iterations())
    line = "gae_lambda 0.5 and value_clip None are not used, because advantages is rloo, which has no value function"
    assert line in capsys.readouterr().out.splitlines()


# ----- Learning


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("advantages", ["group", "rloo"])
def test_a_policy_learns_what_is_rewarded(make_model, prompts, advantages, seed):
    """The number of tokens 7 rises from 6/20 of a response to at least 3 of 6 tokens, as with a value function."""
    many = [tf.repeat(x, 4, axis=0) for x in prompts]
    text = TextConfig(batch_size=32, response_length=R, responses_per_prompt=N, advantages=advantages)
    parts = Parts(make_model("gpt2", seed, num_layers=1), text, lambda tokens: tokens.count(7), mode="graph", beta=0.01)
    ppo = replace(PPO, adam_epsilon=1e-5, learning_rate=0.01, num_epochs=4, minibatch_size=32, kl_coeff=0.01)
    ppo = replace(ppo, kl_in="reward", max_grad_norm=1.0)
    learner = PPOLearner(parts.policy, ppo, 20, prepare=lambda rollout: to_batch(rollout, text, ppo), mode="graph")
    scores = []
    for rollout in rollout_dataset(parts.collector.collect, source=prompt_dataset(*many, 32, seed, N)).take(20):
        learner.update(rollout)
        scores.append(float(rollout.metrics["text/score_mean"]))
    assert np.mean(scores[:2]) < 1.5 and np.mean(scores[-3:]) > 3.0
