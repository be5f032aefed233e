"""The command line: `tfppo ...`, read by tyro from the dataclasses of tfppo/cli."""

import os
import sys
from typing import Annotated

from tyro.conf import subcommand

from tfppo.cli.bench import Bench
from tfppo.cli.models import Pretrain, RewardModel
from tfppo.cli.parsing import parse
from tfppo.cli.runs import Evaluate, Export, Generate, Plot, Resume
from tfppo.cli.train import Train, use_defaults_of_what_is_asked_for
from tfppo.errors import UsageError

Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[RewardModel, subcommand("reward-model")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Resume, subcommand("resume")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Bench, subcommand("bench")]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line; returns its exit code. What the user can mend is one line on stderr, and 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        use_defaults_of_what_is_asked_for(arguments)
        try:
            parse(Command, arguments)()
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


if __name__ == "__main__":
    sys.exit(main())
