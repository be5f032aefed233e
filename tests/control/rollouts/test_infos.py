"""Numbers in the infos of environments become metrics: the same in every autoreset mode, compared with a deque."""

from collections import deque
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import tfppo
from tfppo.control.policies.actor_critic import ActorCriticPolicy
from tfppo.control.policies.heads import make_head
from tfppo.control.policies.networks import make_actor, make_critic
from tfppo.control.rollouts.gymnasium import GymnasiumCollector
from tfppo.control.rollouts.infos import MAX_NUMBERS, InfoStatistics
from tfppo.control.rollouts.statistics import WINDOW
from tfppo.reporting.csv_writer import CsvWriter
from tfppo.training import driver

LENGTHS = (2, 5, 3, 1)


class Reaching(gymnasium.Env):
    """Episodes of known lengths; the infos give the step and, in every second episode, whether it is the fifth."""

    observation_space = spaces.Box(-1, 1, [2], np.float32)
    action_space = spaces.Discrete(2)
    episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return np.zeros(2, np.float32), {"is_new": True, "name": "first"}

    def step(self, action):
        self.steps += 1
        length = LENGTHS[self.episode % len(LENGTHS)]
        infos = {"steps": self.steps, "place": np.ones(3), "text": "a", "more": {"deep": 1.0}, "none": None}
        if self.episode % 2:
            infos["is_success"] = self.steps == 5
        return np.zeros(2, np.float32), 1.0, self.steps == length, False, infos


class Drawn(gymnasium.Env):
    """Episodes whose length is drawn, and whose last info says whether it was long."""

    observation_space, action_space = Reaching.observation_space, Reaching.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.length, self.steps = self.np_random.integers(1, 6), 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == self.length
        infos = {"steps": self.steps} | ({"is_success": done} if self.length > 2 else {})
        return np.zeros(2, np.float32), 1.0, done, False, infos


@pytest.mark.representatives(2)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_means_are_those_of_the_latest_episodes(mode):
    environment = SyncVectorEnv([Reaching] * 3, autoreset_mode=mode)
    head = make_head(Reaching.action_space)
    models = [
        make(Reaching.observation_space, *rest, hidden_units=(4,))
        for make, *rest in ((make_actor, head), (make_critic,))
    ]
    collector = GymnasiumCollector(ActorCriticPolicy(*models, head), environment, 40, mode="eager")
    assert collector.info_metrics() == {}
    episodes = 0
    for iteration in range(4):
        rollout = collector.collect(tf.constant(iteration, tf.int64))
        episodes += int(tf.math.count_nonzero(rollout.terminated))
    per_copy = [list(map(LENGTHS.__getitem__, np.arange(episodes // 3) % 4))] * 3  # the copies run in step
    steps = deque(np.transpose(per_copy).ravel(), maxlen=WINDOW)
    reached = deque((x == 5 for n, x in enumerate(per_copy[0]) if n % 2 for _ in range(3)), maxlen=WINDOW)
    assert episodes % 3 == 0 and episodes > WINDOW
    assert collector.info_metrics() == {"info/steps": np.mean(steps), "info/is_success": np.mean(reached)}


def test_only_plain_numbers_of_ended_copies_count():
    statistics, done = InfoStatistics(), np.array([True, False, True])
    infos = {
        "a": np.array([1, 2, 3]),
        "b": np.array([True, True, False]),
        "_b": np.array([False, True, True]),
        "c": np.ones([3, 2]),
        "d": np.array(["x"] * 3, object),
        "action_mask": np.ones(3),
        "episode": {"r": np.ones(3)},
    }
    statistics.add(infos, done)
    assert statistics.metrics() == {"info/a": 2.0, "info/b": 0.0}
    again = InfoStatistics()
    again.state = statistics.state
    for each in (statistics, again):
        each.add({"a": np.array([5.0, 0.0, 6.0])}, done)
    assert again.metrics() == statistics.metrics() == {"info/a": (1 + 3 + 5 + 6) / 4, "info/b": 0.0}


def test_names_without_end_do_not_fill_the_memory():
    statistics = InfoStatistics()
    for number in range(2 * MAX_NUMBERS):
        statistics.add({f"step {number}": np.ones(1)}, np.array([True]))
    assert len(statistics.metrics()) == MAX_NUMBERS


def test_a_metric_that_comes_later_gets_a_column(tmp_path):
    path = tmp_path / "metrics.csv"
    with closing(CsvWriter(path)) as writer:
        writer.write(0, {"x": 1.0})
        writer.write(1, {"x": 2.0, "y": 0.5})
        writer.write(2, {"y": 1.0})
    assert path.read_text().split() == ["iteration,x,y", "0,1,nan", "1,2,0.5", "2,nan,1"]


def test_a_run_records_them_and_goes_on_exactly(tmp_path):
    settings = {"num_envs": 2, "rollout_length": 16, "minibatch_size": 32, "hidden_units": (4,), "num_epochs": 1}
    off = {"eval_episodes": 0, "video_episodes": 0, "compile_rollout": "eager", "compile_update": "eager"}
    config = tfppo.make_control_config(runs_dir=tmp_path, total_steps=96, checkpoint_interval=1, **settings, **off)
    whole = tfppo.train_control(config, "whole", env=Drawn)
    trainer = tfppo.ControlTrainer(config, env=Drawn)
    with closing(trainer), driver.start_run(trainer, "part") as part:
        checkpoints = driver.checkpoints_of(trainer, part)
        writer = CsvWriter(part / "metrics.csv")
        for number, row in trainer.iterations():
            writer.write(number, row)
            if number == 1:
                checkpoints.save(2, 0.0, {}, trainer.save_extra)
                break
        writer.close()
    tfppo.resume(part, env=Drawn)
    columns = [[line.split(",") for line in (each / "metrics.csv").read_text().splitlines()] for each in (whole, part)]
    names = [name for name in columns[0][0] if not name.startswith("time/")]
    rows = [[dict(zip(each[0], line, strict=True)) for line in each[1:]] for each in columns]
    assert "info/is_success" in names and "info/steps" in names and len(rows[0]) == 3
    assert [[row[name] for name in names] for row in rows[0]] == [[row[name] for name in names] for row in rows[1]]
