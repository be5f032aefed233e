"""The house's rules: who may import whom, how large a module may be, what has to be explained."""

import ast
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import tfppo

PACKAGE = Path(tfppo.__file__).parent

# A module imports modules of lower floors, or those before it on its own floor. A new module takes its place here.
FLOORS = [
    ["errors"],
    ["masking", "random", "divergences", "distributions", "normals", "returns", "losses"],
    ["types", "state", "guards", "settings", "cluster", "config", "control", "control.recipes", "text", "text.config"],
    [
        "placement",
        "replicas",
        "mirrored",
        "multiworker",
        "distribute",
        "pipeline",
        "schedules",
        "writers",
        "tensorboard",
        "diagnoses",
        "checkpoints",
        "locks",
        "runs",
        "modules",
        "curves",
        "comparison",
    ],
    ["objective", "learner", "loop", "sessions"],
    [
        "control.environments",
        "control.classic.cartpole",
        "control.classic.mountain_car",
        "control.classic.pendulum",
        "control.classic.acrobot",
        "control.classic",
        "control.actions",
        "control.encoders",
        "control.networks",
        "control.normalization",
        "control.policy",
        "control.lstm",
        "control.recurrent",
        "control.statistics",
        "control.rollout",
        "control.fused",
        "control.transitions",
        "control.archive",
        "control.replay",
        "control.workers",
        "control.envpool",
        "control.vector",
        "control.snapshots",
        "control.stepping",
        "control.gymnasium",
        "control.train",
        "control.evaluate",
        "control.export",
        "control.video",
        "control.run",
        "control.bench",
    ],
    [
        "text.corpus",
        "text.tokenizer",
        "text.transformer",
        "text.lstm",
        "text.vetting",
        "text.presets",
        "text.likelihood",
        "text.pretrain",
        "text.metrics",
        "text.rewards",
        "text.tasks.task",
        "text.tasks.keywords",
        "text.tasks.length",
        "text.language_model",
        "text.gpt2",
        "text.lora",
        "text.reference",
        "text.preferences",
        "text.tasks.sentiment",
        "text.tasks",
        "text.sampling",
        "text.codec",
        "text.policy",
        "text.rollout",
        "text.train",
        "text.evaluate",
        "text.samples",
        "text.run",
    ],
    [
        "data",
        "data.rebuild",
        "ppo",
        "xla_cache",
        "startup",
        "parsing",
        "seeds",
        "commands",
        "commands.train",
        "commands.models",
        "commands.runs",
        "commands.bench",
        "cli",
        "__main__",
        "__init__",
    ],
]
ORDER = [name for floor in FLOORS for name in floor]
MATHEMATICS = FLOORS[1]
APPLICATIONS = ["control", "text"]  # which never import each other
WITHOUT_TENSORFLOW = [
    "errors",
    "settings",
    "cluster",
    "config",
    "control",
    "control.recipes",
    "text",
    "text.config",
    "xla_cache",
    "startup",
    "seeds",
    "commands",
    "commands.train",
    "commands.models",
    "commands.runs",
    "commands.bench",
    "cli",
    "__main__",
    "__init__",
]  # until they are told to
MAY_PRINT = [
    "sessions",
    "control.run",
    "text.run",
    "text.pretrain",
    "text.preferences",
    "data.rebuild",
    "writers",
    "diagnoses",
    "startup",
    "seeds",
    "commands.runs",
    "commands.bench",
    "cli",
    "ppo",
]
MAX_LINES = 260


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PATHS = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in PATHS.items()}
every_module = pytest.mark.parametrize("name", list(PATHS))


def imports(tree, inside_functions=True):
    """The absolute names of what a module imports: `import a.b`, `from a import b` as a.b where that is a module."""
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
    """What runs when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from top_level(child)


def own_imports(tree):
    """The tfppo modules that a module imports."""
    names = {name for name in imports(tree) if name.split(".")[0] == "tfppo"}
    return {name.removeprefix("tfppo.") if name != "tfppo" else "__init__" for name in names}


def foreign_imports(tree, inside_functions=True):
    """The other packages that a module imports, without Python's own."""
    roots = {name.split(".")[0] for name in imports(tree, inside_functions)}
    return roots - set(sys.stdlib_module_names) - {"tfppo"}


def test_every_module_has_its_floor():
    assert len(ORDER) == len(set(ORDER))
    assert sorted(PATHS) == sorted(ORDER)


@every_module
def test_a_module_imports_only_what_lies_below_it(name):
    own = own_imports(TREES[name])
    assert own <= set(ORDER), f"{name} imports what is no module: {own - set(ORDER)}"
    below = set(ORDER[: ORDER.index(name)])
    assert own <= below, f"{name} imports {own - below}, which is not below it"


@every_module
def test_applications_do_not_import_each_other(name):
    room = name.split(".")[0]
    if room in APPLICATIONS:
        others = {other for other in own_imports(TREES[name]) if other.split(".")[0] in APPLICATIONS}
        assert all(other.split(".")[0] == room for other in others)


@pytest.mark.parametrize("name", MATHEMATICS)
def test_mathematics_knows_tensorflow_and_nothing_else(name):
    assert own_imports(TREES[name]) <= set(MATHEMATICS)
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


@every_module
def test_a_module_is_of_a_readable_size(name):
    assert len(PATHS[name].read_text().splitlines()) <= MAX_LINES


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
    """Whether a base class says already what the method is for."""
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
        assert public_object.__module__ == tfppo._PUBLIC[name]  # from where it is defined
    assert name in dir(tfppo)


def test_public_names_include_the_documents_class_and_the_settings():
    assert {"PPO", "PPOLearner", "PPOConfig", "ControlConfig", "RunConfig", "UsageError"} <= set(tfppo.__all__)


def test_another_name_is_answered_with_those_that_exist():
    with pytest.raises(AttributeError, match="Learner.*PPOLearner"):
        tfppo.Learner  # noqa: B018
