"""The user's own code, imported by name: a reward, an environment."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from tfppo.errors import UsageError, one_line


def import_named(module: str, said: str) -> ModuleType:
    """The module of a dotted name. As with `python -m`, the current folder is put on the path, and stays there for what
    the module itself may import later.

    Args:
      module: its dotted name.
      said: what named it, to begin an error with.

    Raises:
      UsageError: if it cannot be imported, for whatever reason.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()  # the module may have been written a moment ago, from a notebook
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever it does when it is imported
        reason = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
        raise UsageError(
            f"{said}: module {module} cannot be imported ({reason}); give a module that is in this folder or "
            "installed, by its dotted name"
        ) from error
