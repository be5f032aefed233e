"""Imports the user's own modules, which the command line or a setting names.

Importing a module runs its code. If the name comes from a file, the user must confirm it first, see
`run_folder.read_confirmed`.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from tfppo.errors import UsageError, kind_and_text


def import_named(module_name: str, what: str) -> ModuleType:
    """Imports a module that is installed or in the current folder.

    As with `python -m`, the current folder is added to `sys.path`. It stays there, because the module may import other
    modules later.

    Args:
      module_name: Dotted name of the module.
      what: The setting that names the module, such as "env 'mine:Spring-v0'". It is the beginning of the error.

    Returns:
      The module.

    Raises:
      UsageError: If the import fails for any reason.
    """
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()  # a notebook may have written the module a moment ago
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module can raise anything
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        if is_missing or module_name.startswith("."):
            advice = "give the dotted name of a module that is installed or in the current folder"
        else:
            advice = "correct the module, or install what it imports"
        raise UsageError(
            f"{what}: module {module_name} cannot be imported ({kind_and_text(error)}): {advice}"
        ) from error
