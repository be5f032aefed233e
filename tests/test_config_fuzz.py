"""Random values for every setting of every config: each is accepted and survives YAML, or gives a one-line error.

The values are given in Python, as YAML, and on the command line. The error names the setting.
"""

import contextlib
import dataclasses
import functools
import io
import re
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.internal.conjecture import providers
from support.refusal import refusal

import tfppo.control.run
import tfppo.text.pretrain.run
import tfppo.text.reward_model.run
import tfppo.text.run
import tfppo.text.sft.run
from tfppo import cli
from tfppo.cli import models, train
from tfppo.control import config as control_config
from tfppo.errors import UsageError
from tfppo.ppo import config as ppo_config
from tfppo.settings import from_yaml, to_yaml
from tfppo.text import config as text_config
from tfppo.text.pretrain import config as pretrain_config
from tfppo.text.reward_model import config as reward_config
from tfppo.text.sft import config as sft_config
from tfppo.text.supervised import config as tuning_config
from tfppo.training import config as run_config

CONFIGS = [
    thing
    for module in (
        ppo_config,
        run_config,
        control_config,
        text_config,
        tuning_config,
        sft_config,
        reward_config,
        pretrain_config,
    )
    for thing in vars(module).values()
    if isinstance(thing, type) and dataclasses.is_dataclass(thing) and thing.__module__ == module.__name__
]
every_config = pytest.mark.parametrize("config_class", CONFIGS, ids=lambda config_class: config_class.__name__)
fuzz = functools.partial(
    settings, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
every_amount = pytest.mark.parametrize("examples", [25, pytest.param(200, marks=pytest.mark.slow)])
LONGEST = 1500  # characters of an error; the error for an unknown setting lists all settings

LETTERS = st.characters(exclude_categories=())  # with control characters and lone surrogates
TEXTS = st.one_of(
    st.text(LETTERS, max_size=8),
    st.sampled_from(
        ["", " ", "\n", "\0", "\x1b[31m", "\x85", "\u2028", "\ud800", "\udc80a", "a\nb", "../a", "a:b:c", "[/red]"]
        + ["null", "~", "yes", "None", "True", "nan", "inf", "-inf", "1e400", "-0", "1_0", "0x1F", "1:30", "١٢", "½"]
        + ["2026-13-45", "2026-01-01", "=", "<<", "@file", "-", "--", "-1", "a" * 5000, "9" * 5000, "é", "\ufeff"]
    ),
)
WHOLE = st.one_of(
    st.integers(-3, 130),
    st.integers(),
    st.sampled_from([2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, -(10**4000)]),
)
REAL = st.one_of(
    st.floats(0, 1), st.floats(), st.sampled_from([0.0, -0.0, 1e-320, 1e39, -1e39, 3.5e38, 1e22, 0.1]).map(np.float64)
)
PLAIN = st.one_of(st.none(), st.booleans(), WHOLE, REAL.map(float), TEXTS)
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
OTHER = st.one_of(  # values that YAML cannot represent
    TEXTS.map(Path),
    TEXTS.map(np.str_),
    st.binary(max_size=4),
    st.lists(WHOLE | REAL, max_size=3).map(tuple),
    st.sampled_from([object(), int, ..., 1j, np.int64(3), np.float32(0.5), np.zeros(2), np.bool_(True), {1}, len]),
)
ANYTHING = REAL | NESTED | OTHER


@functools.cache
def plausible(hint):
    """Values of the annotated type of a setting, most of them within its bounds."""
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return st.lists(plausible(typing.get_args(hint)[0]), max_size=3).map(tuple)
    if typing.get_args(hint):
        return st.one_of(*map(plausible, typing.get_args(hint)))
    known = {bool: st.booleans(), int: WHOLE, float: REAL, str: TEXTS, Path: TEXTS.map(Path), type(None): st.none()}
    return known[hint] if hint in known else st.builds(hint)


@st.composite
def arguments(draw, config_class, values):
    """A few settings of a config by name. The others keep their defaults."""
    hints = typing.get_type_hints(config_class)
    names = draw(st.lists(st.sampled_from(list(hints)), min_size=1, max_size=3, unique=True))
    return {name: draw(values(hints[name])) for name in names}


@functools.cache
def plausible_or_not(hint):
    """Values that are plausible in two of three cases."""
    return st.sampled_from([plausible(hint), plausible(hint), ANYTHING]).flatmap(lambda values: values)


@pytest.fixture(autouse=True)
def the_same_everywhere(monkeypatch, tmp_path):
    """Hypothesis writes no files to the current folder, and does not use constants of the loaded modules."""
    set_hypothesis_home_dir(tmp_path)
    monkeypatch.setattr(providers, "is_local_module_file", lambda path: False)
    yield
    set_hypothesis_home_dir(None)


def named(text, names):
    return any(re.search(rf"\b{name}\b", text) for name in names)


def check_refusal(error, names):
    text = str(error)
    assert text.isprintable() and 0 < len(text) <= LONGEST, text
    assert named(text, names), f"{text!r} names none of {names}"


def parts(config_class):
    """Returns the configs that are fields of a run's config, by name. Other configs have none."""
    hints = typing.get_type_hints(config_class)
    return {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}


def within(kinds):
    """Returns the names of the settings of those values that are configs."""
    return [field.name for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)]


def settings_of(config_class):
    """Returns the names of all settings of a config and of the configs in it."""
    return [*within([config_class]), *within(parts(config_class).values())]


def test_all_configs_were_found():
    names = {config_class.__name__ for config_class in CONFIGS}
    assert names == {"PPOConfig", "ControlConfig", "RunConfig", "ControlRunConfig"} | {
        *(
            "PretrainConfig",
            "CorpusModelConfig",
            "PretrainRunConfig",
            "TextConfig",
            "TextParts",
            "TextRunConfig",
            "RewardModelConfig",
            "RewardModelRunConfig",
        ),
        *("SFTConfig", "NewModelConfig", "SFTRunConfig", "TuningConfig", "TuningRunSettings"),
    }


@pytest.mark.representatives(4)
@pytest.mark.fault("A setting has an invalid value in Python", "A one-line error names the setting.")
@every_amount
@every_config
def test_python(config_class, examples):
    taken = 0

    @fuzz(max_examples=examples)
    @given(arguments(config_class, plausible_or_not))
    def check(given_settings):
        nonlocal taken
        try:
            built = config_class(**given_settings)
        except UsageError as error:
            check_refusal(error, [*given_settings, *within(given_settings.values())])
        else:
            taken += 1
            assert from_yaml(config_class, to_yaml(built)) == built

    check()
    assert examples // 40 < taken < examples - 1  # otherwise one of the two was hardly tested


@pytest.mark.representatives(4)
@every_amount
@every_config
def test_runs_of_settings_that_are_each_in_their_bounds(config_class, examples):
    """The error of a rule over several settings names one of the given settings."""
    whole = st.integers(1, 64)

    def small(hint):
        return whole if hint is int else st.floats(0.01, 0.99) if hint is float else plausible(hint)

    @fuzz(max_examples=examples)
    @given(st.data())
    def check(data):
        default = config_class()
        own = {name: data.draw(arguments(kind, small)) for name, kind in parts(config_class).items()}
        flat = {} if own else data.draw(arguments(config_class, small))
        names = [*flat, *(name for some in own.values() for name in some)]
        try:
            own = {name: dataclasses.replace(getattr(default, name), **some) for name, some in own.items()}
            built = dataclasses.replace(default, **own, **flat)
        except UsageError as error:
            check_refusal(error, names)
        else:
            assert from_yaml(config_class, to_yaml(built)) == built

    check()


@every_config
def test_a_number_that_python_does_not_write_out(config_class):
    hints = typing.get_type_hints(config_class)
    for name in [name for name, hint in hints.items() if {int, float} & {hint, *typing.get_args(hint)}]:
        value = (10**5000,) if typing.get_origin(hints[name]) is tuple else 10**5000
        assert "whole number of 16610 bits" in refusal(lambda: config_class(**{name: value}))  # noqa: B023


@pytest.mark.representatives(4)
@pytest.mark.fault("A setting has an invalid value in YAML", "A one-line error names the setting.")
@every_amount
@every_config
def test_yaml_of_any_value(config_class, examples):
    @fuzz(max_examples=examples)
    @given(arguments(config_class, lambda hint: NESTED))
    def check(given_settings):
        try:
            built = from_yaml(config_class, yaml.safe_dump(given_settings))
        except UsageError as error:
            check_refusal(error, given_settings)
        else:
            assert from_yaml(config_class, to_yaml(built)) == built

    check()


@pytest.mark.representatives(4)
@pytest.mark.fault("A text is no valid YAML", "A one-line error.")
@every_amount
@every_config
def test_yaml_of_any_text(config_class, examples):
    odd = st.sampled_from(
        ["9" * 5000, "!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!binary x", "!!python/name:os.system"]
        + ["!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "2026-13-45", "0x_", "&a [*a]", "&a {b: *a}", "*a"]
        + ["[" * 1000, "{a: " * 1000, "? [a]\n: b", "{[a]: b}", "{{a: b}: c}", "<<: 3", "a: b: c", "\tb", "%", "@a"]
        + ["[&a [x], &b [*a, *a], &c [*b, *b], &d [*c, *c], &e [*d, *d], &f [*e, *e], &g [*f, *f], [*g, *g]]"]
    )

    @fuzz(max_examples=examples)
    @given(st.sampled_from(settings_of(config_class)), odd | TEXTS)
    def check(name, text):
        try:
            built = from_yaml(config_class, f"{name}: {text}")
        except UsageError as error:
            check_refusal(error, [name, "YAML", config_class.__name__])
        else:
            assert from_yaml(config_class, to_yaml(built)) == built

    check()


COMMANDS = {
    "train cartpole": (run_config.RunConfig, control_config.ControlConfig, ppo_config.PPOConfig),
    "train control": (run_config.RunConfig, control_config.ControlConfig, ppo_config.PPOConfig),
    "train text": (run_config.RunConfig, text_config.TextConfig, ppo_config.PPOConfig),
    "sft --data mine.jsonl": (tuning_config.TuningRunSettings, sft_config.SFTConfig, sft_config.NewModelConfig),
    "pretrain": (
        tuning_config.TuningRunSettings,
        pretrain_config.PretrainConfig,
        pretrain_config.CorpusModelConfig,
    ),
    "reward-model": (tuning_config.TuningRunSettings, reward_config.RewardModelConfig),
}


@pytest.fixture
def done(monkeypatch):
    """Replaces training. Returns the settings of the run."""
    done = []
    for module, name in (
        (tfppo.control.run, "train_control"),
        (tfppo.text.run, "train_text"),
        (tfppo.text.sft.run, "sft_run"),
        (tfppo.text.pretrain.run, "pretrain_run"),
        (tfppo.text.reward_model.run, "reward_model_run"),
    ):
        monkeypatch.setattr(module, name, lambda settings, *others: done.append(settings))
    for module in (train, models):
        monkeypatch.setattr(module, "import_tensorflow", lambda *settings, **more: None)
    monkeypatch.setattr(train, "train_seeds", lambda train, settings, seeds, task: done.append(settings))
    return done


@pytest.mark.representatives(2)
@pytest.mark.fault("A setting has an invalid value on the command line", "A one-line error.")
@pytest.mark.parametrize("examples", [12, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_command_line(command, examples, done):
    hints = {name: hint for part in COMMANDS[command] for name, hint in typing.get_type_hints(part).items()}
    more = {"runs_dir": Path, "name": str} | ({"seeds": str} if command.startswith("train") else {"preset": Path})
    hints |= more
    counts = {0: 0, 2: 0}

    @functools.cache
    def spelled(hint):
        """The words after an option. There is mostly one, because tyro is slow to make the error for other numbers."""
        words = st.lists(plausible(hint).map(str) | TEXTS, min_size=1, max_size=1)
        several = st.lists(TEXTS, max_size=3)
        often = [several] * 5 if typing.get_origin(hint) is tuple else [words] * 9
        return st.sampled_from([several, *often]).flatmap(lambda values: values)

    @fuzz(max_examples=examples)
    @given(st.data())
    def check(data):
        words = command.split()
        for name in data.draw(st.lists(st.sampled_from(list(hints)), min_size=1, max_size=2)):
            option, values = f"--{name.replace('_', '-')}", data.draw(spelled(hints[name]))
            joined = len(values) == 1 and data.draw(st.booleans())
            words += [f"{option}={values[0]}"] if joined else [option, *values]
        words += data.draw(st.sampled_from([[]] * 15 + [["more"], ["--more"], ["\ud800\n"]]))
        done.clear()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(words)
        counts[code] += 1
        said = err.getvalue()
        if code == 0:
            assert said == "" and len(done) == 1 and from_yaml(type(done[0]), to_yaml(done[0])) == done[0]
        else:
            assert code == 2 and out.getvalue() == "" and done == []
            assert said.startswith("tfppo: ") and said.endswith("\n") and said[:-1].isprintable(), said
            assert len("tfppo: \n") < len(said) and not set(said) & set("╭│╰─"), said

    check()
    if examples > 40:  # a few examples may all be refused
        assert min(counts.values()) > examples // 40
