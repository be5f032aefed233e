"""The trainer: a few iterations on both backends."""

import math
import weakref

import keras
import numpy as np
import pytest

from tfppo.control import trainer as control_trainer
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.rollouts.graph import GraphCollector
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.trainer import CONTROL, ControlTrainer
from tfppo.errors import UsageError
from tfppo.ppo.config import PPOConfig
from tfppo.training.config import RunConfig
from tfppo.training.loop import Iteration


def make_trainer(backend="graph", seed=1, iterations=2, env="CartPole-v1", ppo=None, mode="graph", **control):
    shape = {"num_envs": 8, "rollout_length": 32, "hidden_units": (8,)} | control
    batch_size = shape["num_envs"] * shape["rollout_length"]
    return ControlTrainer(
        ControlRunConfig(
            RunConfig(seed=seed, device="cpu", compile_rollout=mode, compile_update=mode),
            ControlConfig(env=env, backend=backend, total_steps=batch_size * iterations, **shape),
            PPOConfig(**{"minibatch_size": batch_size // 2, "num_epochs": 2, "learning_rate": 0.01} | (ppo or {})),
        )
    )


def weights(trainer):
    return np.concatenate([variable.numpy().reshape(-1) for variable in trainer.policy.trainable_variables])


@pytest.mark.parametrize(("backend", "collector"), [("graph", GraphCollector), ("gymnasium", GymnasiumCollector)])
def test_two_iterations(backend, collector, control_metrics):
    """Writes exactly the documented metrics, all finite, with one trace.

    The same seed gives the same weights, even if the loop is left and started again.
    """
    trainer = make_trainer(backend)
    assert isinstance(trainer.collector, collector) and trainer.in_graph == (backend == "graph")
    before = weights(trainer)
    rows = list(trainer.iterations())
    assert [iteration for iteration, _ in rows] == [0, 1]
    for _, row in rows:
        assert set(row) == set(control_metrics)
        assert all(isinstance(value, float) and math.isfinite(value) for value in row.values()), row
    steps = [row["rollout/env_steps"] for _, row in rows]
    assert 200 < steps[0] <= 256 and 400 < steps[1] <= 512
    assert trainer.env_steps == steps[1] and trainer.iteration == 2
    assert trainer.learner.update.experimental_get_tracing_count() == 1
    assert trainer.compile_seconds > 0
    assert np.abs(weights(trainer) - before).max() > 1e-3
    assert list(trainer.iterations()) == []  # the run has finished
    again = make_trainer(backend)
    lasting = [name for name in control_metrics if not name.startswith("time/")]
    for iteration, row in rows:
        number, same = next(again.iterations())
        assert number == iteration
        assert [same[name] for name in lasting] == [row[name] for name in lasting]
    np.testing.assert_array_equal(weights(again), weights(trainer))
    for each in (trainer, again):
        each.close()


def test_seeds_give_different_networks_noise_and_minibatches():
    one, two = make_trainer(seed=1), make_trainer(seed=2)
    assert np.abs(weights(one) - weights(two)).max() > 1e-2
    for part in ("collector", "learner"):
        assert (getattr(one, part).seed != getattr(two, part).seed).numpy().any()


@pytest.mark.parametrize("backend", ["graph", "gymnasium"])
def test_rollouts_are_strictly_on_policy(backend):
    """With one gradient step an iteration, the weights that evaluate a rollout also collected it: every ratio is 1."""
    ppo = {"minibatch_size": 16, "num_epochs": 1, "learning_rate": 0.3, "learning_rate_schedule": "constant"}
    trainer = make_trainer(backend, iterations=3, num_envs=2, rollout_length=8, ppo=ppo)
    norms = []
    for _, row in trainer.iterations():
        np.testing.assert_allclose(row["policy/ratio_max"], 1.0, rtol=1e-5)
        assert abs(row["policy/approx_kl"]) < 1e-6 and row["policy/clip_fraction"] == 0
        norms.append(row["policy/grad_norm"])
    assert len(norms) == 3 and min(norms) > 0
    trainer.close()


def test_env_steps_leave_out_the_steps_that_only_start_an_episode():
    """Both environments start two episodes in the first eight steps, and two in the next eight.

    Environments 1 and 2 play episodes of 2, 4, 1, 3, 2 and 4, 1, 3, 2, 4 steps, each with one more step to start it.
    """
    trainer = make_trainer("auto", env="Counting-v0", num_envs=2, rollout_length=8)
    assert not trainer.in_graph
    steps = [row["rollout/env_steps"] for _, row in trainer.iterations()]
    assert steps == [12, 24] and trainer.env_steps == 24
    trainer.close()


def test_state_holds_all_that_changes():
    trainer = make_trainer(num_envs=2, rollout_length=4)
    state = trainer.state
    others = ["iteration", "kl_coeff", "guard", "collector", "normalization"]
    assert list(state) == ["actor", "critic", "optimizer", *others]
    assert state["collector"] is trainer.collector.state and len(state["collector"]) > 4
    assert state["optimizer"] is trainer.learner.optimizer and state["iteration"] is trainer.learner.iteration


def test_settings_reach_what_they_set():
    ppo = {"gamma": 0.5, "gae_lambda": 0.25, "minibatch_size": 4}
    trainer = make_trainer(iterations=7, num_envs=2, rollout_length=4, hidden_units=(5, 3), ppo=ppo, activation="relu")
    assert [layer.units for layer in trainer.policy.actor.layers[1:]] == [5, 3, 2]
    assert trainer.normalization.state == []
    assert trainer.policy.critic.layers[1].activation.__name__ == "relu"
    assert trainer.collector.rollout_length == 4 and trainer.collector.state[0].shape == [2, 4]
    assert trainer.rollout_mode == "graph" == trainer.update_mode and trainer.device == "/CPU:0"
    assert trainer.observation_space.shape == (4,)
    rollout = trainer.collector.collect(np.int64(0))
    batch = trainer.learner.prepare(rollout)
    delta = rollout.rewards + 0.5 * rollout.next_values - rollout.values  # no episode ends within four steps
    np.testing.assert_allclose(batch.advantages[-2:], delta[-1], rtol=1e-5)
    np.testing.assert_allclose(batch.advantages[-4:-2], delta[-2] + 0.125 * delta[-1], rtol=1e-5)
    np.testing.assert_allclose(trainer.learner.learning_rate(6), 0.01 / 7, rtol=1e-5)


@pytest.mark.parametrize(
    ("backend", "env", "named"),
    [
        (
            "graph",
            "FrozenLake-v1",
            r"env is 'FrozenLake-v1'; backend graph allows only in-graph environments \(CartPole-v1, Acrobot-v1",
        ),
        ("auto", "NoSuchGame-v0", r"cannot make environment 'NoSuchGame-v0'"),
        ("auto", "Words-v0", r"observation space Text\("),
    ],
)
def test_environments_that_do_not_fit_are_refused(backend, env, named):
    with pytest.raises(UsageError, match=named):
        make_trainer(backend, env=env)


def test_a_policy_that_remembers_the_episode():
    """Minibatches hold environments with all steps of a rollout, and the ratio is 1 at first (statement 24)."""
    ppo = {"minibatch_size": 64, "num_epochs": 1, "learning_rate": 1e-9}
    trainer = make_trainer(num_envs=4, rollout_length=32, lstm_units=6, iterations=3, ppo=ppo)
    assert trainer.policy.is_recurrent and trainer.learner.items_per_minibatch == 2
    for _, row in trainer.iterations():
        assert row["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
        assert row["loss/kl"] == pytest.approx(0, abs=1e-9)
    memory = trainer.collector.collect(np.int64(3)).memory
    assert [part.shape for part in memory] == [[4, 6]] * 4 and np.abs(memory[0]).max() > 0


def test_memory_is_that_of_the_episode_alone():
    """The distributions that were sampled step by step equal those of each episode evaluated from an empty memory."""
    trainer = make_trainer(num_envs=3, rollout_length=64, lstm_units=5, ppo={"minibatch_size": 64})
    rollout = trainer.collector.collect(np.int64(0))
    mask = rollout.mask.numpy()
    assert (~mask).sum() >= 3
    for b in range(3):
        starts = [0, *(np.flatnonzero(~mask[:, b]) + 1)]
        for start, stop in zip(starts, [*starts[1:], 64], strict=True):
            if start == stop:
                continue
            episode = rollout.observations[start:stop, b : b + 1]
            alone, values = trainer.policy.evaluate_trajectory(
                episode, np.ones([stop - start, 1], bool), trainer.policy.initial_memory(1)
            )
            np.testing.assert_allclose(
                alone.logits[:, 0], rollout.distribution.logits[start:stop, b], rtol=1e-4, atol=1e-6
            )
            np.testing.assert_allclose(values[:, 0], rollout.values[start:stop, b], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("control", "named"),
    [
        ({"lstm_units": 4, "shared_trunk": True}, "shared_trunk"),
        ({"backend": "gymnasium", "fused": True}, "fused"),
        ({"backend": "graph", "vectorization": "sync"}, "vectorization is sync; .* is an in-graph environment here"),
        ({"backend": "auto", "vectorization": "async", "double_buffer": True}, "async with double_buffer"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(control, named):
    with pytest.raises(UsageError, match=named):
        make_trainer(**control)


@pytest.mark.slow
def test_a_recurrent_policy_on_gymnasiums_environment():
    trainer = make_trainer("gymnasium", num_envs=2, rollout_length=16, lstm_units=4, ppo={"minibatch_size": 16})
    for _, row in trainer.iterations():
        assert math.isfinite(row["loss/total"])
    trainer.close()


@pytest.mark.slow
def test_an_environment_of_the_users_own(tmp_path):
    from tfppo import register_environment
    from tfppo.control import run
    from tfppo.control.envs.classic import CartPole
    from tfppo.training import driver

    class Short(CartPole):
        max_episode_steps = 20

    register_environment("Short-v0", Short)
    trainer = make_trainer(env="Short-v0")
    assert trainer.in_graph and len(list(trainer.iterations())) == 2
    config = ControlRunConfig(
        RunConfig(runs_dir=tmp_path, device="cpu"),
        ControlConfig(env="Short-v0", num_envs=2, rollout_length=8, total_steps=16, hidden_units=(4,), eval_episodes=3),
        PPOConfig(minibatch_size=8, num_epochs=1),
    )
    assert driver.evaluate(CONTROL, run.train_control(config), 3)[0]["max"] <= 20
    with pytest.raises(UsageError, match="Short-v0 is already registered"):
        register_environment("Short-v0", CartPole)


def test_models_of_the_users_own():
    def model(units):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(7, "relu"), keras.layers.Dense(units)])

    config = make_trainer().config
    actor, critic = model(2), model(1)
    trainer = ControlTrainer(config, actor=actor, critic=critic)
    assert trainer.policy.actor is actor and trainer.policy.critic is critic
    before = actor.get_weights()[0].copy()
    next(trainer.iterations())
    assert np.abs(actor.get_weights()[0] - before).max() > 0
    with pytest.raises(UsageError, match=r"\(None, 3\)"):
        ControlTrainer(config, actor=model(3))
    with pytest.raises(UsageError, match=r"\(None, 2\)"):
        ControlTrainer(config, critic=model(2))


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    "settings",
    [
        {"backend": "gymnasium"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"lstm_units": 4, "rollout_length": 4}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_advantages_recomputed_before_each_epoch(settings):
    """In the first epoch they are those of the rollout; in the second they differ, because the critic has changed."""
    trained = {}
    for epochs in (1, 2):
        for recompute in (False, True):
            ppo = {"num_epochs": epochs, "recompute_advantages": recompute, "value_coeff": 5.0}
            trainer = make_trainer(iterations=1, ppo=ppo, mode="eager", **settings)
            list(trainer.iterations())
            trainer.close()
            trained[epochs, recompute] = weights(trainer)
    np.testing.assert_allclose(trained[1, True], trained[1, False], rtol=1e-4, atol=1e-5)
    assert np.abs(trained[2, True] - trained[2, False]).max() > 1e-4


def test_a_rollout_is_not_kept_until_the_next_one(monkeypatch):
    kept = []

    def made():
        rollout = type("Rollout", (), {})()
        kept.append(weakref.ref(rollout))
        return rollout

    monkeypatch.setattr(
        control_trainer, "train_iterations", lambda *_: (Iteration(number, {}, 1.0, made()) for number in range(3))
    )
    for _ in make_trainer(mode="eager").iterations():
        assert kept[-1]() is None
    assert len(kept) == 3
