"""Settings are validated when a config is made, survive YAML, and are named in the one-line error if invalid."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from annotated_types import Gt, Interval, Le, Lt
from support.refusal import refusal

from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.settings import Must, check_fields, exact_div, from_yaml, to_yaml
from tfppo.text.config import TEXT_PPO, TextConfig, TextRunConfig
from tfppo.text.defaults import make_text_config
from tfppo.text.pretrain.config import PretrainConfig
from tfppo.training.config import RunConfig

NAN, INF = math.nan, math.inf

# A valid value of every setting that is not its default, and invalid values. Add every new setting here.
OTHER = {
    PPOConfig: {
        "learning_rate": 1,  # integers are allowed where floats are
        "learning_rate_schedule": "cosine",
        "warmup_iterations": 3,
        "clip_ratio": 0.1,
        "clip_ratio_high": 0.3,
        "clip_ratio_schedule": "linear",
        "dual_clip": 3.0,
        "value_clip": 0.2,
        "value_coeff": 0.0,
        "entropy_coeff": 0.0,
        "entropy_coeff_schedule": "cosine",
        "kl_coeff": 0.5,
        "kl_in": "reward",
        "kl_estimator": "k3",
        "kl_controller": "ziegler",
        "adaptive_kl_target": 0.02,
        "kl_horizon": 7,
        "target_kl": 0.015,
        "max_grad_norm": None,
        "adam_epsilon": 1e-12,
        "optimizer": "adamw",
        "weight_decay": 0.25,
        "rmsprop_rho": 0.5,
        "gamma": 1.0,
        "gae_lambda": 0.0,
        "normalize_advantages": False,
        "loss_average": "sequences",
        "recompute_advantages": True,
        "num_epochs": 1,
        "minibatch_size": 48,
        "num_micro_batches": 3,
    },
    ControlConfig: {
        "env": "Acrobot-v1",
        "recipe": "Ant-v5",
        "env_kwargs": ("a=1",),
        "eval_env_kwargs": ("a=2",),
        "wrappers": ("TimeLimit(9)",),
        "eval_max_steps": 9,
        "init_from": Path("runs/other"),
        "init_checkpoint": "best",
        "backend": "gymnasium",
        "vectorization": "async",
        "double_buffer": True,
        "fused": True,
        "num_envs": 6,
        "rollout_length": 16,
        "total_steps": 1000,
        "hidden_units": (3, 2, 1),
        "activation": "relu",
        "lstm_units": 16,
        "shared_trunk": True,
        "box_policy": "gsde",
        "log_std_init": -2.5,
        "gsde_interval": 0,
        "normalize_observations": True,
        "normalize_rewards": True,
        "target_return": -7.5,
        "eval_episodes": 0,
        "validation_interval": 5,
        "validation_episodes": 3,
        "video_episodes": 10,
    },
    RunConfig: {
        "seed": 0,
        "name": "null",  # a text that YAML could read as None
        "runs_dir": Path("some where") / "else",
        "device": "cpu",
        "compile_rollout": "eager",
        "compile_update": "xla",
        "distribute": "mirrored",
        "deterministic": False,
        "threads": 3,
        "onednn": False,
        "log_interval": 2,
        "checkpoint_interval": 5,
        "keep_checkpoints": 1,
    },
}

NO_REAL = [NAN, INF, -INF, 3.5e38, -3.5e38, 2**63, "1", True, [1]]  # 3.5e38 is infinite in float32
POSITIVE = [*NO_REAL, 0.0, -1.0]
NOT_NEGATIVE = [*NO_REAL, -1e-9]
UNIT = [*NO_REAL, -0.1, 1.1]
NO_WHOLE = [NAN, INF, 1.5, 1.0, 2**63, -(2**63), "1", True, [1]]
COUNT = [*NO_WHOLE, 0, -1]
NO_CHOICE = ["other", "", 1, []]

REFUSED = {
    PPOConfig: {
        "learning_rate": [*POSITIVE, None],
        "learning_rate_schedule": [*NO_CHOICE, None],
        "warmup_iterations": [*NO_WHOLE, -1, None],
        "clip_ratio": [*POSITIVE, None],
        "clip_ratio_high": POSITIVE,
        "clip_ratio_schedule": [*NO_CHOICE, None],
        "dual_clip": [*POSITIVE, 1.0],
        "value_clip": POSITIVE,
        "value_coeff": [*NOT_NEGATIVE, None],
        "entropy_coeff": [*NOT_NEGATIVE, None],
        "entropy_coeff_schedule": [*NO_CHOICE, None],
        "kl_coeff": [*NOT_NEGATIVE, None],
        "kl_in": [*NO_CHOICE, None],
        "kl_estimator": [*NO_CHOICE, None],
        "kl_controller": [*NO_CHOICE, None],
        "adaptive_kl_target": [*POSITIVE, None],
        "kl_horizon": [*COUNT, None],
        "target_kl": POSITIVE,
        "max_grad_norm": POSITIVE,
        "adam_epsilon": [*POSITIVE, None],
        "optimizer": [*NO_CHOICE, None],
        "weight_decay": [*NOT_NEGATIVE, None],
        "rmsprop_rho": [*UNIT, 1.0, None],
        "gamma": [*UNIT, None],
        "gae_lambda": [*UNIT, None],
        "normalize_advantages": [1, "True", None],
        "loss_average": [*NO_CHOICE, None],
        "recompute_advantages": [1, "True", None],
        "num_epochs": [*COUNT, None],
        "minibatch_size": [*COUNT, None],
        "num_micro_batches": [*COUNT, None],
    },
    ControlConfig: {
        "env": [1, None, "", "a\nb", "\ud800", "a:b:CartPole-v1"],
        "recipe": [1],
        "env_kwargs": [1, None, "a=1", ["a=1"], (1,)],
        "eval_env_kwargs": [1, None, "a=1", ["a=1"], (1,)],
        "wrappers": [1, None, "TimeLimit(9)", ["TimeLimit(9)"], (1,)],
        "eval_max_steps": COUNT,
        "init_from": [1, "a\0b", Path("a\nb")],
        "init_checkpoint": [1, None, "", "first", "-1"],
        "backend": [*NO_CHOICE, None],
        "vectorization": [*NO_CHOICE, None],
        "double_buffer": [1, "True", None],
        "fused": [1, "True", None],
        "num_envs": [*COUNT, None],
        "rollout_length": [*COUNT, None],
        "total_steps": [*COUNT, None],
        "hidden_units": [8, [8], "8", None, (0,), (8, -1), (8.0,), (True,), ((8,),), (8, 2**63)],
        "activation": [*NO_CHOICE, None],
        "lstm_units": [*NO_WHOLE, -1, None],
        "shared_trunk": [1, "True", None],
        "box_policy": [*NO_CHOICE, None],
        "log_std_init": [*NO_REAL, -10.1, 2.1, None],
        "gsde_interval": [*NO_WHOLE, -1, None],
        "normalize_observations": [1, "True", None],
        "normalize_rewards": [1, "True", None],
        "target_return": NO_REAL,
        "eval_episodes": [*NO_WHOLE, -1, None],
        "validation_interval": [*NO_WHOLE, -1, None],
        "validation_episodes": [*COUNT, None],
        "video_episodes": [*NO_WHOLE, -1, 11, None],
    },
    RunConfig: {
        "seed": [*NO_WHOLE, -1, 2**31, None],
        "name": [1, "", ".", "..", "a/b", "a\\b", "a\0b", "a\nb"],
        "runs_dir": [1, None, "a\0b", Path("a\0b"), Path("a\nb"), Path("\udc80")],
        "device": [*NO_CHOICE, None],
        "compile_rollout": [*NO_CHOICE, None],
        "compile_update": [*NO_CHOICE, None],
        "distribute": [*NO_CHOICE, None],
        "deterministic": ["yes", 1, None],
        "threads": [*NO_REAL, 0.5, -1, 1025, None],
        "onednn": ["yes", 1, 0],
        "log_interval": [*COUNT, None],
        "checkpoint_interval": [*COUNT, None],
        "keep_checkpoints": [*COUNT, None],
    },
}

CONFIGS = [PPOConfig, ControlConfig, RunConfig]
OTHER_RUN = ControlRunConfig(
    run=RunConfig(**OTHER[RunConfig]),
    control=ControlConfig(**OTHER[ControlConfig]),
    ppo=PPOConfig(**OTHER[PPOConfig] | {"kl_in": "loss", "kl_estimator": "k2", "loss_average": "tokens"}),
)


@dataclasses.dataclass(frozen=True)
class Constrained:
    above: Annotated[int, Gt(1)] = 2
    below: Annotated[float, Lt(3)] = 2.0
    at_most: Annotated[int, Le(3)] = 3
    within: Annotated[float, Interval(gt=0, le=1)] = 0.5
    even: Annotated[int, Must(lambda v: v % 2 == 0, "even")] = 2
    outer: Annotated[float | None, Gt(0)] = None
    inner: Annotated[int, "no constraint", Interval(ge=0, le=9)] | None = None

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("above", 1, "above 1"),
        ("below", 3.0, "below 3"),
        ("at_most", 4, "at most 3"),
        ("within", 0.0, "above 0 and at most 1"),
        ("within", 1.5, "above 0 and at most 1"),
        ("even", 3, "even"),
        ("outer", 0.0, "positive"),
        ("inner", 10, "between 0 and 9"),
        ("outer", "1", "float | None"),
    ],
)
def test_a_constraint_stands_beside_its_field(name, value, wanted):
    assert refusal(lambda: Constrained(**{name: value})) == f"{name} is {value!r}; it must be {wanted}"


@pytest.mark.parametrize("config_class", CONFIGS)
def test_the_tables_of_this_test_name_every_setting(config_class):
    names = {field.name for field in dataclasses.fields(config_class)}
    assert set(OTHER[config_class]) == names
    assert set(REFUSED[config_class]) == names
    default = config_class()
    assert all(getattr(default, name) != value for name, value in OTHER[config_class].items())


def test_defaults_survive_yaml():
    for config in (PPOConfig(), ControlConfig(), RunConfig(), ControlRunConfig()):
        assert from_yaml(type(config), to_yaml(config)) == config


def test_other_values_survive_yaml_with_their_types():
    for config in (PPOConfig(**OTHER[PPOConfig]), OTHER_RUN.control, OTHER_RUN.run, OTHER_RUN):
        assert from_yaml(type(config), to_yaml(config)) == config
    again = from_yaml(ControlRunConfig, to_yaml(OTHER_RUN))
    assert isinstance(again.run.runs_dir, Path)
    assert isinstance(again.control.hidden_units, tuple)
    assert again.ppo.max_grad_norm is None
    assert again.run.name == "null"


@pytest.mark.parametrize("name", ["2026-01-01", "1e5", "yes", "3", "~", "ein Läufer", "a: b", "#"])
def test_names_that_yaml_could_misread_survive_it(name):
    config = RunConfig(name=name)
    assert from_yaml(RunConfig, to_yaml(config)) == config


def test_yaml_keeps_the_order_of_the_settings_and_needs_only_some_of_them():
    lines = to_yaml(ControlRunConfig()).splitlines()
    assert [line for line in lines if not line.startswith((" ", "-"))] == ["run:", "control:", "ppo:"]
    config = from_yaml(ControlRunConfig, "ppo:\n  gamma: 0.9\n  minibatch_size: 512\n")
    assert config == ControlRunConfig(ppo=PPOConfig(gamma=0.9, minibatch_size=512))


@pytest.mark.parametrize(
    ("config_class", "name", "value"),
    [
        pytest.param(config_class, name, value, id=f"{name}-{value!r}")
        for config_class in CONFIGS
        for name, values in REFUSED[config_class].items()
        for value in values
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_the_setting(config_class, name, value):
    text = refusal(lambda: config_class(**{name: value}))
    assert text.startswith(f"{name} is {value!r}; it must be "), text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("task", text) for text in ("", "a\nb")),
        *(("reward", text) for text in ("", "a:b\n")),
        ("stop_token", "\ud800"),
        *(("preset", path) for path in (Path("a\0b"), "a\nb", 1)),
    ],
)
def test_texts_of_text_are_refused_too(name, value):
    assert refusal(lambda: TextConfig(**{name: value})).startswith(f"{name} is {value!r}; it must be ")
    assert TextConfig(stop_token="\n").stop_token == "\n"


def test_what_cannot_be_printed_is_an_escape_in_a_refusal():
    assert str(UsageError("a\nb\x1b[31m\ud800\u2028é")) == r"a\nb\x1b[31m\ud800\u2028é"


def test_a_long_value_is_cut_short_in_a_refusal():
    deep = [[[["a"] * 9] * 9] * 9] * 9
    deep.append(deep)
    for value in ("a" * 10**6, b"a" * 10**6, deep, 10**5000, [10**5000], {"a": {"b": [3] * 999}}):
        assert len(refusal(lambda: RunConfig(seed=value))) < 400  # noqa: B023


@pytest.mark.parametrize(
    ("config_class", "name", "given", "kept"),
    [
        (PPOConfig, "learning_rate", np.float32(1e-4), float(np.float32(1e-4))),
        (PPOConfig, "learning_rate", np.float64(1e-3), 1e-3),
        (PPOConfig, "learning_rate", np.longdouble(0.5), 0.5),
        (PPOConfig, "learning_rate", np.int8(1), 1.0),
        (PPOConfig, "learning_rate", 1, 1.0),
        (PPOConfig, "value_clip", 1, 1.0),
        (PPOConfig, "num_epochs", np.int64(3), 3),
        (PPOConfig, "normalize_advantages", np.bool_(False), False),
        (PPOConfig, "kl_in", np.str_("reward"), "reward"),
        (RunConfig, "seed", np.uint8(7), 7),
        (RunConfig, "runs_dir", "some/where", Path("some/where")),
        (RunConfig, "runs_dir", np.str_("where"), Path("where")),
        (TextConfig, "preset", "folder", Path("folder")),
        (PretrainConfig, "preset", "folder", Path("folder")),
        (ControlConfig, "hidden_units", (np.int64(8), 4), (8, 4)),
    ],
)
def test_paths_may_be_strings_and_numbers_numpys(config_class, name, given, kept):
    config = config_class(**{name: given})
    value = getattr(config, name)
    parts, expected = (v if isinstance(v, tuple) else (v,) for v in (value, kept))
    assert value == kept and [*map(type, parts)] == [*map(type, expected)]
    assert config == config_class(**{name: kept}) and json.dumps(value, default=str) == json.dumps(kept, default=str)
    assert from_yaml(config_class, to_yaml(config)) == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", value) for value in (np.array(0.5), np.complex64(0.5), np.str_("0.5"), np.bool_(True))),
        ("learning_rate", np.longdouble("1e400")),
        *(("num_epochs", value) for value in (np.float32(3), np.array([3]), np.timedelta64(3, "ns"), np.bool_(True))),
        *(("normalize_advantages", value) for value in (np.int64(1), np.array(True))),
    ],
)
def test_other_values_of_numpy_are_refused(name, value):
    assert refusal(lambda: PPOConfig(**{name: value})).startswith(f"{name} is {value!r}; it must be ")


def test_yaml_with_some_settings_leaves_the_others_at_the_runs_own_defaults():
    assert from_yaml(TextRunConfig, "ppo: {gamma: 0.9}") == TextRunConfig(ppo=dataclasses.replace(TEXT_PPO, gamma=0.9))
    assert from_yaml(ControlRunConfig, "ppo: {gamma: 0.9}") == ControlRunConfig(ppo=PPOConfig(gamma=0.9))


@pytest.mark.parametrize("name", ["run", "control", "ppo"])
def test_a_run_takes_only_its_own_kinds_of_settings(name):
    assert name in refusal(lambda: ControlRunConfig(**{name: None}))
    assert name in refusal(lambda: ControlRunConfig(**{name: {}}))


@pytest.mark.parametrize("name", ["clip_ratio_high", "dual_clip", "value_clip", "target_kl", "max_grad_norm"])
def test_what_can_be_off_can_be_none(name):
    assert getattr(PPOConfig(**{name: None}), name) is None


@pytest.mark.parametrize("config", [PPOConfig(), ControlConfig(), RunConfig(), ControlRunConfig()])
def test_settings_are_frozen(config):
    for field in dataclasses.fields(config):
        before = getattr(config, field.name)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, before)
    assert not hasattr(config, "__dict__")


def test_exact_division():
    assert exact_div(12, 4, "items", "pieces") == 3
    text = refusal(lambda: exact_div(12, 5, "items", "pieces"))
    assert "items = 12" in text and "pieces = 5" in text


def test_the_rollout_is_cut_exactly():
    control = ControlConfig(num_envs=6, rollout_length=10, total_steps=600)
    assert ControlRunConfig(control=control, ppo=PPOConfig(minibatch_size=20)).ppo.minibatch_size == 20
    text = refusal(lambda: ControlRunConfig(control=control, ppo=PPOConfig(minibatch_size=16)))
    assert "num_envs x rollout_length = 60" in text and "minibatch_size = 16" in text
    text = refusal(lambda: ControlRunConfig(control=control, ppo=PPOConfig(minibatch_size=120)))
    assert "60" in text and "120" in text
    text = refusal(lambda: PPOConfig(minibatch_size=16, num_micro_batches=3))
    assert "minibatch_size = 16" in text and "num_micro_batches = 3" in text


def test_minibatches_of_a_memory_are_cut_by_the_numbers_that_were_given():
    control = ControlConfig(num_envs=8, rollout_length=16, total_steps=128, lstm_units=4)
    text = refusal(lambda: ControlRunConfig(control=control, ppo=PPOConfig(minibatch_size=32, num_micro_batches=4)))
    assert text.startswith("minibatch_size = 32 is not a multiple of rollout_length x num_micro_batches = 64")
    text = refusal(lambda: ControlRunConfig(control=control, ppo=PPOConfig(minibatch_size=8)))
    assert text.startswith("minibatch_size = 8 is not a multiple of rollout_length = 16")
    assert (
        ControlRunConfig(control=control, ppo=PPOConfig(minibatch_size=64, num_micro_batches=4)).control.lstm_units == 4
    )


def test_an_advantage_alone_cannot_be_whitened():
    text = refusal(lambda: ControlRunConfig(ppo=PPOConfig(minibatch_size=1)))
    assert "minibatch_size is 1" in text and "normalize_advantages" in text and "raise minibatch_size" in text
    assert ControlRunConfig(ppo=PPOConfig(minibatch_size=1, normalize_advantages=False)).ppo.minibatch_size == 1
    assert ControlRunConfig(ppo=PPOConfig(minibatch_size=2)).ppo.minibatch_size == 2


@pytest.mark.parametrize(("total_steps", "iterations"), [(60, 1), (119, 1), (120, 2), (6_000, 100)])
def test_iterations_are_whole_rollouts(total_steps, iterations):
    config = ControlConfig(num_envs=6, rollout_length=10, total_steps=total_steps)
    assert config.batch_size == 60
    assert config.num_iterations == iterations


@pytest.mark.parametrize("vectorization", ["auto", "native", "sync", "envpool"])
def test_double_buffering_is_for_processes(vectorization):
    text = refusal(lambda: ControlConfig(vectorization=vectorization, double_buffer=True))
    assert f"double_buffer is True and vectorization is {vectorization}" in text


def test_a_run_shorter_than_a_rollout_is_refused():
    text = refusal(lambda: ControlConfig(num_envs=6, rollout_length=10, total_steps=59))
    assert "total_steps is 59" in text and "60" in text


def test_control_refuses_the_kl_in_the_reward_which_has_no_reference_there():
    text = refusal(lambda: ControlRunConfig(ppo=PPOConfig(kl_in="reward")))
    assert "kl_in is reward" in text and "set kl_in to loss" in text
    assert "kl_in is reward" in refusal(lambda: from_yaml(ControlRunConfig, "ppo: {kl_in: reward}"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_average": "sequences"}, "loss_average is sequences; a control run allows only tokens: leave"),
        ({"kl_estimator": "k3"}, "kl_estimator is k3; a control run allows only k2: leave kl_estimator out"),
    ],
)
def test_control_refuses_what_needs_responses_or_a_reference(settings, said):
    assert refusal(lambda: ControlRunConfig(ppo=PPOConfig(**settings))).startswith(said)


GROUPED = {"advantages": "group", "responses_per_prompt": 4}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"advantages": "group"}, "advantages is group and responses_per_prompt is 1; a response is compared with"),
        ({"advantages": "rloo"}, "advantages is rloo and responses_per_prompt is 1; a response is compared with"),
        ({"responses_per_prompt": 6}, "batch_size = 64 is not a multiple of responses_per_prompt = 6"),
        ({"group_std": False}, "group_std is False and advantages is gae; only group divides by a standard deviation"),
        (GROUPED | {"separate_critic": True}, "separate_critic is True and advantages is group; there is no value"),
        (GROUPED | {"whiten_rewards": True}, "whiten_rewards is True and advantages is group; a response has one"),
        (GROUPED | {"value_coeff": 0.1}, "value_coeff is 0.1 and advantages is group, which has no value function"),
        ({"kl_estimator": "k3"}, "kl_estimator is k3 and kl_in is reward; only the KL in the loss has an"),
        ({"advantages": "grpo"}, "advantages is 'grpo'; it must be one of gae, group, rloo"),
    ],
)
def test_contradictions_about_advantages_are_one_line(settings, said):
    assert refusal(lambda: make_text_config(**settings)).startswith(said)


def test_a_run_without_a_value_function_has_defaults_of_its_own_that_survive_yaml():
    config = make_text_config(**GROUPED, group_std=False, kl_in="loss", kl_estimator="k3", loss_average="sequences")
    assert config.ppo.value_coeff == 0.0 and not config.ppo.normalize_advantages and not config.text.has_values
    assert from_yaml(TextRunConfig, to_yaml(config)) == config
    assert make_text_config(**GROUPED, normalize_advantages=True).ppo.normalize_advantages
    assert make_text_config(advantages="gae") == make_text_config() == TextRunConfig()


@pytest.mark.parametrize("rule", ["schulman", "ziegler"])
def test_an_adaptive_kl_coefficient_must_start_above_zero(rule):
    text = refusal(lambda: PPOConfig(kl_controller=rule))
    assert "kl_controller" in text and rule in text and "kl_coeff" in text
    assert PPOConfig(kl_controller=rule, kl_coeff=0.2).kl_controller == rule


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ppo: {gama: 0.9}", "gama"),
        ("speed: 3", "speed"),
        ("ppo: {gamma: high}", "gamma"),
        ("ppo: {gamma: .nan}", "gamma"),
        ("ppo: {learning_rate: .inf}", "learning_rate"),
        ("ppo: {num_epochs: 0}", "num_epochs"),
        ("ppo: 3", "ppo"),
        ("ppo:", "ppo"),
        ("control: {hidden_units: 8}", "hidden_units"),
        ("control: {hidden_units: [8, x]}", "hidden_units"),
        ("run: {runs_dir: 3}", "runs_dir"),
        ("3: 4", "3"),
        ("- ppo", "ControlRunConfig"),
        ("", "ControlRunConfig"),
        ("just words", "ControlRunConfig"),
        ("ppo: {gamma: 0.9", "YAML"),
        ("ppo:\n\tgamma: 0.9", "YAML"),
        ("ppo: !!python/object:os.system {}", "YAML"),
        ("a: \x00", "YAML"),
        ("run: {seed: 2026-13-45}", "YAML"),
        ("run: {seed: !!bool maybe}", "YAML"),
        pytest.param("run: {seed: " + "9" * 5000 + "}", "YAML", id="digits"),
        pytest.param("run: " + "[" * 5000, "YAML", id="deep"),
        ("run: {seed: &a [*a]}", "seed"),
        ('"two\\nlines": 3', "two"),
    ],
)
def test_damaged_yaml_is_refused_in_one_line(text, named):
    assert named in refusal(lambda: from_yaml(ControlRunConfig, text))


def test_an_unknown_setting_is_answered_with_those_that_exist():
    text = refusal(lambda: from_yaml(PPOConfig, "gama: 0.9"))
    assert "gama" in text
    assert all(field.name in text for field in dataclasses.fields(PPOConfig))
