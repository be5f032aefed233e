"""Runs the command line with `python -m tfppo`."""

import sys

from tfppo.cli import main

sys.exit(main())
