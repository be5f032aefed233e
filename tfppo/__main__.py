"""`python -m tfppo` is `tfppo`."""

import sys

from tfppo.cli import main

sys.exit(main())
