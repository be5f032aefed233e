"""Tests the rules of the code: imports between rooms, size of modules, and docstrings."""

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import tfppo

PACKAGE = Path(tfppo.__file__).parent

# A room imports only rooms to its left. Rooms in the same group do not import each other.
ROOMS = (
    "errors deprecated settings < ops < execution < ppo < reporting < training < control text assets"
    " < article saved_runs < cli"
)
LEVELS = [group.split() for group in ROOMS.split("<")]
LEVEL_OF = {room: level for level, group in enumerate(LEVELS) for room in group}
WITHIN_LEVEL = {("settings", "errors"), ("settings", "deprecated")}  # the only imports between rooms of one group
OUTSIDE = ["__init__", "__main__"]  # modules without a room: the public names, and the start of the command line
WITHOUT_TENSORFLOW = [  # importing these modules must not import TensorFlow
    "errors",
    "deprecated",
    "saved_runs",
    "settings",
    "execution.onednn",
    "execution.tf_config",
    "execution.xla_cache",
    "ppo.config",
    "control",
    "control.recipes",
    "text",
    "text.config",
    "text.defaults",
    "text.supervised",
    "text.supervised.config",
    "text.sft",
    "text.sft.config",
    "text.pretrain",
    "text.pretrain.config",
    "text.reward_model",
    "text.reward_model.config",
    "training.config",
    "control.config",
    "cli",
    "cli.bench",
    "cli.command_line",
    "cli.models",
    "cli.parsing",
    "cli.runs",
    "cli.seeds",
    "cli.startup",
    "cli.tasks",
    "cli.train",
    "__main__",
    "__init__",
]
MAY_PRINT = [
    "training.driver",
    "control.trainer",
    "control.video",
    "text.trainer",
    "text.rollouts.rollout_file",
    "text.supervised.run",
    "text.data.archives",
    "text.data.rebuild",
    "reporting.console",
    "reporting.diagnoses",
    "cli.startup",
    "cli.seeds",
    "cli.runs",
    "cli.tasks",
    "cli.bench",
    "cli.command_line",
    "article",
]
MAX_LINES = 300  # in a module, without docstrings
MAX_MODULES = 14  # in a folder


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PATHS = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}
every_module = pytest.mark.parametrize("name", list(PATHS))


def imports(tree, inside_functions=True):
    """Returns the absolute names of imported modules. `from a import b` gives a.b if that is a module."""
    nodes = ast.walk(tree) if inside_functions else top_level(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below.removeprefix("tfppo.") in PATHS else node.module


def top_level(node):
    """Yields the nodes that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not is_for_types(child):
            yield child
            yield from top_level(child)


def is_for_types(node):
    """Returns True for `if TYPE_CHECKING:`, whose contents only type checkers read."""
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def own_imports(tree):
    """Returns the tfppo modules that a module imports."""
    names = {name for name in imports(tree) if name.split(".")[0] == "tfppo"}
    return {name.removeprefix("tfppo.") if name != "tfppo" else "__init__" for name in names}


def foreign_imports(tree, inside_functions=True):
    """Returns the other packages that a module imports, without the standard library."""
    roots = {name.split(".")[0] for name in imports(tree, inside_functions)}
    return roots - set(sys.stdlib_module_names) - {"tfppo"}


def room_of(name):
    """Returns the room of a module, which is a folder or module directly below the package."""
    return name.split(".")[0]


def folder_of(name):
    """Returns the innermost folder of a module: a room or a part of a room."""
    return name if PATHS[name].name == "__init__.py" else name.rpartition(".")[0]


def cycle_in(arrows):
    """Returns a cycle of imports in a mapping of names to imported names, or None if there is no cycle."""
    done = set()

    def search(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(arrows[name]):
                if found := search(other, [*path, name]):
                    return found
            done.add(name)
        return None

    return next((found for name in arrows if (found := search(name, []))), None)


def test_every_module_has_a_room():
    assert {room_of(name) for name in PATHS} == {*LEVEL_OF, *OUTSIDE}


@every_module
def test_a_room_imports_only_rooms_to_its_left(name):
    own = own_imports(TREES[name])
    assert own <= set(PATHS), f"{name} imports what is no module: {own - set(PATHS)}"
    room = room_of(name)
    if room in OUTSIDE:
        return
    others = {room_of(other) for other in own} - {room}
    wrong = {o for o in others if not (LEVEL_OF[o] < LEVEL_OF[room] or (room, o) in WITHIN_LEVEL)}
    assert not wrong, f"{name} imports {wrong}, not to the left of {room}"


def test_modules_do_not_import_in_circles():
    assert cycle_in({name: own_imports(tree) for name, tree in TREES.items()}) is None


def test_a_circle_is_found():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_parts_of_a_room_do_not_import_in_circles():
    arrows = {folder_of(name): set() for name in PATHS}
    for name, tree in TREES.items():
        for other in own_imports(tree):
            inner, outer = folder_of(name), folder_of(other)
            if inner != outer and "." in inner and "." in outer and room_of(name) == room_of(other):
                arrows[inner].add(outer)
    assert cycle_in(arrows) is None


def test_a_folder_holds_at_most_so_many_modules():
    folders = [path.parent for path in PATHS.values()]
    assert {str(f): n for f in folders if (n := folders.count(f)) > MAX_MODULES} == {}


MATHEMATICS = [name for name in PATHS if name.startswith("ops.")]


@pytest.mark.parametrize("name", MATHEMATICS)
def test_mathematics_knows_tensorflow_and_nothing_else(name):
    assert {room_of(other) for other in own_imports(TREES[name])} <= {"ops"}
    assert foreign_imports(TREES[name]) <= {"tensorflow", "tensorflow_probability"}
    assert foreign_imports(TREES[name], inside_functions=False) == {"tensorflow"}


@pytest.mark.parametrize("name", WITHOUT_TENSORFLOW)
def test_what_answers_at_once_does_not_import_tensorflow(name):
    reached, ahead = set(), {name}
    while ahead:
        module = ahead.pop()
        reached.add(module)
        tree = ast.Module([node for node in top_level(TREES[module]) if isinstance(node, ast.stmt)], [])
        imported = own_imports(ast.Module([n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))], []))
        ahead |= imported - reached
    heavy = {"tensorflow", "keras", "gymnasium", "tensorboard", "matplotlib", "tensorflow_probability", "numpy"}
    assert not {package for module in reached for package in foreign_imports(TREES[module], False)} & heavy


def lines_of_docstrings(tree):
    """Returns the number of lines of docstrings, including those below attributes."""
    bodies = [getattr(node, "body", []) for node in ast.walk(tree)]
    statements = [statement for body in bodies if isinstance(body, list) for statement in body]
    texts = [s for s in statements if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)]
    return sum(s.end_lineno - s.lineno + 1 for s in texts if isinstance(s.value.value, str))


@every_module
def test_a_module_is_of_a_readable_size(name):
    assert len(PATHS[name].read_text().splitlines()) - lines_of_docstrings(TREES[name]) <= MAX_LINES


def test_no_module_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
    assert not {part for name in PATHS for part in name.split(".")} & drawers


@every_module
def test_no_except_catches_everything_unnamed(name):
    bare = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert bare == []


@every_module
def test_only_faces_print(name):
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not prints or name in MAY_PRINT, prints


def is_protocol(node):
    return any(getattr(base, "id", None) == "Protocol" for base in node.bases)


def public(nodes, *kinds):
    return [node for node in nodes if isinstance(node, kinds) and not node.name.startswith("_")]


CLASSES = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
PROTOCOLS = [node for node in CLASSES if is_protocol(node)]
DOCUMENTED_BY_A_PROTOCOL = {method.name for protocol in PROTOCOLS for method in public(protocol.body, ast.FunctionDef)}


def is_override(module, class_name, method):
    """Returns True if a base class defines the method, and so documents it."""
    cls = getattr(importlib.import_module(f"tfppo.{module}"), class_name)
    return any(method in vars(base) for base in inspect.getmro(cls)[1:])


@every_module
def test_everything_public_is_explained(name):
    tree = TREES[name]
    if not tree.body:
        return  # an empty __init__.py
    assert ast.get_docstring(tree), f"{name} has no docstring"
    missing = []
    for node in public(tree.body, ast.FunctionDef, ast.ClassDef):
        if not ast.get_docstring(node):
            missing.append(node.name)
        if isinstance(node, ast.ClassDef) and not is_protocol(node):
            for method in public(node.body, ast.FunctionDef):
                explained = ast.get_docstring(method) or method.name in DOCUMENTED_BY_A_PROTOCOL
                if not (explained or is_override(name, node.name, method.name)):
                    missing.append(f"{node.name}.{method.name}")
    assert missing == []


def test_protocols_were_found():
    assert {node.name for node in PROTOCOLS} >= {"Policy", "Writer", "Environment"}


@pytest.mark.parametrize("name", tfppo.__all__)
def test_a_public_name_can_be_imported(name):
    public_object = getattr(tfppo, name)
    assert public_object is not None
    if name != "__version__":
        assert public_object.__name__ == name
        assert public_object.__module__ == tfppo._PUBLIC[name]  # the module that defines it
    assert name in dir(tfppo)


def test_type_checkers_see_the_same_public_names():
    (block,) = [node for node in TREES["__init__"].body if is_for_types(node)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names if alias.name == alias.asname}
    assert seen == tfppo._PUBLIC
    assert len(seen) == sum(len(node.names) for node in block.body)


def test_public_names_include_the_documents_class_and_the_settings():
    assert {"PPO", "PPOLearner", "PPOConfig", "ControlConfig", "RunConfig", "UsageError"} <= set(tfppo.__all__)


def test_another_name_is_answered_with_those_that_exist():
    with pytest.raises(AttributeError, match="Learner.*PPOLearner"):
        tfppo.Learner  # noqa: B018
