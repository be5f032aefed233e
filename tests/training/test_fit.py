"""`fit`: the loop of the command line, with Keras callbacks; an epoch is an iteration."""

import csv
import json
import math
import signal
from contextlib import closing

import gymnasium
import keras
import numpy as np
import pytest
from gymnasium import spaces
from support.refusal import refusal

import tfppo
from tfppo import cli
from tfppo.execution.variables import weights_hash

SMALL = {"num_envs": 4, "rollout_length": 16, "minibatch_size": 32, "num_epochs": 2, "hidden_units": (8,)}
EAGER = {"compile_rollout": "eager", "compile_update": "eager", "device": "cpu"}
STEPS = 6 * 64  # iterations x steps


def trainer(**settings):
    return tfppo.ControlTrainer(tfppo.make_control_config(**{**SMALL, "total_steps": STEPS, **EAGER, **settings}))


def without_times(history):
    return {name: values for name, values in history.items() if not name.startswith("time/")}


class Noticing(gymnasium.Env):
    """Episodes of 40 steps, whose last info has a number. Some rewards may be NaN."""

    observation_space, action_space = spaces.Box(-1, 1, [2], np.float32), spaces.Discrete(2)

    def __init__(self, reward=1.0):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        done = self.steps == 40
        return np.zeros(2, np.float32), self.reward, done, False, {"is_success": 1.0} if done else {}


def test_fit_is_the_run_of_the_command_line_to_the_bit(tmp_path):
    modes = {"compile_rollout": "graph", "compile_update": "graph", "device": "cpu"}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**SMALL, **modes, "hidden_units": 8}.items()]
    more = ["--total-steps", str(STEPS), "--validation-interval", "2", "--eval-episodes", "3", "--video-episodes", "0"]
    command = ["train", "control", "--env", "CartPole-v1", "--runs-dir", str(tmp_path), "--name", "a"]
    assert cli.main([*command, *options, *more]) == 0
    own = trainer(eval_episodes=3, video_episodes=0, **modes)
    history = own.fit(validation_interval=2, run_dir=tmp_path / "b", verbose=0).history
    bare = trainer(**modes)
    assert without_times(bare.fit(validation_interval=2).history) == without_times(history)
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in "ab"]
    assert len(rows[0]) == 6 and "validation/return_mean" in rows[0][0]
    times = [name for name in rows[0][0] if name.startswith("time/")]
    assert [{**row, **dict.fromkeys(times)} for row in rows[0]] == [{**row, **dict.fromkeys(times)} for row in rows[1]]
    hashes = [json.loads((tmp_path / name / "evaluation.json").read_text())["weights"] for name in "ab"]
    assert hashes == [weights_hash(bare.weights)] * 2


def test_every_metric_has_a_value_in_every_epoch(control_metrics):
    with closing(trainer()) as own:
        history = own.fit(validation_interval=4, verbose=0)
    assert history.epoch == list(range(6)) and set(history.history) >= set(control_metrics)
    assert {len(values) for values in history.history.values()} == {6}
    validated = history.history["validation/return_mean"]
    assert validated[0] == validated[1] == validated[2] and validated[3] == validated[4]
    assert len(set(history.history["policy/entropy"])) == 6


@pytest.mark.slow
def test_metrics_that_come_later_are_nan_before():
    config = tfppo.make_control_config(**{**SMALL, **EAGER, "total_steps": STEPS})
    with closing(tfppo.ControlTrainer(config, env=Noticing)) as own:
        values = own.fit(verbose=0).history["info/is_success"]
    assert np.isnan(values[:2]).all() and values[2:] == [1.0] * 4


def test_callbacks_of_keras_work(tmp_path):
    seen = []
    with closing(trainer()) as own:
        model = own.policy.actor
        callbacks = [
            keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
            keras.callbacks.TensorBoard(str(tmp_path / "logs"), histogram_freq=1),
            keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"), "policy/entropy", mode="min"),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss/total"]))),
            keras.callbacks.TerminateOnNaN(),
        ]
        history = own.fit(callbacks=callbacks, verbose=0)
        assert callbacks[0].model is model and not hasattr(model, "optimizer")
        saved = keras.saving.load_model(tmp_path / "6.keras")
        assert weights_hash(saved.weights) == weights_hash(model.weights)
    assert seen == list(enumerate(history.history["loss/total"]))
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["policy/entropy"]) for row in rows] == history.history["policy/entropy"]
    assert list((tmp_path / "logs").rglob("events*"))


@pytest.mark.slow
def test_early_stopping_by_the_validation_ends_a_run_with_the_best_weights(tmp_path):
    class Falling(keras.callbacks.Callback):  # the score is best after the second epoch
        def on_epoch_end(self, epoch, logs=None):
            logs["validation/return_mean"] = -abs(epoch - 1)
            self.weights = {**getattr(self, "weights", {}), epoch: weights_hash(self.model.weights)}

    with closing(trainer(eval_episodes=2, video_episodes=0)) as own:
        stopping = keras.callbacks.EarlyStopping(
            "validation/return_mean", mode="max", patience=2, restore_best_weights=True
        )
        falling = Falling()
        history = own.fit(callbacks=[falling, stopping], validation_interval=1, run_dir=tmp_path / "a")
        assert history.epoch == [0, 1, 2, 3] and weights_hash(own.policy.actor.weights) == falling.weights[1]
        assert (tmp_path / "a" / "curve.png").exists()
        observation = np.array([0.01, -0.2, 0.03, 0.1], np.float32)
        actors = [own.policy.actor, tfppo.load_policy(tmp_path / "a").model]
        assert np.array_equal(*[actor(observation[None]).numpy() for actor in actors])
    assert tfppo.resume(tmp_path / "a") == tmp_path / "a"  # it is finished


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_second_fit_extends_the_training_on_request(schedule):
    def make(steps):
        return trainer(total_steps=steps, learning_rate_schedule=schedule, clip_ratio_schedule="constant")

    with closing(make(STEPS)) as parts, closing(make(2 * STEPS)) as whole:
        parts.fit(verbose=0)
        said = refusal(parts.fit)
        assert "has trained 6 iterations" in said and "extend=True" in said
        assert "all 6 iterations of the training are done" in refusal(parts.fit, extend=True)
        more = parts.fit(total_steps=STEPS, extend=True, verbose=0)
        once = whole.fit(verbose=0)
        assert more.epoch == list(range(6, 12))
        rates = [each.history["schedule/learning_rate"] for each in (more, once)]
        assert rates[0] == rates[1][6:]  # the schedules are those of the longer run
        if schedule == "constant":
            assert weights_hash(parts.weights) == weights_hash(whole.weights)


def test_the_best_checkpoint_is_one_that_was_validated(tmp_path):
    """Between validations the table repeats the last value, which is not that of the weights of then."""
    with closing(trainer(eval_episodes=0, video_episodes=0, checkpoint_interval=2, keep_checkpoints=9)) as own:
        history = own.fit(validation_interval=3, run_dir=tmp_path / "a", verbose=0).history
        values = history["validation/return_mean"]
        files = (tmp_path / "a" / "checkpoints").glob("*/progress.json")
        scores = {int(file.parent.name): json.loads(file.read_text())["score"] for file in files}
        assert scores == {2: None, 3: values[2], 4: None, 6: values[5]}
        more = own.fit(total_steps=STEPS, validation_interval=0, extend=True, verbose=0)  # validates no longer
        assert "validation/return_mean" not in more.history


def test_what_terminate_on_nan_looks_for_is_there():
    config = tfppo.make_control_config(**{**SMALL, **EAGER, "total_steps": STEPS})
    with closing(tfppo.ControlTrainer(config, env=lambda: Noticing(math.nan))) as own:
        history = own.fit(callbacks=keras.callbacks.TerminateOnNaN(), verbose=0)
    assert history.epoch == [0] and np.isnan(history.history["loss/total"]).all()


def test_ctrl_c_ends_the_training_and_returns_the_history():
    ended = []
    interrupt = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epoch == 2 and signal.raise_signal(signal.SIGINT),
        on_train_end=lambda logs: ended.append(True),
    )
    with closing(trainer()) as own:
        assert own.fit(callbacks=[interrupt], verbose=0).epoch == [0, 1, 2]
        assert ended == [True] and own.iteration == 3
        assert own.fit(extend=True, verbose=0).epoch == [3, 4, 5]


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (lambda: keras.callbacks.BackupAndRestore("x"), "resume with tfppo.resume"),
        (lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), "learning_rate_schedule"),
        (keras.callbacks.ReduceLROnPlateau, "learning_rate_schedule"),
        (lambda: print, "must hold keras.callbacks.Callback objects"),
    ],
)
def test_other_callbacks_are_refused_before_anything_is_trained(callback, said, tmp_path):
    with closing(trainer()) as own:
        assert said in refusal(own.fit, callbacks=[callback()], run_dir=tmp_path / "a")
        assert own.iteration == 0 and not (tmp_path / "a").exists()


def test_settings_of_fit_are_checked(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").touch()
    with closing(trainer()) as own:
        assert "total_steps is 3" in refusal(own.fit, total_steps=3)
        assert "validation_interval is -1" in refusal(own.fit, validation_interval=-1)
        assert str(tmp_path / "a") in refusal(own.fit, run_dir=tmp_path / "a")
