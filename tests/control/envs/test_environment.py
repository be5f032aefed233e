"""The registry of environments: modules are imported by name."""

import sys

import gymnasium
import pytest
from support.refusal import refusal

from tfppo.control.envs.classic import CartPole
from tfppo.control.envs.environment import IN_GRAPH_ENVIRONMENTS
from tfppo.control.envs.registration import registered_id
from tfppo.control.envs.vector import InGraphVectorEnv, is_only_in_graph, make_vector_environment

MODULE = """
import gymnasium
from tfppo import register_environment
from tfppo.control.envs.classic import CartPole

register_environment("{graph}", CartPole)
gymnasium.register("{python}", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)
"""


def test_a_module_registers_environments_of_both_kinds_when_its_name_is_given(tmp_path, monkeypatch):
    """In the graph, in this process, and in worker processes."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_worlds.py").write_text(MODULE.format(graph="OnlyGraph-v0", python="OnlyPython-v0"))
    assert "OnlyGraph-v0" not in IN_GRAPH_ENVIRONMENTS
    assert registered_id("my_worlds:OnlyGraph-v0") == "OnlyGraph-v0"
    assert IN_GRAPH_ENVIRONMENTS["OnlyGraph-v0"] is CartPole and "OnlyPython-v0" not in IN_GRAPH_ENVIRONMENTS
    assert is_only_in_graph("my_worlds:OnlyGraph-v0") and not is_only_in_graph("my_worlds:OnlyPython-v0")
    assert isinstance(make_vector_environment("my_worlds:OnlyGraph-v0", 2), InGraphVectorEnv)
    for vectorization in ("sync", "async"):
        environment = make_vector_environment("my_worlds:OnlyPython-v0", 2, vectorization)
        assert environment.reset(seed=1)[0].shape == (2, 4)
        environment.close()
    assert "cannot make environment 'my_worlds:Other-v0'" in refusal(
        make_vector_environment, "my_worlds:Other-v0", 2, "async"
    )
    del IN_GRAPH_ENVIRONMENTS["OnlyGraph-v0"], gymnasium.registry["OnlyPython-v0"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "ModuleNotFoundError: No module named 'my_broken_worlds'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(1)", "SystemExit: 1"),
        ("raise ValueError", "(ValueError)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(code, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    if code:
        (tmp_path / "my_broken_worlds.py").write_text(code)
    said = refusal(registered_id, "my_broken_worlds:World-v0")
    assert said.startswith("env 'my_broken_worlds:World-v0': module my_broken_worlds cannot be imported")
    assert reason in said
