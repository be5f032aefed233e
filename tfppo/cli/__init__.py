"""The command line."""

from tfppo.cli.command_line import main

__all__ = ["main"]
