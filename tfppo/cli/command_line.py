"""The command line: `tfppo ...`, read by tyro from the dataclasses of tfppo/cli."""

import os
import sys
from collections.abc import Sequence

from tfppo.cli.bench import Bench
from tfppo.cli.models import Pretrain, RewardModel
from tfppo.cli.parsing import Command, Group, last_value, parse
from tfppo.cli.runs import Evaluate, Export, Generate, Plot, Resume
from tfppo.cli.train import TrainCartpole, TrainControl, TrainText
from tfppo.control.recipes import make_control_config
from tfppo.deprecated import SETTINGS
from tfppo.errors import UsageError
from tfppo.text.config import make_text_config

COMMANDS = Group(
    "PPO for control and for language models in TensorFlow 2 and Keras 3.",
    {
        "train": Group("Train a policy.", {"cartpole": TrainCartpole, "control": TrainControl, "text": TrainText}),
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
    """Runs a command line and returns its exit code. A mistake of the user is one line on stderr, and 2."""
    try:
        arguments = _with_new_options(sys.argv[1:] if arguments is None else arguments)
        try:
            parse(COMMANDS, _defaults(arguments), arguments)()
        finally:
            sys.stdout.flush()  # here, where a closed pipe is no stack trace
    except UsageError as error:
        print(f"tfppo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `tfppo ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says it of SIGPIPE
    except KeyboardInterrupt as error:
        print("; ".join(["tfppo: interrupted", *map(str, error.args)]), file=sys.stderr)
        return 130
    return 0


def _defaults(arguments: Sequence[str]) -> dict[type[Command], Command]:
    """Returns the commands with the settings of the environment or the task that is asked for: help shows them, and
    what is not given has them.

    Raises:
      UsageError: if --seed and --seeds are both given: once they are read, defaults do not show any more.
    """
    if arguments[:1] == ["train"] and None not in (last_value(arguments, "--seed"), last_value(arguments, "--seeds")):
        raise UsageError("--seed is for one run, --seeds for several: give one of them")
    env, task = last_value(arguments, "--env"), last_value(arguments, "--task")
    control = make_control_config(env) if env else make_control_config()
    text = make_text_config()
    if arguments[:2] == ["train", "text"] and task:
        from tfppo.text.tasks import get_task

        text = make_text_config(task=task, **get_task(task).defaults)
    return {
        TrainControl: TrainControl(run=control.run, control=control.control, ppo=control.ppo),
        TrainText: TrainText(run=text.run, text=text.text, ppo=text.ppo),
        Bench: Bench(run=control.run, control=control.control, ppo=control.ppo),
    }


def _with_new_options(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with the present names of options of version 0.1, and says what they are."""
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
