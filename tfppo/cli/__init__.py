"""Defines the command line, `tfppo ...`."""

from tfppo.cli.command_line import main

__all__ = ["main"]
