"""Checkpoints: what is restored is what was saved, to the bit, and what cannot be restored is one line."""

import gc
import logging
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from refusal import refusal

from tfppo.checkpoints import Checkpoints


def make_state(seed, units=3, steps=0):
    """A model, its Adam, variables and a list of variables, after some steps of training."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(units), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        gradients = [tf.constant(rng.normal(size=v.shape), tf.float32) for v in model.trainable_variables]
        optimizer.apply(gradients, model.trainable_variables)
    return {
        "model": model,
        "optimizer": optimizer,
        "iteration": tf.Variable(seed, dtype=tf.int64),
        "collector": [tf.Variable(rng.normal(size=[4]), dtype=tf.float32), tf.Variable([seed % 2 == 0])],
    }


def arrays(state):
    """Everything in the state, as arrays, by name."""
    named = {}
    for name, value in state.items():
        variables = getattr(value, "variables", None) or (value if isinstance(value, list) else [value])
        named |= {f"{name}/{index}": np.asarray(variable.numpy()) for index, variable in enumerate(variables)}
    return named


def assert_bit_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of iterations 1 and 2, and the state at each."""
    folder = tmp_path / "checkpoints"
    state = make_state(0, steps=3)
    checkpoints = Checkpoints(folder, **state)
    states = {}
    for iteration in (1, 2):
        state["iteration"].assign(iteration)
        state["model"].trainable_variables[0].assign_add(np.full([2, 3], iteration / 3, np.float32))
        checkpoints.save(iteration)
        states[iteration] = arrays(state)
    return folder, states


@pytest.fixture
def warnings_of_tensorflow():
    """The lines that TensorFlow logs, from here on: what earlier tests left behind is cleared away before."""
    gc.collect()
    lines = []
    logger, handler = logging.getLogger("tensorflow"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_everything_comes_back_to_the_bit(saved):
    folder, states = saved
    other = make_state(1, steps=1)
    before = arrays(other)
    assert all((before[name] != states[2][name]).any() for name in ("model/0", "collector/0", "collector/1"))
    path = Checkpoints(folder, **other).restore_latest()
    assert path == str(folder / "ckpt-2")
    assert_bit_equal(arrays(other), states[2])
    slots = [name for name in states[2] if name.startswith("optimizer/")]
    assert len(slots) == 2 + 2 * 4  # iterations and learning rate, then two moments of each of four weights
    assert all(states[2][name].any() for name in slots)


def test_adam_goes_on_as_if_nothing_had_happened(saved):
    folder, _ = saved
    first, second = make_state(5), make_state(6, steps=2)
    for state in (first, second):
        Checkpoints(folder, **state).restore_latest()
        gradients = [tf.ones(v.shape) for v in state["model"].trainable_variables]
        state["optimizer"].apply(gradients, state["model"].trainable_variables)
    assert int(first["optimizer"].iterations) == 4
    assert_bit_equal(arrays(first), arrays(second))


def test_only_the_latest_are_kept(tmp_path):
    state = make_state(0)
    checkpoints = Checkpoints(tmp_path, keep=2, **state)
    for iteration in (1, 3, 10, 20):
        checkpoints.save(iteration)
    assert sorted(path.stem for path in tmp_path.glob("*.index")) == ["ckpt-10", "ckpt-20"]
    assert sorted(path.name.split(".")[0] for path in tmp_path.glob("*.data*")) == ["ckpt-10", "ckpt-20"]
    assert Checkpoints(tmp_path, **state).restore_latest() == str(tmp_path / "ckpt-20")


def test_a_resumed_run_keeps_as_many(saved):
    folder, _ = saved
    checkpoints = Checkpoints(folder, keep=2, **make_state(1))
    checkpoints.restore_latest()
    checkpoints.save(3)
    assert sorted(path.stem for path in folder.glob("*.index")) == ["ckpt-2", "ckpt-3"]


def test_checkpoints_move_with_their_folder(saved, tmp_path):
    folder, states = saved
    shutil.move(folder, tmp_path / "elsewhere")
    state = make_state(1)
    assert Checkpoints(tmp_path / "elsewhere", **state).restore_latest() == str(tmp_path / "elsewhere" / "ckpt-2")
    assert_bit_equal(arrays(state), states[2])


@pytest.mark.parametrize("exists", [False, True])
def test_no_checkpoint_is_refused(tmp_path, exists):
    folder = tmp_path / "checkpoints"
    if exists:
        folder.mkdir()
    text = refusal(lambda: Checkpoints(folder, **make_state(0)).restore_latest())
    assert str(folder) in text and "no checkpoint" in text


def damage(folder, how):
    index, data = folder / "ckpt-2.index", folder / "ckpt-2.data-00000-of-00001"
    if how == "truncated data":
        data.write_bytes(data.read_bytes()[:100])
    elif how == "flipped data":
        data.write_bytes(bytes(255 - byte for byte in data.read_bytes()))
    elif how == "flipped end":
        data.write_bytes(data.read_bytes()[:-9] + bytes(255 - byte for byte in data.read_bytes()[-9:]))
    elif how == "garbage index":
        index.write_bytes(np.random.default_rng(0).bytes(500))
    elif how == "empty index":
        index.write_bytes(b"")
    elif how == "no data":
        data.unlink()


@pytest.mark.parametrize(
    "how", ["truncated data", "flipped data", "flipped end", "garbage index", "empty index", "no data"]
)
def test_damage_is_refused_with_the_checkpoints_name(saved, how):
    folder, _ = saved
    damage(folder, how)
    state = make_state(1, steps=1)
    before = arrays(state)
    text = refusal(lambda: Checkpoints(folder, **state).restore_latest())
    assert str(folder / "ckpt-2") in text
    assert_bit_equal(arrays(state), before)  # nothing is restored by half


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\x00", b"garbage {{{", b'all_model_checkpoint_paths: "ckpt-1"\n'],
    ids=["bytes", "text", "half"],
)
def test_a_damaged_list_of_checkpoints_is_refused(saved, content):
    folder, _ = saved
    (folder / "checkpoint").write_bytes(content)
    text = refusal(lambda: Checkpoints(folder, **make_state(1)).restore_latest())
    assert str(folder) in text


def test_a_lost_list_of_checkpoints_can_be_written_anew(saved):
    folder, states = saved
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-2"\n')
    state = make_state(1)
    checkpoints = Checkpoints(folder, **state)
    checkpoints.restore_latest()
    assert_bit_equal(arrays(state), states[2])
    checkpoints.save(3)
    assert Checkpoints(folder, **make_state(1)).restore_latest() == str(folder / "ckpt-3")


def test_what_the_message_about_damage_advises_brings_the_older_one_back(saved):
    folder, states = saved
    damage(folder, "truncated data")
    text = refusal(lambda: Checkpoints(folder, **make_state(1)).restore_latest())
    assert "delete" in text
    for path in folder.glob("ckpt-2.*"):
        path.unlink()
    if f"in {folder / 'checkpoint'}" in text:  # then its lines are to be deleted too
        lines = (folder / "checkpoint").read_text().splitlines()
        (folder / "checkpoint").write_text("\n".join(line for line in lines if '"ckpt-2"' not in line) + "\n")
    state = make_state(1)
    checkpoints = Checkpoints(folder, **state)
    assert checkpoints.restore_latest() == str(folder / "ckpt-1")
    assert_bit_equal(arrays(state), states[1])
    checkpoints.save(2)
    assert Checkpoints(folder, **make_state(1)).restore_latest() == str(folder / "ckpt-2")


@pytest.mark.parametrize("other", ["wider", "deeper", "more", "longer"])
def test_another_architecture_is_refused(saved, other):
    folder, _ = saved
    state = make_state(1, units=4 if other == "wider" else 3)
    if other == "deeper":
        state["model"] = keras.Sequential([keras.Input([2]), *(keras.layers.Dense(n) for n in (3, 3, 1))])
    elif other == "more":
        state["other"] = tf.Variable(0.0)
    elif other == "longer":
        state["collector"][0] = tf.Variable(tf.zeros([5]))
    before = arrays(state)
    text = refusal(lambda: Checkpoints(folder, **state).restore_latest())
    assert str(folder / "ckpt-2") in text
    assert_bit_equal(arrays(state), before)


@pytest.mark.parametrize("missing", ["optimizer", "iteration", "collector"])
def test_all_of_a_checkpoint_is_wanted(saved, missing):
    folder, _ = saved
    part = make_state(1)
    del part[missing]
    text = refusal(lambda: Checkpoints(folder, **part).restore_latest())
    assert str(folder / "ckpt-2") in text


def test_a_good_restore_warns_of_nothing(saved, warnings_of_tensorflow):
    folder, _ = saved
    checkpoints = Checkpoints(folder, **make_state(1))
    checkpoints.restore_latest()
    del checkpoints
    gc.collect()
    assert warnings_of_tensorflow == []


def test_a_refusal_says_all_there_is_to_say(saved, warnings_of_tensorflow):
    folder, _ = saved
    checkpoints = Checkpoints(folder, **make_state(1, units=4))
    refusal(checkpoints.restore_latest)
    del checkpoints
    gc.collect()
    assert warnings_of_tensorflow == []
