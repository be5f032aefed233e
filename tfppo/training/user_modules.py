"""Modules of the user's own, which the command line or a setting names: imported in one place, with every failure in a
line. Importing runs them: whoever reads the name from a file asks first (`runs.read_confirmed`)."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from tfppo.errors import UsageError, kind_and_text


def import_named(module_name: str, what: str) -> ModuleType:
    """The module that is in the current folder or installed, by its dotted name.

    As with `python -m`, the current folder is put on the path, and stays there for what the module itself may import
    later.

    Args:
      module_name: the module.
      what: was given and names it, such as "env 'mine:Spring-v0'", for the error.

    Raises:
      UsageError: if it cannot be imported, for whatever reason.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()  # the module may have been written a moment ago, from a notebook
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise UsageError(
            f"{what}: module {module_name} cannot be imported ({kind_and_text(error)}); give a module that is in this "
            "folder or installed, by its dotted name"
        ) from error
