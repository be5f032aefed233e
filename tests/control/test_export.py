"""Exported policies act as the policies do, in a process that does not import this package."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
import yaml
from gymnasium import spaces
from support.refusal import refusal

import tfppo
from tfppo import saved_runs
from tfppo.control import export, run
from tfppo.control import trainer as control_trainer
from tfppo.control.config import ControlConfig, ControlRunConfig
from tfppo.control.envs.space_records import record_of, space_of
from tfppo.control.envs.vector import make_vector_environment
from tfppo.control.export import export_policy, input_specs
from tfppo.control.policies.encoders import map_space, observation_dtype
from tfppo.control.policies.policy import forget
from tfppo.control.trainer import ControlTrainer
from tfppo.ppo.config import PPOConfig
from tfppo.training import driver
from tfppo.training.config import RunConfig

NUM_ENVS, STEPS = 4, 12
CASES = {
    "discrete": {"env": "CartPole-v1"},
    "normal": {"env": "Pendulum-v1"},
    "squashed": {"env": "Pendulum-v1", "box_policy": "squashed"},
    "gsde": {"env": "Pendulum-v1", "box_policy": "gsde"},
    "multi_discrete": {"env": "Levers-v0"},
    "dict": {"env": "Rooms-v0"},
    "recurrent": {"env": "Rooms-v0", "lstm_units": 5},
}
SEEN = {"Levers-v0": (50, 20), "Rooms-v0": (-30, 5), "Pendulum-v1": (0.5, 4)}  # approximate mean and standard deviation
QUICK = ("discrete", "gsde", "multi_discrete", "recurrent")
every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CASES]
)


class Levers(gymnasium.Env):
    """An environment with observations far from mean 0 and standard deviation 1, and actions that do not start at 0."""

    observation_space = spaces.Box(-np.inf, np.inf, [2, 2])
    action_space = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, -2], [0, 7]])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.see(), {}

    def see(self):
        return self.np_random.normal(50, 20, [2, 2]).astype(np.float32)

    def step(self, action):
        self.steps += 1
        return self.see(), 1.0, self.steps % 6 == 0, False, {}


class Rooms(Levers):
    """An environment with Dict observations: one key that is not a valid name, and a mask."""

    observation_space = spaces.Dict(
        {
            "2nd place": spaces.Discrete(4, start=1),
            "speed": spaces.Box(-np.inf, np.inf, [2]),
            "action_mask": spaces.MultiBinary(5),
        }
    )
    action_space = spaces.Discrete(5, start=3)

    def see(self):
        mask = self.np_random.integers(2, size=5, dtype=np.int8)
        mask[self.np_random.integers(5)] = 1
        place, speed = self.np_random.integers(1, 5), self.np_random.normal(-30, 5, 2).astype(np.float32)
        return {"2nd place": place, "speed": speed, "action_mask": mask}


gymnasium.register("Levers-v0", Levers)
gymnasium.register("Rooms-v0", Rooms)


def settings(runs_dir=Path("runs"), **control):
    shape = {"num_envs": NUM_ENVS, "rollout_length": 8, "total_steps": 32, "hidden_units": (8,), "eval_episodes": 0}
    modes = {"device": "cpu", "compile_rollout": "eager", "compile_update": "eager"}
    return ControlRunConfig(
        RunConfig(runs_dir=runs_dir, **modes),
        ControlConfig(normalize_observations=True, **shape | control),
        PPOConfig(minibatch_size=32, num_epochs=1),
    )


def make_trainer(case):
    """Makes a trainer whose actor has large weights, and whose statistics are those of many observations."""
    trainer, rng = ControlTrainer(settings(**CASES[case])), np.random.default_rng(1)
    center, std = SEEN.get(trainer.config.control.env, (0.1, 0.3))
    count, mean, variance = trainer.normalization.state
    count.assign(100)
    mean.assign(center + std * rng.normal(0, 0.3, mean.shape))
    variance.assign(std**2 * rng.uniform(0.5, 2, variance.shape))
    trainer.policy.actor.set_weights([rng.normal(0, 0.9, w.shape) for w in trainer.policy.actor.get_weights()])
    return trainer


def play(trainer):
    """Plays random actions in the real environment.

    Returns:
      The inputs of the exported policy, and the greedy answers of the policy itself, [STEPS, B, ...] each.
    """
    policy, env = trainer.policy, trainer.config.control.env
    environment = make_vector_environment(env, NUM_ENVS)
    dtypes = map_space(observation_dtype, environment.single_observation_space)
    raw, _ = environment.reset(seed=2)
    environment.action_space.seed(3)
    memory, done, starts = policy.initial_memory(NUM_ENVS), np.zeros(NUM_ENVS, bool), np.ones(NUM_ENVS, bool)
    seen, answers = [], []
    for _ in range(STEPS):
        now = tf.nest.map_structure(lambda dtype, x: tf.constant(x, dtype), dtypes, raw)
        actions, memory = policy.greedy_step(trainer.normalization.observations(now), memory)
        inputs = now if isinstance(now, dict) else {"observations": now}
        seen.append({name.replace("2nd place", "arg_2nd_place"): x.numpy() for name, x in inputs.items()})
        answers.append({"actions": policy.to_environment(actions).numpy()})
        if policy.is_recurrent:
            seen[-1]["episode_starts"] = starts
            answers[-1] |= {"memory_h": memory[0].numpy(), "memory_c": memory[1].numpy()}
        memory, starts = forget(memory, tf.constant(done)), done
        raw, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
        done = (terminated | truncated) & ~done
    environment.close()
    return stacked(seen), stacked(answers)


def stacked(rows):
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


STRANGER = """
import sys
import numpy as np
import tensorflow as tf

for folder in sys.argv[1:]:
    act = tf.saved_model.load(folder + "/export").signatures["act"]
    inputs = dict(np.load(folder + "/inputs.npz"))
    wanted = act.structured_input_signature[1]
    carried = {name: tf.ones([4, *wanted[name].shape[1:]]) for name in wanted if name.startswith("memory_")}
    rows = []
    for step in range(len(next(iter(inputs.values())))):
        given = {name: tf.constant(x[step]) for name, x in inputs.items()} | carried
        rows.append(act(**given))
        one = act(**{name: x[1:2] for name, x in given.items()})
        for name, x in one.items():
            np.testing.assert_allclose(x[0], rows[-1][name][1], rtol=1e-4, atol=1e-5)
        carried = {name: rows[-1][name] for name in carried}
    np.savez(folder + "/answers.npz", **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
assert "tfppo" not in sys.modules
"""


class Trainers(dict):
    """Trainers by case, which are made when they are needed."""

    def __missing__(self, case):
        self[case] = make_trainer(case)
        return self[case]


@pytest.fixture(scope="module")
def trainers():
    return Trainers()


@pytest.fixture(scope="module")
def exported(trainers, tmp_path_factory, request):
    """Returns the folders of the exported policies, with the answers of each policy and those of another process."""
    nodes = [item for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    cases = sorted({item.callspec.params.get("case") for item in nodes} - {None})
    folders = {case: tmp_path_factory.mktemp(case) for case in cases}
    wanted = {}
    for case in folders:
        trainer = trainers[case]
        export_policy(trainer.policy, trainer.observation_space, folders[case] / "export", trainer.normalization)
        inputs, wanted[case] = play(trainer)
        np.savez(folders[case] / "inputs.npz", **inputs)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", STRANGER, *map(str, folders.values())]
    done = subprocess.run(
        command, env=environment, cwd=next(iter(folders.values())), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folders, wanted


@every_case
def test_a_stranger_acts_as_the_policy_does(exported, case):
    folders, wanted = exported
    answers = np.load(folders[case] / "answers.npz")
    assert set(answers) == set(wanted[case])
    for name, values in wanted[case].items():
        assert answers[name].dtype == values.dtype and answers[name].shape == values.shape
        np.testing.assert_allclose(answers[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@every_case
def test_there_was_something_to_tell_apart(exported, trainers, case):
    """The test data would detect these errors.

    Observations are not normalized, actions are not converted for the environment, a mask is ignored, the memory is not
    cleared at the start of an episode.
    """
    folders, wanted = exported
    trainer, inputs, actions = trainers[case], dict(np.load(folders[case] / "inputs.npz")), wanted[case]["actions"]
    assert len(np.unique(actions)) > 1
    if case in ("normal", "gsde"):
        assert 0.1 < (np.abs(actions) == 2).mean() < 0.9
    if case == "squashed":
        assert ((np.abs(actions) > 1.1) & (np.abs(actions) < 2)).any()
    if case == "multi_discrete":
        assert actions.shape == (STEPS, NUM_ENVS, 2, 2) and actions.min() == -2 and actions.max() > 8
    if trainer.policy.is_recurrent:
        assert inputs["episode_starts"][0].all() and inputs["episode_starts"][5:].any()
    if "action_mask" in inputs:
        assert np.take_along_axis(inputs["action_mask"], actions[..., None] - 3, axis=-1).all()
        assert (inputs["action_mask"] == 0).any()


@every_case
def test_actions_are_drawn_by_a_seed(exported, trainers, case):
    folders, _ = exported
    policy, normalization = trainers[case].policy, trainers[case].normalization
    inputs = {name: tf.constant(x[0]) for name, x in np.load(folders[case] / "inputs.npz").items()}
    if isinstance(trainers[case].observation_space, spaces.Dict):
        observations = {"2nd place": inputs["arg_2nd_place"]} | {key: inputs[key] for key in ("speed", "action_mask")}
    else:
        observations = inputs["observations"]
    memory = policy.initial_memory(NUM_ENVS)
    carried = dict(zip(export.MEMORY, memory, strict=False))
    loaded = tf.saved_model.load(folders[case] / "export")
    drawn = []
    for seed in (tf.constant([7, n], tf.int64) for n in range(6)):
        noise = policy.noise([NUM_ENVS], seed)
        wanted, _, after = policy.step(normalization.observations(observations), noise, memory)
        given = loaded.signatures["sample"](seed=seed, **inputs, **carried)
        np.testing.assert_allclose(given["actions"], policy.to_environment(wanted), rtol=1e-4, atol=1e-5)
        for name, part in zip(carried, after, strict=False):
            np.testing.assert_allclose(given[name], part, rtol=1e-4, atol=1e-5)
        drawn.append(given["actions"].numpy().tobytes())
    assert len(set(drawn)) > 1


# ----- Policies for Python, as `ControlTrainer.save` and `tfppo.load_policy` make them


def observations_of(trainer, inputs, step):
    """Returns the observations of a step as the environment returned them."""
    if isinstance(trainer.observation_space, spaces.Dict):
        names = {"2nd place": "arg_2nd_place", "speed": "speed", "action_mask": "action_mask"}
        return {key: inputs[name][step] for key, name in names.items()}
    return inputs["observations"][step]


@pytest.fixture(scope="module")
def loaded(trainers, tmp_path_factory):
    """Returns the policies, saved and loaded again."""
    folder = tmp_path_factory.mktemp("saved")
    for case, trainer in trainers.items():
        trainer.save(folder / case)
    return {case: tfppo.load_policy(folder / case) for case in trainers}


@every_case
def test_a_loaded_policy_acts_as_the_policy_does(loaded, trainers, exported, case):
    """In batches and one by one, with memory; the seven cases have normalization, masks, clipping and starts."""
    folders, wanted = exported
    inputs, policy = dict(np.load(folders[case] / "inputs.npz")), loaded[case]
    state = policy.initial_state(NUM_ENVS)
    for step in range(STEPS):
        observations = observations_of(trainers[case], inputs, step)
        rest = (state, inputs["episode_starts"][step]) if policy.is_recurrent else ()
        actions = policy.predict(observations, *rest)
        one = policy.predict(
            tf.nest.map_structure(lambda x: x[1], observations),
            *([tuple(x[1:2] for x in rest[0]), rest[1][1]] if rest else []),
        )
        if policy.is_recurrent:
            (actions, state), (one, one_state) = actions, one
            np.testing.assert_allclose(one_state[1], state[1][1:2], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(state[0], wanted[case]["memory_h"][step], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(actions, wanted[case]["actions"][step], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one, actions[1], rtol=1e-4, atol=1e-5)
        assert all(policy.action_space.contains(action) for action in (one, *actions))
    assert (policy.observation_space, policy.action_space) == (
        trainers[case].observation_space,
        trainers[case].action_space,
    )


@every_case
def test_a_trainer_predicts_with_the_policy_of_now(trainers, loaded, exported, case):
    trainer = trainers[case]
    observations = observations_of(trainer, dict(np.load(exported[0][case] / "inputs.npz")), 0)
    if loaded[case].is_recurrent:
        assert "has a memory" in refusal(trainer.predict, observations)
        return
    np.testing.assert_array_equal(trainer.predict(observations), loaded[case].predict(observations))
    model, iteration = trainer.policy.actor, trainer.learner.iteration
    weights = model.get_weights()
    try:
        model.set_weights([-x for x in weights])
        np.testing.assert_array_equal(trainer.predict(observations), trainer.trained_policy().predict(observations))
        iteration.assign_add(1)  # the statistics of the normalization have changed
        assert trainer.predict(observations) is not None
    finally:
        model.set_weights(weights)
        iteration.assign_sub(1)


@every_case
def test_a_loaded_policy_samples_as_the_export_does(loaded, trainers, exported, case):
    folders, _ = exported
    inputs = dict(np.load(folders[case] / "inputs.npz"))
    observations, policy = observations_of(trainers[case], inputs, 0), loaded[case]
    drawn = [policy.predict(observations, deterministic=False, seed=seed) for seed in (1, 1, 2, None, None)]
    drawn = [actions[0] if policy.is_recurrent else actions for actions in drawn]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len({actions.tobytes() for actions in drawn}) > 1
    for actions in drawn:
        assert all(policy.action_space.contains(action) for action in actions)
    if case == "dict":
        masks = observations["action_mask"]
        assert all(masks[row, action - 3] for actions in drawn for row, action in enumerate(actions))


def test_the_model_of_a_loaded_policy_takes_observations_as_they_are(loaded, trainers, exported):
    """The mistake that `actor.save` invites: the actor alone needs normalized observations."""
    folders, wanted = exported
    seen = dict(np.load(folders["multi_discrete"] / "inputs.npz"))["observations"][0]
    trainer, model = trainers["multi_discrete"], loaded["multi_discrete"].model
    normalized = trainer.normalization.observations(tf.constant(seen))
    np.testing.assert_allclose(model(seen), trainer.policy.actor(normalized), rtol=1e-4, atol=1e-5)
    assert np.abs(model(seen) - trainer.policy.actor(seen)).max() > 1


def test_a_policy_of_a_run_is_loaded_from_its_folder(tmp_path):
    folder = run.train_control(settings(tmp_path, env="CartPole-v1"), "mine")
    policy = tfppo.load_policy(folder)
    number = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    assert tfppo.load_policy(folder, checkpoint=number).action_space == policy.action_space
    with driver.opened(control_trainer.CONTROL, folder, "latest") as trainer:
        seen = np.random.default_rng(1).normal(0, 1, [50, 4]).astype(np.float32)
        actions, _ = trainer.policy.greedy_step(trainer.normalization.observations(tf.constant(seen)), ())
        assert trainer.normalization.state[0].numpy() > 0
    np.testing.assert_array_equal(policy.predict(seen), actions)


def test_a_trainer_evaluates_its_policy():
    with closing(ControlTrainer(settings(env="CartPole-v1"))) as trainer:
        assert trainer.evaluate(episodes=3) == trainer.judge(3, trainer.config.run.seed)
        assert trainer.evaluate(3, seed=8)["seed"] == 8


@pytest.mark.parametrize(
    ("case", "observations", "rest", "said"),
    [
        ("discrete", np.zeros(3), (), "have shape (3,); they must have shape (4,) for one observation"),
        ("discrete", np.zeros([2, 5]), (), "have shape (2, 5)"),
        ("discrete", np.zeros([1, 2, 4]), (), "have shape (1, 2, 4)"),
        ("discrete", np.zeros(4), ((), True), "the policy has no memory: leave them out"),
        ("dict", np.zeros(4), (), "are a ndarray; they must be a dictionary with the keys"),
        ("dict", {"speed": np.zeros(2)}, (), "have the keys ['speed']"),
        ("dict", {"2nd place": 1, "speed": np.zeros([3, 2]), "action_mask": np.ones(5)}, (), "one more axis"),
        (
            "dict",
            {"2nd place": 99, "speed": np.zeros(2), "action_mask": np.ones(5)},
            (),
            "the part 2nd place of the observations are array(99); they must be in Discrete(",
        ),
        (
            "recurrent",
            {"2nd place": 1, "speed": np.zeros(2), "action_mask": np.ones(5)},
            (np.ones(5),),
            "initial_state",
        ),
    ],
)
def test_observations_that_do_not_fit_are_refused(loaded, case, observations, rest, said):
    assert said in refusal(loaded[case].predict, observations, *rest)


def test_folders_that_hold_no_policy_are_refused(trainers, tmp_path):
    assert "holds neither policy.yaml nor config.yaml" in refusal(tfppo.load_policy, tmp_path)
    trainers["discrete"].save(tmp_path / "a")
    trainers["discrete"].save(tmp_path / "a")  # replaces it
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "is not replaced" in refusal(trainers["discrete"].save, tmp_path / "other")
    record = (tmp_path / "a" / "policy.yaml").read_text()
    (tmp_path / "a" / "policy.yaml").write_text(record.replace("Box", "Boks"))
    assert "policy.yaml is damaged (kind is 'Boks')" in refusal(tfppo.load_policy, tmp_path / "a")
    (tmp_path / "a" / "policy.yaml").write_text(record)
    (tmp_path / "a" / "model.keras").write_bytes(b"no model")
    assert "cannot load" in refusal(tfppo.load_policy, tmp_path / "a")


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, -2], [0, 7]]),
        spaces.MultiBinary([2, 3]),
        spaces.MultiBinary(4),
        spaces.Box(0, 255, [8, 8, 3], np.uint8),
        spaces.Box(np.array([-1, -np.inf]), np.array([0.1, 2]), dtype=np.float64),
        spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict(c=spaces.Box(-1, 1, []))}),
    ],
    ids=str,
)
def test_spaces_are_recorded(space):
    again = space_of(yaml.safe_load(yaml.safe_dump(record_of(space))))
    assert again == space and again.dtype == space.dtype and str(again) == str(space)


def test_other_spaces_are_not_recorded():
    assert "cannot be saved" in refusal(record_of, spaces.Text(3))


# ----- Inputs and errors of exports


def test_inputs_are_named_and_typed():
    image = spaces.Box(0, 255, [40, 40, 3], np.uint8)
    space = spaces.Dict({"left/eye": image, "gear": spaces.Discrete(3), "arm": spaces.Box(-1, 1, [2], np.float64)})

    class Stateless:
        actor_memory_specs = ()

    specs = input_specs(Stateless, space)
    assert {name: (spec.shape.as_list(), spec.dtype.name) for name, spec in specs.items()} == {
        "left_eye": ([None, 40, 40, 3], "uint8"),
        "gear": ([None], "int32"),
        "arm": ([None, 2], "float32"),
    }
    for keys, name in ((("a b", "a_b"), "a_b"), (("seed",), "seed")):
        assert name in refusal(input_specs, Stateless, spaces.Dict(dict.fromkeys(keys, image)))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def export_of(trainer, folder):
    export_policy(trainer.policy, trainer.observation_space, folder, trainer.normalization)


def act(folder, observations):
    return tf.saved_model.load(folder).signatures["act"](observations=observations)["actions"].numpy()


def test_a_second_export_takes_the_place_of_the_first(trainers, tmp_path):
    trainer, observations = trainers["normal"], np.float32([[1, 0, 0.5], [0, 1, -0.5]])
    actor, folder = trainer.policy.actor, tmp_path / "some" / "where" / "policy"
    export_of(trainer, folder)
    first, before = act(folder, observations), actor.get_weights()
    (folder / "stale").write_text("of the first")
    actor.set_weights([-weight for weight in before])
    try:
        export_of(trainer, folder)
    finally:
        actor.set_weights(before)
    assert (np.abs(act(folder, observations) - first) > 0.01).any()
    assert not (folder / "stale").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


@pytest.mark.fault("An export is interrupted", "An earlier export stays unchanged.")
def test_an_export_that_fails_leaves_everything_as_it_was(trainers, tmp_path, monkeypatch):
    real = tf.saved_model.save

    def fail_at_the_end(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", fail_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        export_of(trainers["normal"], tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export_of(trainers["normal"], tmp_path / "policy")
    before = contents(tmp_path)
    monkeypatch.setattr(tf.saved_model, "save", fail_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        export_of(trainers["normal"], tmp_path / "policy")
    assert contents(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["policy"]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.representatives(2)
@pytest.mark.fault("The disk is full during an export", "A one-line error. An earlier export stays unchanged.")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "whatever"), "(No space left on device)"),
        (OSError("no number"), "(no number)"),
        (
            tf.errors.ResourceExhaustedError(
                None, None, "{{function_node __wrapped__SaveV2}} /a/part-0; No space left on device [Op:SaveV2]"
            ),
            "(/a/part-0; No space left on device)",
        ),
    ],
    ids=["system", "unnumbered", "tensorflow"],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_that_fills_up_is_one_line(trainers, tmp_path, monkeypatch, error, said, earlier):
    if earlier:
        export_of(trainers["normal"], tmp_path / "policy")
    before, real = contents(tmp_path), tf.saved_model.save
    monkeypatch.setattr(tf.saved_model, "save", lambda *arguments: real(*arguments) or raising(error)())
    text = refusal(export_of, trainers["normal"], tmp_path / "policy")
    assert text.startswith(f"cannot write {tmp_path / 'policy'} {said}: ") and "free disk space" in text
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == earlier


@pytest.mark.fault("The folder of an export is not writable", "A one-line error. No file is left behind.")
def test_a_folder_that_may_not_be_written_to_is_one_line(trainers, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", raising(PermissionError(errno.EACCES, "whatever")))
    text = refusal(export_of, trainers["normal"], tmp_path / "policy")
    assert f"cannot write {tmp_path / 'policy'} (Permission denied): check the permissions of {tmp_path} " in text
    monkeypatch.undo()
    monkeypatch.setattr(Path, "rename", raising(OSError(errno.EROFS, "whatever")))
    assert "Read-only file system" in refusal(export_of, trainers["normal"], tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_seen_before_anything_is_written(trainers, tmp_path, monkeypatch):
    trainer = trainers["normal"]
    size = sum(weight.nbytes for weight in trainer.policy.actor.get_weights())
    size += sum(variable.numpy().nbytes for variable in trainer.normalization.state[1:])
    saved = []
    monkeypatch.setattr(tf.saved_model, "save", lambda model, path, _: saved.append(path) or Path(path).mkdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    assert f"its disk has {size - 1:,} bytes free" in refusal(export_of, trainer, tmp_path / "policy")
    assert saved == [] and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
    export_of(trainer, tmp_path / "policy")
    assert len(saved) == 1


def test_what_else_goes_wrong_keeps_its_trace(trainers, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", raising(ZeroDivisionError("a defect")))
    with pytest.raises(ZeroDivisionError):
        export_of(trainers["normal"], tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("The folder of an export contains other files", "A one-line error. The files stay unchanged.")
def test_what_is_no_export_is_not_replaced(trainers, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis").write_text("years of work")
    before = contents(tmp_path)
    for path in (tmp_path / "home", tmp_path / "home" / "thesis", tmp_path / "home" / "thesis" / "below"):
        assert str(path.parent if path.name == "below" else path) in refusal(export_of, trainers["normal"], path)
    assert contents(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["home"]
    (tmp_path / "empty").mkdir()
    export_of(trainers["normal"], tmp_path / "empty")
    assert (tmp_path / "empty" / "saved_model.pb").exists()


@pytest.mark.representatives(1)
@pytest.mark.parametrize("lstm_units", [0, 3])
def test_a_run_is_exported_as_its_latest_checkpoint_left_it(tmp_path, monkeypatch, capsys, lstm_units):
    trainers, closed = [], []

    class Trainer(ControlTrainer):
        def __init__(self, *arguments, env=None):
            super().__init__(*arguments)
            trainers.append(self)

        def close(self):
            super().close()
            closed.append(self)

    monkeypatch.setattr(run, "ControlTrainer", Trainer)
    monkeypatch.setattr(control_trainer, "ControlTrainer", Trainer)
    folder = run.train_control(settings(tmp_path, env="CartPole-v1", lstm_units=lstm_units, backend="gymnasium"))
    before = contents(folder)
    capsys.readouterr()
    assert saved_runs.export(folder) == folder / "export"
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and err == ""
    assert f'tf.saved_model.load("{folder / "export"}")' in out and '.signatures["act"](observations=...' in out
    assert ("memory_h=..., memory_c=..., episode_starts=..." in out and "[B, 3]" in out) == bool(lstm_units)
    assert {k: v for k, v in contents(folder).items() if not k.startswith("export/")} == before
    trained = trainers[0]
    assert len(trainers) == 2 and list(dict.fromkeys(closed)) == trainers
    variables = [*trained.policy.actor.weights, *trained.normalization.state[1:]]
    loaded = tf.saved_model.load(folder / "export")  # keep it: it owns the variables
    held = {variable.numpy().tobytes() for variable in loaded.signatures["act"].variables}
    assert held == {variable.numpy().tobytes() for variable in variables}
