"""Defines all commands of `tfppo` and the function `main`, which runs one.

The commands are dataclasses in `tfppo.cli`. Their fields are the options.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version

from tfppo.cli.bench import Bench
from tfppo.cli.models import Pretrain, RewardModel, Sft
from tfppo.cli.parsing import Command, Group, last_value, parse, whole_number
from tfppo.cli.runs import Evaluate, Export, Generate, Plot, Resume
from tfppo.cli.tasks import Tasks
from tfppo.cli.train import CARTPOLE, TrainCartpole, TrainControl, TrainText
from tfppo.control.recipes import make_control_config
from tfppo.deprecated import SETTINGS
from tfppo.errors import UsageError
from tfppo.settings import with_settings
from tfppo.text.config import TextRunConfig
from tfppo.text.defaults import DEPENDS_ON, defaults_of_advantages, make_text_config, with_model_defaults
from tfppo.text.sft.config import SFTRunConfig

COMMANDS = Group(
    "PPO for control and for language models in TensorFlow 2 and Keras 3. --version prints the version.",
    {
        "train": Group("Train a policy.", {"cartpole": TrainCartpole, "control": TrainControl, "text": TrainText}),
        "tasks": Tasks,
        "sft": Sft,
        "pretrain": Pretrain,
        "reward-model": RewardModel,
        "generate": Generate,
        "resume": Resume,
        "evaluate": Evaluate,
        "plot": Plot,
        "export": Export,
        "bench": Bench,
    },
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
      arguments: Words after `tfppo`. None uses `sys.argv`.

    Returns:
      0 after success, 2 after an error of the user, which is printed to stderr in one line, 130 after Ctrl-C, and 141
      if the reader of a pipe ended.
    """
    try:
        arguments = _with_new_options(sys.argv[1:] if arguments is None else arguments)
        if arguments == ["--version"]:
            print(f"tfppo {version('tfppo')}")
            return 0
        try:
            parse(COMMANDS, _defaults(arguments), arguments)()
        finally:
            sys.stdout.flush()  # flush here, so that a closed pipe raises BrokenPipeError inside this block
    except UsageError as error:
        print("\n".join([f"tfppo: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `tfppo ... | head`: the reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # the exit code of a shell for SIGPIPE
    except KeyboardInterrupt as error:
        print("; ".join(["tfppo: interrupted", *map(str, error.args)]), file=sys.stderr)
        return 130
    return 0


def _defaults(arguments: Sequence[str]) -> dict[type[Command], Command]:
    """Returns the commands with the default settings of the environment (--env) or task (--task).

    Options that are not given have these defaults, and `--help` shows them.

    Raises:
      UsageError: If --seed and --seeds are both given. It is checked here, because the parsed command does not show
        whether an option was given or has its default.
    """
    if arguments[:1] == ["train"] and None not in (last_value(arguments, "--seed"), last_value(arguments, "--seeds")):
        raise UsageError("--seed and --seeds are both given: give --seed for one run, or --seeds for several runs")
    env, recipe = (last_value(arguments, option) for option in ("--env", "--recipe"))
    control = make_control_config(env or CARTPOLE, recipe=recipe if arguments[1:2] == ["control"] else None)
    text = _text_defaults(arguments) if arguments[:2] == ["train", "text"] else make_text_config()
    return {
        TrainControl: TrainControl(run=control.run, control=control.control, ppo=control.ppo),
        TrainText: TrainText(run=text.run, text=text.text, ppo=text.ppo),
        Sft: _sft_defaults(last_value(arguments, "--task") if arguments[:1] == ["sft"] else None),
        Bench: Bench(run=control.run, control=control.control, ppo=control.ppo),
    }


def _text_defaults(arguments: Sequence[str]) -> TextRunConfig:
    """Returns the default settings of the task (--task), and of the language model if it is given (--preset).

    Raises:
      UsageError: If the task cannot be found. The module of a task of the user's own is imported.
    """
    given = {name: last_value(arguments, f"--{name.replace('_', '-')}") for name in ("task", "preset")}
    settings: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    kept: Mapping[str, object] = {}
    if "task" in settings:
        from tfppo.text.tasks import get_task

        chosen = get_task(str(settings["task"])).defaults
        settings |= chosen
        kept = chosen if "lora_rank" in chosen else {}  # the task is for larger models, and so are its settings
    settings |= defaults_of_advantages(last_value(arguments, "--advantages"))  # they replace those of the task
    values = {name: last_value(arguments, f"--{name.replace('_', '-')}") for name in DEPENDS_ON}
    numbers: dict[str, int] = {}
    for name, value in values.items():
        with suppress(ValueError):  # parsing tells of it
            numbers |= {} if value is None else {name: whole_number(value)}
    return with_model_defaults(make_text_config(**settings), numbers, given=kept)  # they replace those of the task


def _sft_defaults(task: str | None) -> Sft:
    """Returns the default settings of supervised fine-tuning, or those for the examples of a task."""
    if task is None:
        return Sft()
    from tfppo.text.tasks import get_task

    config = with_settings(SFTRunConfig(), get_task(task).sft_defaults)
    return Sft(run=config.run, sft=config.sft, model=config.model)


def _with_new_options(arguments: Sequence[str]) -> list[str]:
    """Replaces renamed options of version 0.1 by their current names, and prints each change to stderr."""
    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        setting = SETTINGS.get(name.removeprefix("--").replace("-", "_"))
        if name.startswith("--") and setting is not None:
            option = f"--{setting.replace('_', '-')}"
            print(f"tfppo: {name} is now called {option}", file=sys.stderr)
            argument = option + equals + value
        renamed.append(argument)
    return renamed


if __name__ == "__main__":
    sys.exit(main())
