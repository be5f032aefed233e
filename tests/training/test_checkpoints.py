"""Tests that checkpoints restore the saved state bit for bit, and that damaged ones give a one-line error."""

import gc
import json
import logging
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.refusal import refusal
from support.remedy import advised, carry_out

from tfppo.training.checkpoints import Checkpoints, read_progress


def make_state(seed, units=3, steps=0):
    """Returns a model, its Adam optimizer, variables and a list of variables, after some training steps."""
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
    """Returns all variables of the state as arrays, by name."""
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
    """Returns a folder with the checkpoints of iterations 1 and 2, and the state at each."""
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
    """Collects the lines that TensorFlow logs, after removing leftovers of earlier tests."""
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
    path = Checkpoints(folder, **other).restore()
    assert path == folder / "000002"
    assert_bit_equal(arrays(other), states[2])
    slots = [name for name in states[2] if name.startswith("optimizer/")]
    assert len(slots) == 2 + 2 * 4  # iterations and learning rate, then two moments of each of four weights
    assert all(states[2][name].any() for name in slots)


def test_adam_goes_on_as_if_nothing_had_happened(saved):
    folder, _ = saved
    first, second = make_state(5), make_state(6, steps=2)
    for state in (first, second):
        Checkpoints(folder, **state).restore()
        gradients = [tf.ones(v.shape) for v in state["model"].trainable_variables]
        state["optimizer"].apply(gradients, state["model"].trainable_variables)
    assert int(first["optimizer"].iterations) == 4
    assert_bit_equal(arrays(first), arrays(second))


def test_only_the_latest_are_kept(tmp_path):
    state = make_state(0)
    checkpoints = Checkpoints(tmp_path, keep=2, **state)
    for iteration in (1, 3, 10, 20):
        checkpoints.save(iteration)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000010", "000020"]
    assert Checkpoints(tmp_path, **state).restore() == tmp_path / "000020"


def test_a_resumed_run_keeps_as_many(saved):
    folder, _ = saved
    checkpoints = Checkpoints(folder, keep=2, **make_state(1))
    checkpoints.restore()
    checkpoints.save(3)
    assert sorted(path.name for path in folder.iterdir()) == ["000002", "000003"]


def test_checkpoints_move_with_their_folder(saved, tmp_path):
    folder, states = saved
    shutil.move(folder, tmp_path / "elsewhere")
    state = make_state(1)
    assert Checkpoints(tmp_path / "elsewhere", **state).restore() == tmp_path / "elsewhere" / "000002"
    assert_bit_equal(arrays(state), states[2])


@pytest.mark.parametrize("exists", [False, True])
def test_no_checkpoint_is_none_yet_unless_it_is_to_be_used(tmp_path, exists):
    folder = tmp_path / "checkpoints"
    if exists:
        folder.mkdir()
    checkpoints = Checkpoints(folder, **make_state(0))
    assert checkpoints.restore() is None and checkpoints.restore("best") is None
    text = refusal(lambda: checkpoints.restore_for_use("latest"))
    assert str(folder) in text and "no checkpoint" in text and text.endswith(f"tfppo resume {tmp_path}")
    assert refusal(lambda: checkpoints.restore_for_use("3")) == text
    (tmp_path / "curve.png").touch()  # the run is finished
    text = refusal(lambda: checkpoints.restore_for_use("latest"))
    assert "its checkpoints were deleted: restore them from a copy" in text


@pytest.mark.fault(
    "`--checkpoint` names a checkpoint that does not exist", "A one-line error lists the checkpoints that exist."
)
@pytest.mark.parametrize("which", ["3", "worst", "", "-1", "1.0", "²"])
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(saved, which):
    folder, _ = saved
    text = refusal(lambda: Checkpoints(folder, **make_state(1)).restore(which))
    assert repr(which) in text and text.endswith("latest, best, 1, 2")


@pytest.mark.parametrize(("which", "iteration"), [("1", 1), ("000001", 1), ("2", 2), ("latest", 2)])
def test_a_checkpoint_can_be_chosen(saved, which, iteration):
    folder, states = saved
    state = make_state(1)
    assert Checkpoints(folder, **state).restore(which) == folder / f"{iteration:06d}"
    assert_bit_equal(arrays(state), states[iteration])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([1.0, 5.0, 2.0, 3.0, 4.0], 2),
        ([None, float("nan"), -7.0, float("nan"), None], 3),
        ([1.0, 2.0, 2.0, 2.0, 1.0], 4),
        ([None, None, None, None, None], 5),
    ],
)
def test_the_best_is_kept_beside_the_latest(tmp_path, scores, best):
    state = make_state(0)
    for iteration, score in enumerate(scores, 1):  # each by a new object, as in a new process
        Checkpoints(tmp_path, keep=2, **state).save(iteration, score)
    assert [int(path.name) for path in Checkpoints(tmp_path).paths()] == sorted({best, 4, 5})
    assert Checkpoints(tmp_path, **state).restore("best") == tmp_path / f"{best:06d}"


def test_a_checkpoint_says_how_far_the_run_was_and_holds_what_else_belongs_to_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, **make_state(0))
    checkpoints.save(7, 1.5, {"events": 12}, lambda folder: (folder / "extra").write_text("mine"))
    path = checkpoints.restore()
    assert read_progress(path) == (7, 1.5, {"events": 12})
    assert (path / "extra").read_text() == "mine"


@pytest.mark.fault(
    "The process dies at any step of writing a checkpoint, as in a loss of power",
    "The previous checkpoint stays complete.",
)
def test_a_process_that_dies_while_it_writes_leaves_what_was_there(saved, monkeypatch):
    """Interrupts saving at each file system operation in turn, as a power failure would."""
    folder, states = saved

    class Death(BaseException):
        pass

    deaths = 0
    for fatal in range(100):
        steps = []

        def dying(real, steps=steps, fatal=fatal):
            def step(*arguments, **options):
                if len(steps) >= fatal:
                    raise Death
                steps.append(real.__name__)
                return real(*arguments, **options)

            return step

        copied = shutil.copytree(folder, folder.parent / f"copy-{fatal}")
        state = make_state(3)
        checkpoints = Checkpoints(copied, keep=2, **state)
        with monkeypatch.context() as patch:
            for owner, name in [(os, "fsync"), (os, "rename"), (os, "open"), (Path, "write_text"), (os, "mkdir")]:
                patch.setattr(owner, name, dying(getattr(owner, name)))
            for name in ("rmtree", "_rmtree_safe_fd"):  # a killed process does not clean up
                patch.setattr(shutil, name, dying(getattr(shutil, name)), raising=False)
            try:
                checkpoints.save(3)
                done = True
            except Death:
                done, deaths = False, deaths + 1
        after = make_state(4)
        path = Checkpoints(copied, **after).restore()
        assert path in (copied / "000002", copied / "000003")
        assert_bit_equal(arrays(after), states[2] if path.name == "000002" else arrays(state))
        Checkpoints(copied, keep=2, **state).save(4)  # leftovers are removed
        assert {p.name for p in copied.iterdir()} <= {"000002", "000003", "000004"}
        if done:
            break
    assert done and deaths > 8 and "rename" in steps and "fsync" in steps


def damage(folder, how):
    data, progress = folder / "000002" / "state.npz", folder / "000002" / "progress.json"
    if how == "truncated data":
        data.write_bytes(data.read_bytes()[:100])
    elif how == "flipped data":
        data.write_bytes(bytes(255 - byte for byte in data.read_bytes()))
    elif how == "flipped middle":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif how == "garbage data":
        data.write_bytes(np.random.default_rng(0).bytes(500))
    elif how == "empty data":
        data.write_bytes(b"")
    elif how == "pickle":
        np.savez(data, **{"iteration/0": np.array([{}], object)})
    elif how == "no data":
        data.unlink()
    elif how == "garbage progress":
        progress.write_text("garbage {{{")
    elif how == "progress of another kind":
        progress.write_text(json.dumps({"iteration": 2, "score": "high", "sizes": {}}))
    elif how == "no progress":
        progress.unlink()


@pytest.mark.fault(
    "A file of a checkpoint is truncated, changed, empty or missing",
    "A one-line error names the checkpoint. No value is restored.",
)
@pytest.mark.parametrize(
    "how",
    [
        *("truncated data", "flipped data", "flipped middle", "garbage data", "empty data", "pickle", "no data"),
        *("garbage progress", "progress of another kind", "no progress"),
    ],
)
def test_damage_is_refused_with_the_checkpoints_name(saved, how):
    folder, _ = saved
    damage(folder, how)
    state = make_state(1, steps=1)
    before = arrays(state)
    text = refusal(lambda: Checkpoints(folder, **state).restore())
    assert str(folder / "000002") in text
    assert_bit_equal(arrays(state), before)  # nothing was restored


def test_what_the_message_about_damage_advises_brings_the_older_one_back(saved):
    folder, states = saved
    damage(folder, "truncated data")
    text = refusal(lambda: Checkpoints(folder, **make_state(1)).restore())
    assert "to resume from the older checkpoint 000001" in text
    carry_out(text)
    assert (folder / "000002-damaged").is_dir()
    state = make_state(1)
    checkpoints = Checkpoints(folder, **state)
    assert checkpoints.restore() == folder / "000001"
    assert_bit_equal(arrays(state), states[1])
    checkpoints.save(2)
    assert Checkpoints(folder, **make_state(1)).restore() == folder / "000002"


@pytest.mark.parametrize(
    ("which", "broken", "other"), [("latest", "000002", 1), ("best", "000002", 1), ("1", "000001", 2)]
)
def test_what_is_to_be_used_is_another_one(saved, which, broken, other):
    folder, states = saved
    (folder / broken / "state.npz").write_bytes(b"damaged")
    text = refusal(lambda: Checkpoints(folder, **make_state(1)).restore_for_use(which))
    assert str(folder / broken) in text
    option, number = advised(text, "--checkpoint")
    state = make_state(1)
    Checkpoints(folder, **state).restore_for_use(number)
    assert number == str(other)
    assert_bit_equal(arrays(state), states[other])


@pytest.mark.parametrize("method", ["restore", "restore_for_use"])
def test_without_an_older_one_nothing_is_to_be_moved(saved, tmp_path, method):
    folder, states = saved
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("000001", "000002"):
        (folder / name / "state.npz").write_bytes(b"damaged")
    text = refusal(lambda: getattr(Checkpoints(folder, **make_state(1)), method)("latest"))
    assert "restore this one from a copy" in text
    assert not any(word in text for word in ("delete", "remove", "mv ", "older checkpoint 0"))
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    state = make_state(1)
    getattr(Checkpoints(folder, **state), method)("latest")
    assert_bit_equal(arrays(state), states[2])


@pytest.mark.fault(
    "A checkpoint belongs to other networks",
    "A one-line error names the checkpoint and the variables that differ. No value is restored.",
)
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ("wider", "model/0 is (2, 3) of float32 in the checkpoint, but (2, 4) of float32 in this run"),
        ("deeper", "model/4 is missing in the checkpoint, but (3, 1) of float32 in this run"),
        ("more", "other/0 is missing in the checkpoint, but () of float32 in this run"),
        ("longer", "collector/0 is (4,) of float32 in the checkpoint, but (5,) of float32 in this run"),
    ],
)
def test_another_architecture_is_refused(saved, other, difference):
    folder, states = saved
    state = make_state(1, units=4 if other == "wider" else 3)
    if other == "deeper":
        state["model"] = keras.Sequential([keras.Input([2]), *(keras.layers.Dense(n) for n in (3, 3, 1))])
    elif other == "more":
        state["other"] = tf.Variable(0.0)
    elif other == "longer":
        state["collector"][0] = tf.Variable(tf.zeros([5]))
    before = arrays(state)
    text = refusal(lambda: Checkpoints(folder, **state).restore())
    assert str(folder / "000002") in text and difference in text
    assert not any(word in text for word in ("delete", "remove", "mv ", "older"))
    assert_bit_equal(arrays(state), before)
    own = make_state(1)
    Checkpoints(folder, **own).restore()  # as the text advises, with what the run was trained with
    assert_bit_equal(arrays(own), states[2])


@pytest.mark.parametrize("missing", ["optimizer", "iteration", "collector"])
def test_all_of_a_checkpoint_is_wanted(saved, missing):
    folder, _ = saved
    part = make_state(1)
    del part[missing]
    text = refusal(lambda: Checkpoints(folder, **part).restore())
    assert str(folder / "000002") in text


def test_a_part_of_a_checkpoint_can_be_restored_alone(saved):
    folder, states = saved
    other = make_state(1, steps=1)
    untouched = arrays(other)["iteration/0"]
    assert Checkpoints(folder, model=other["model"]).restore_part("1") == folder / "000001"
    restored = {name: x for name, x in states[1].items() if name.startswith("model/")}
    assert_bit_equal(arrays({"model": other["model"]}), restored)
    assert arrays(other)["iteration/0"] == untouched
    for state in ({"elsewhere": other["model"]}, {"model": make_state(1, units=4)["model"]}):
        assert str(folder / "000002") in refusal(Checkpoints(folder, **state).restore_part, "latest")
    assert "holds no checkpoint" in refusal(Checkpoints(folder / "new", model=other["model"]).restore_part, "latest")


def names_in(folder):
    with np.load(folder / "state.npz") as file:
        return set(file.files)


def fixed_in(state):
    """Returns the first layer's weights, which a run with this state does not train."""
    return state["model"].layers[0].weights


def test_fixed_variables_are_not_saved_and_the_others_keep_their_names(saved, tmp_path):
    folder, states = saved
    state, other = make_state(1), make_state(2, steps=1)
    Checkpoints(folder, **state).restore()
    Checkpoints(tmp_path / "new", fixed=fixed_in(state), **state).save(2)
    assert names_in(folder / "000002") - names_in(tmp_path / "new" / "000002") == {"model/0", "model/1"}
    before = arrays(other)
    Checkpoints(tmp_path / "new", fixed=fixed_in(other), **other).restore()
    untouched = {name: before[name] for name in ("model/0", "model/1")}
    assert_bit_equal(arrays(other), states[2] | untouched)


def test_an_older_checkpoint_may_hold_fixed_variables_with_the_same_values(saved):
    folder, states = saved
    state = make_state(1)
    for variable, name in zip(fixed_in(state), ("model/0", "model/1"), strict=True):
        variable.assign(states[2][name])
    Checkpoints(folder, fixed=fixed_in(state), **state).restore()
    assert_bit_equal(arrays(state), states[2])


@pytest.mark.fault(
    "A checkpoint holds other values for a weight that the run does not train",
    "A one-line error names the checkpoint and the weight. No value is restored.",
)
def test_other_values_of_fixed_variables_are_refused(saved):
    folder, _ = saved
    state = make_state(1)
    before = arrays(state)
    text = refusal(Checkpoints(folder, fixed=fixed_in(state), **state).restore)
    assert str(folder / "000002") in text
    assert "(model/0 has other values in the checkpoint than in this run, which does not train it; model/1 " in text
    assert_bit_equal(arrays(state), before)


@pytest.mark.fault(
    "A checkpoint lacks a weight that the run trains",
    "A one-line error names the checkpoint and the weight. No value is restored.",
)
def test_only_fixed_variables_may_be_missing(saved, tmp_path):
    state = make_state(1)
    Checkpoints(tmp_path / "new", fixed=fixed_in(state), **state).save(2)
    other = make_state(2)
    before = arrays(other)
    text = refusal(Checkpoints(tmp_path / "new", fixed=fixed_in(other)[:1], **other).restore)
    assert "(model/1 is missing in the checkpoint, but (3,) of float32 in this run)" in text
    assert_bit_equal(arrays(other), before)


def test_a_part_can_be_restored_without_its_fixed_variables(saved, tmp_path):
    folder, states = saved
    state, model = make_state(1), make_state(2)["model"]
    Checkpoints(folder, **state).restore()
    Checkpoints(tmp_path / "new", fixed=fixed_in(state), **state).save(7)
    Checkpoints(tmp_path / "new", fixed=model.layers[0].weights, model=model).restore_part("7")
    assert_bit_equal(
        {name: x for name, x in arrays({"model": model}).items() if name in ("model/2", "model/3")},
        {name: states[2][name] for name in ("model/2", "model/3")},
    )


def test_a_good_restore_warns_of_nothing(saved, warnings_of_tensorflow):
    folder, _ = saved
    checkpoints = Checkpoints(folder, **make_state(1))
    checkpoints.restore()
    del checkpoints
    gc.collect()
    assert warnings_of_tensorflow == []


def test_a_refusal_says_all_there_is_to_say(saved, warnings_of_tensorflow):
    folder, _ = saved
    checkpoints = Checkpoints(folder, **make_state(1, units=4))
    refusal(checkpoints.restore)
    del checkpoints
    gc.collect()
    assert warnings_of_tensorflow == []
