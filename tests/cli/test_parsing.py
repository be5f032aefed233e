"""Tests options that are on or off: with a value, alone, before positional arguments and before other options."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.refusal import refusal
from tyro.conf import Positional

from tfppo import cli
from tfppo.cli import command_line
from tfppo.cli.parsing import Group, parse


@dataclass(frozen=True)
class Inner:
    """Some settings."""

    is_slow: bool = False
    """Slow."""
    sizes: tuple[int, ...] = (1,)
    """Sizes."""
    name: str | None = None
    """Name."""
    is_odd: bool | None = None
    """Odd."""


@dataclass(frozen=True)
class Use:
    """Use a folder."""

    folder: Positional[Path]
    """Folder."""
    more: Positional[tuple[Path, ...]] = ()
    """More folders."""
    greedy: bool = True
    """Greedy."""
    inner: Inner = field(default_factory=Inner)

    def __call__(self):
        """Does nothing."""


@dataclass(frozen=True)
class Make:
    """Make something."""

    inner: Inner = field(default_factory=Inner)

    def __call__(self):
        """Does nothing."""


@dataclass(frozen=True)
class Plain:
    """Has no option that is on or off."""

    name: str = ""
    """Name."""

    def __call__(self):
        """Does nothing."""


GROUP = Group("All.", {"in": Group("Some.", {"use": Use, "plain": Plain}), "make": Make})


def parsed(line):
    return parse(GROUP, {}, line.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("make --is-slow", Make(Inner(is_slow=True))),
        ("make --is_slow", Make(Inner(is_slow=True))),
        ("make --is-slow True", Make(Inner(is_slow=True))),
        ("make --is-slow False", Make(Inner(is_slow=False))),
        ("make --is-slow=True", Make(Inner(is_slow=True))),
        ("make --is-slow=False", Make(Inner(is_slow=False))),
        ("make --is-slow --is-slow False", Make(Inner(is_slow=False))),
        ("make --is-slow --name a", Make(Inner(is_slow=True, name="a"))),
        ("make --sizes 2 3 --is-slow", Make(Inner(is_slow=True, sizes=(2, 3)))),
        ("make --is-slow --sizes", Make(Inner(is_slow=True, sizes=()))),
        ("make --name --is-slow=False", None),
        ("make --is-odd", Make(Inner(is_odd=True))),
        ("make --is-odd None --is-slow", Make(Inner(is_slow=True))),
        ("in use --is-odd False a", Use(Path("a"), inner=Inner(is_odd=False))),
        ("in use --is-odd a", Use(Path("a"), inner=Inner(is_odd=True))),
        ("in use a", Use(Path("a"))),
        ("in use --greedy a", Use(Path("a"))),
        ("in use --greedy False a", Use(Path("a"), greedy=False)),
        ("in use a --greedy False", Use(Path("a"), greedy=False)),
        ("in use --greedy=False a b", Use(Path("a"), (Path("b"),), greedy=False)),
        ("in use --greedy False --is-slow a b", Use(Path("a"), (Path("b"),), False, Inner(is_slow=True))),
        ("in use a --is-slow b", Use(Path("a"), (Path("b"),), inner=Inner(is_slow=True))),
        ("in use --is-slow -- --greedy", Use(Path("--greedy"), inner=Inner(is_slow=True))),
        ("in plain --name True", Plain("True")),
    ],
)
def test_an_option_that_is_on_or_off_may_stand_alone(line, expected):
    if expected is None:
        assert "name" in refusal(parsed, line)
    else:
        assert parsed(line) == expected


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("make --is-slow yes", "yes"),
        ("make --is-slow true", "true"),
        ("make --is-slow 1 --name a", "1"),
        ("make --is-slow=", ""),
        ("in use --greedy false a", "false"),
        ("in use --greedy=no a", "no"),
    ],
)
def test_another_value_is_refused_with_those_that_are_allowed(line, value):
    text = refusal(parsed, line)
    option = "--greedy" if "greedy" in line else "--is-slow"
    assert text.startswith(f"{option} is {value!r}; it must be one of True, False; help: tfppo ")
    parsed(line.replace(f"={value}", "=True") if f"={value}" in line else line.replace(value, "True"))


def test_every_command_has_these_options():
    def settings(line):
        words = line.split()
        return parse(command_line.COMMANDS, command_line._defaults(words), words)

    text = settings("train text --separate-critic --task length --whiten-rewards --normalize-scores False").text
    assert (text.task, text.separate_critic, text.whiten_rewards, text.normalize_scores) == (
        "length",
        True,
        True,
        False,
    )
    assert settings("train control --shared-trunk --env Pendulum-v1").control.shared_trunk
    assert settings("bench --eager").eager


@pytest.mark.parametrize("command", ["train text", "train cartpole", "bench"])
def test_the_help_says_that_such_an_option_may_stand_alone(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert "An option with [{True,False}] may stand alone, which means True." in text
    assert re.search(r"--(deterministic|eager) \[\{True,False\}\] ", text)


@pytest.mark.parametrize("command", ["", "train", "plot"])
def test_the_help_of_others_does_not(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    assert "stand alone" not in capsys.readouterr().out


@dataclass(frozen=True)
class Count:
    """Count."""

    steps: int = 1
    """Steps."""
    most: int | None = None
    """Most."""
    inner: Inner = field(default_factory=Inner)
    env: str = ""
    """Environment."""

    def __call__(self):
        """Does nothing."""


def counted(line):
    return parse(Group("All.", {"count": Count, "plain": Plain}), {}, ["count", *line.split()])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--steps 1e6 --most 2.5e3", Count(1_000_000, 2500)),
        ("--steps=1E3 --most None", Count(1000)),
        ("--steps 1_000", Count(1000)),
        ("--sizes 64,32", Count(inner=Inner(sizes=(64, 32)))),
        ("--sizes=64,32, --steps 2", Count(2, inner=Inner(sizes=(64, 32)))),
        ("--sizes 64, 32 --env a,b", Count(inner=Inner(sizes=(64, 32)), env="a,b")),
    ],
)
def test_numbers_may_be_written_as_people_write_them(line, expected):
    assert counted(line) == expected


@pytest.mark.parametrize("value", ["1.5", "1e-3", "inf", "nan", "many", "1e400"])
def test_what_is_no_whole_number_is_refused(value):
    assert "--steps" in refusal(counted, f"--steps {value}")


def test_a_word_that_may_be_the_subject_gets_its_option():
    assert "perhaps you meant --env CartPole-v1;" in refusal(counted, "CartPole-v1")
    assert "perhaps" not in refusal(counted, "CartPole-v1 Pendulum-v1")
