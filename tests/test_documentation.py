"""README and the documentation: their links lead somewhere, their commands can be parsed, and their Python runs.

A comment above a fenced block tells these tests what to do with it:

    <!-- test: file catch.py -->    the block is this file, which later blocks of the page may import
    <!-- test: run -->              the `tfppo` commands of this shell block are run too, not only parsed
    <!-- test: skip, why -->        the block is not run
"""

import ast
import importlib
import itertools
import json
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote

import gymnasium
import pytest
from support.pages import PARSER, anchors_of, blocks

from tfppo import PPO, ControlTrainer, PPOLearner, TextTrainer, cli
from tfppo.cli import command_line
from tfppo.control.config import ControlRunConfig
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.reporting.metrics import METRICS
from tfppo.settings import with_settings
from tfppo.text.config import TextRunConfig
from tfppo.text.tasks.definition import registry as task_registry

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
GUIDE = [page for page in PAGES if page.parent.name == "guide" or page.name == "getting-started.md"]
SHELL = ("sh", "bash", "shell", "console")
MAX_SKIPPED = 0.1  # of all Python blocks
SLOW = (
    "language-models.md",
    "rewards.md",
    "environments.md",
    "evaluation-and-export.md",
    "fit-and-callbacks.md",
    "getting-started.md",
    "networks.md",
    "own-data.md",
    "reward-models.md",
    "runs-and-resume.md",
    "sketch.md",
    "supervised-fine-tuning.md",
    "three-steps.md",
)


def of_pages(pages, languages):
    """Parameters (page, block), with a name that says where each is."""
    return [
        pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{block.line}")
        for page in pages
        for block in blocks(page)
        if block.language in languages
    ]


# Links


def inline_tokens(page):
    for token in PARSER.parse(page.read_text()):
        yield token
        yield from token.children or []


def links_of(page):
    for token in inline_tokens(page):
        yield from (str(token.attrs[name]) for name in ("href", "src") if name in token.attrs)
        if token.type in ("html_block", "html_inline"):
            yield from re.findall(r"""(?:href|src)=["']([^"']+)""", token.content)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_an_anchor(page):
    for link in links_of(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{link}: the page has no such heading"


# Commands


def commands_of(code):
    """The simple commands of a shell script, as lists of words, without variables that are set for them."""
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_operator, words in itertools.groupby(lexer, lambda word: not set(word) - set("();<>|&")):
            command = list(itertools.dropwhile(lambda word: re.match(r"export$|[A-Z_]+=", word), words))
            if command and not is_operator:
                yield command


def check_tfppo(arguments, monkeypatch, capsys):
    """Asserts that the command line accepts the arguments and the settings that they make."""

    def parse_only(*given):
        command = parse(*given)
        if hasattr(command, "control"):
            ControlRunConfig(command.run, command.control, command.ppo)
        elif hasattr(command, "text"):
            TextRunConfig(command.run, command.text, command.ppo)
        return lambda: None

    parse = command_line.parse
    with monkeypatch.context() as patched:
        patched.setattr(command_line, "parse", parse_only)
        try:
            code = cli.main(arguments)
        except SystemExit as ending:  # of --help
            code = ending.code
    assert code == 0, f"tfppo {shlex.join(arguments)}: {capsys.readouterr().err}"


@pytest.mark.parametrize(("page", "block"), of_pages(PAGES, SHELL))
def test_every_command_can_be_parsed(page, block, monkeypatch, capsys):
    makefile = (ROOT / "Makefile").read_text()
    for program, *words in commands_of(block.code):
        if Path(program).name == "tfppo":
            check_tfppo(words, monkeypatch, capsys)
        elif program == "make":
            values = dict(word.split("=", 1) for word in words if "=" in word)
            targets = [word for word in words if "=" not in word and not word.startswith("-")]
            for target in targets:
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}: no such target"
            for name in values:
                assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), f"make {name}=...: no such variable"
            for target, command in {"train-cartpole": "train cartpole", "train-textgen": "train text"}.items():
                if target in targets:
                    check_tfppo([*command.split(), *shlex.split(values.get("ARGS", ""))], monkeypatch, capsys)
        elif Path(program).name == "python" and words[0].endswith(".py"):
            own = [one.marker for one in blocks(page)]
            assert (ROOT / words[0]).exists() or f"file {words[0]}" in own, f"{words[0]}: no such file"


def every_option(group=command_line.COMMANDS):
    from tfppo.cli.parsing import Group, _options

    for command in group.commands.values():
        yield from every_option(command) if isinstance(command, Group) else _options(command)


@pytest.mark.parametrize("page", GUIDE, ids=lambda page: page.stem)
def test_every_option_that_the_guide_names_exists(page):
    options = {*every_option(), "--help"}
    for token in inline_tokens(page):
        if token.type == "code_inline" and token.content.startswith(("tfppo ", "--")):
            named = re.findall(r"(?<!\S)--[a-z0-9-]+", token.content)
            assert set(named) <= options, f"`{token.content}` is no option of tfppo"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_metrics_that_a_page_names_exist(page):
    for token in inline_tokens(page):
        if token.type == "code_inline":
            path, _, test = token.content.partition("::")
            if re.fullmatch(r"(tfppo|tests|examples|benchmarks|docs)/[\w/.-]+\.[a-z]+", path):
                assert (ROOT / path).exists(), f"{path}: no such file"
                assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path} has no {test}"
            if re.fullmatch(rf"({'|'.join({name.split('/')[0] for name in METRICS})})/[a-z0-9_]+", token.content):
                one_of_many = token.content.split("/")[0] + "/<name>"  # such as reward/<name>
                assert {token.content, one_of_many} & METRICS.keys(), f"{token.content} is no metric"


# Python


@pytest.fixture
def trained(monkeypatch, preset):
    """Makes every run small and compiles less; gives the kinds of trainers that are made.

    A config is made as it is written, so its settings are checked at full size.
    """
    kinds = []

    def shrink(kind, settings):
        make = kind.__init__

        def make_small(self, config, *args, **options):
            kinds.append(kind)
            make(self, with_settings(config, settings(config, options)), *args, **options)

        monkeypatch.setattr(kind, "__init__", make_small)

    def small_text(config, options):
        given = options.get("model") or config.text.preset
        return TEXT | ({} if given else {"preset": preset})

    learn, make_learner = PPO.learn, PPOLearner.__init__
    shrink(ControlTrainer, lambda config, options: CONTROL)
    shrink(TextTrainer, small_text)
    monkeypatch.setattr(PPO, "learn", lambda self, **settings: learn(self, **settings | {"train_steps": 2}))
    eager = {"mode": "eager"}
    monkeypatch.setattr(PPOLearner, "__init__", lambda *args, **options: make_learner(*args, **eager | options))
    return kinds


CONTROL = {"num_envs": 4, "rollout_length": 16, "minibatch_size": 32, "num_epochs": 1, "total_steps": 128}
CONTROL |= {
    "eval_episodes": 2,
    "validation_episodes": 2,
    "video_episodes": 0,
    "compile_rollout": "eager",
    "compile_update": "eager",
}
TEXT = {"batch_size": 4, "minibatch_size": 4, "num_epochs": 1, "iterations": 2, "eval_prompts": 4}
TEXT |= {"prompt_length": 40, "response_length": 4, "stop_after": 0, "compile_update": "eager"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own that modules are imported from; what they register is forgotten again."""
    registries = IN_GRAPH_ENVIRONMENTS, task_registry._TASKS, gymnasium.registry, sys.modules
    before = [dict(registry) for registry in registries]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(entry for entry in sys.path if entry)])
    yield tmp_path
    *registered, modules = before
    for registry, entries in zip(registries, registered, strict=False):
        registry.clear()
        registry.update(entries)
    for name in set(sys.modules) - set(modules):
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def run_page(page, folder):
    """Runs the Python of a page from its beginning to its end, in one namespace, and what else is marked."""
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        verb, _, rest = block.marker.partition(" ")
        if verb == "file":
            (folder / rest).write_text(block.code)
            if rest.endswith(".py"):
                importlib.invalidate_caches()
                importlib.import_module(Path(rest).stem)
        elif verb == "run":
            for program, *words in commands_of(block.code):
                if program == "tfppo":
                    assert cli.main(words) == 0, f"tfppo {shlex.join(words)}"
        elif block.language == "python" and verb != "skip,":
            exec(compile("\n" * block.line + block.code, str(page), "exec"), namespace)


def without_words(code):
    """Removes the comments and docstrings of a block, which a translation changes."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree)


def pages_with_python():
    """Returns the pages whose Python is run, as parameters. A translation of another page is not run again."""
    pages = {}
    for page in PAGES:
        code = tuple(without_words(block.code) for block in blocks(page) if block.language == "python")
        if code:
            pages.setdefault(code, page)
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] * (page.name in SLOW))
        for page in pages.values()
    ]


@pytest.mark.parametrize("page", pages_with_python())
def test_the_python_of_a_page_runs(page, folder, trained):
    run_page(page, folder)
    if page == ROOT / "README.md":
        assert {ControlTrainer, TextTrainer} <= set(trained), "README.md must show control and text"


def test_few_blocks_are_skipped_and_each_says_why():
    python = [block for page in PAGES for block in blocks(page) if block.language == "python"]
    skipped = [block for block in python if block.marker.startswith("skip")]
    assert all(re.fullmatch(r"skip, .{10,}", block.marker) for block in skipped)
    assert len(skipped) <= MAX_SKIPPED * len(python)
    markers = {block.marker.split()[0] for page in PAGES for block in blocks(page) if block.marker}
    assert markers <= {"file", "run", "skip,"}


@pytest.mark.slow
def test_the_first_python_of_getting_started_learns(folder, capsys):
    first = next(block for block in blocks(ROOT / "docs/getting-started.md") if block.language == "python")
    exec(compile(first.code, "getting-started.md", "exec"), {})
    assert float(capsys.readouterr().out.strip().splitlines()[-1].split()[1]) >= 475


@pytest.mark.slow
def test_the_environment_of_the_guide_learns(folder, capsys):
    """By the page's own commands, which find it in the folder that it is in."""
    page = ROOT / "docs/guide/environments.md"
    (catch,) = [block for block in blocks(page) if block.marker == "file catch.py"]
    (folder / "catch.py").write_text(catch.code)
    commands = [words for block in blocks(page) for words in commands_of(block.code) if "catch:Catch-v0" in words]
    assert [words[1] for words in commands] == ["train", "evaluate"]
    for _, *words in commands:
        assert cli.main(words) == 0
    evaluation = json.loads((folder / "runs" / "catch-Catch-v0-seed1" / "evaluation.json").read_text())
    assert evaluation["mean"] >= 0.95 and evaluation["stochastic"]["mean"] >= 0.9
    assert f"of catch:Catch-v0: {evaluation['mean']:.1f}" in capsys.readouterr().out
