"""Imports the user's own modules, which the command line or a setting names, and names the user's own objects.

Importing a module runs its code. If the name comes from a file, the user must confirm it first, see
`run_folder.read_confirmed`.
"""

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType

from tfppo.errors import UsageError, kind_and_text

MAIN = "__main__"


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


def load_named(reference: str, option: str, wanted: str) -> object:
    """Imports an object by its name.

    Args:
      reference: "package.module:name"; the part after the colon may contain dots.
      option: Name of the setting, "reward" or "task". It is the beginning of the error.
      wanted: What the name must stand for in the module, such as "function".

    Returns:
      The object.

    Raises:
      UsageError: If the reference has another form, the module cannot be imported, or it has no such attribute.
    """
    module_name, _, attribute = reference.partition(":")
    if not (module_name and attribute):
        raise UsageError(
            f"{option} is {reference!r}; it must have the form package.module:{wanted}: give a module that can be "
            f"imported, a colon, and the name of a {wanted} in it"
        )
    module = import_named(module_name, f"{option} {reference!r}")
    try:
        return functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise UsageError(
            f"{option} {reference!r}: module {module_name} ({getattr(module, '__file__', None) or 'no file'}) has no "
            f"{attribute}: give the name of a {wanted} that it defines"
        ) from None


def name_of(thing: object, described: str) -> str:
    """Returns the name by which `load_named` finds an object, or a description if there is no such name.

    A script that runs as `__main__` is named after its file, because another program can only import it by that name.

    Args:
      thing: A function, or any other object.
      described: Name of the object in the description.

    Returns:
      "package.module:name", or "package.module:<described>", see `is_importable`.
    """
    module_name, qualified = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if isinstance(module_name, str) and isinstance(qualified, str):
        if _find(module_name, qualified) is thing:
            return f"{_imported_as(module_name)}:{qualified}"
    else:
        module_name = type(thing).__module__
    script = sys.modules.get(MAIN)  # it comes last; another module may be an alias of it, as multiprocessing makes one
    others = [(other, module) for other, module in sys.modules.items() if module is not script]
    for other, module in [*others, (MAIN, script)]:
        for name, value in list(vars(module).items()) if isinstance(module, ModuleType) else ():
            if value is thing:
                return f"{_imported_as(other)}:{name}"
    return f"{_imported_as(module_name)}:<{described}>"


def is_importable(name: str) -> bool:
    """Returns True if `load_named` may find an object by this name in another process.

    A notebook cannot be imported. Neither can a lambda, a local function, or an object that no module keeps.

    Args:
      name: A name of `name_of`.
    """
    return "<" not in name and name.partition(":")[0] != MAIN


def same_name(one: str, other: str) -> bool:
    """Returns True if two names may stand for the same object.

    The folder of a script is not part of the comparison: `text_reward:asks` is also `examples.text_reward:asks`.

    Args:
      one: "package.module:name", or a name without a colon. Several have commas between them.
      other: The same.
    """

    def plain(names: str) -> list[tuple[str, str]]:
        parts = [name.strip().partition(":") for name in names.split(",")]
        return [(module.split(".")[-1], name) for module, _, name in parts]

    return plain(one) == plain(other)


def _find(module_name: str, qualified: str) -> object | None:
    try:
        return functools.reduce(getattr, qualified.split("."), sys.modules[module_name])
    except (AttributeError, KeyError):
        return None


def _imported_as(module_name: str) -> str:
    """Returns the name by which another program imports a module of this program."""
    if module_name != MAIN:
        return module_name
    main = sys.modules[MAIN]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    return Path(path).stem if path else MAIN  # no file: a notebook or an interactive session
