"""The rules for the device and the compilation mode of a phase, case by case."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfppo import ControlTrainer, make_control_config
from tfppo.errors import UsageError
from tfppo.execution.compilation import (
    XLA_GRADIENT_STEPS,
    XLA_RECURRENT_STEPS,
    XLA_ROWS,
    XLA_TOKENS,
    call_directly,
    choose_compilation,
    choose_token_compilation,
    compiled,
)
from tfppo.execution.devices import GPU_BATCH_SIZE, apply_execution_settings, choose_device, uses_onednn
from tfppo.execution.onednn import VARIABLE, choose_onednn
from tfppo.training.config import RunConfig

BACKENDS = ("graph", "gymnasium")
LONG, SHORT = XLA_GRADIENT_STEPS, XLA_GRADIENT_STEPS - 1


@pytest.fixture
def set_gpus(monkeypatch):
    def set_gpus(count):
        devices = {"GPU": [object()] * count, "CPU": [object()]}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices[kind])

    return set_gpus


@pytest.mark.parametrize(
    ("num_gpus", "setting", "batch_size", "device", "reason"),
    [
        (0, "auto", GPU_BATCH_SIZE, "/CPU:0", "no GPU is visible"),
        (0, "cpu", 1, "/CPU:0", "set by the user"),
        (1, "cpu", GPU_BATCH_SIZE, "/CPU:0", "set by the user"),
        (1, "gpu", 1, "/GPU:0", "set by the user"),
        (1, "auto", GPU_BATCH_SIZE - 1, "/CPU:0", f"{GPU_BATCH_SIZE - 1} transitions are below {GPU_BATCH_SIZE}"),
        (2, "auto", GPU_BATCH_SIZE, "/GPU:0", f"{GPU_BATCH_SIZE} transitions are at least"),
    ],
)
def test_device_follows_the_rule_and_says_why(set_gpus, num_gpus, setting, batch_size, device, reason):
    set_gpus(num_gpus)
    chosen, sentence = choose_device(setting, batch_size)
    assert chosen == device
    assert reason in sentence


@pytest.mark.fault("`--device gpu` on a machine without a GPU", "A one-line error.")
def test_a_gpu_that_is_not_there_is_refused(set_gpus):
    set_gpus(0)
    with pytest.raises(UsageError, match="TensorFlow sees no GPU: use --device cpu"):
        choose_device("gpu", GPU_BATCH_SIZE)


@pytest.mark.parametrize("phase", ["rollout", "update"])
def test_compilation_follows_the_rule(phase):
    rows = XLA_ROWS[phase]
    assert choose_compilation("auto", phase, "/CPU:0", rows, LONG) == "xla"
    assert choose_compilation("auto", phase, "/CPU:0", rows + 1, LONG) == "graph"
    assert choose_compilation("auto", phase, "/CPU:0", rows, SHORT) == "graph"
    assert choose_compilation("auto", phase, "/GPU:0", 100 * rows, 1) == "xla"
    for setting in ("xla", "graph", "eager"):
        assert choose_compilation(setting, phase, "/GPU:0", rows, LONG) == setting


def test_a_memory_repays_compilation_sooner_and_acting_for_python_never():
    assert choose_compilation("auto", "update", "/CPU:0", 1, XLA_RECURRENT_STEPS, recurrent=True) == "xla"
    assert choose_compilation("auto", "update", "/CPU:0", 1, XLA_RECURRENT_STEPS - 1, recurrent=True) == "graph"
    assert choose_compilation("auto", "act", "/CPU:0", 1, 1000 * LONG) == "graph"
    assert choose_compilation("auto", "act", "/GPU:0", 1, SHORT) == "xla"


def test_only_environments_in_the_graph_have_rollouts_of_xla():
    modes = {backend: ControlTrainer(make_control_config(backend=backend)).rollout_mode for backend in BACKENDS}
    assert modes == {"graph": "xla", "gymnasium": "graph"}


def test_eager_is_the_function_itself():
    def function(x):
        return x

    assert compiled(function, "eager") is function


@pytest.mark.parametrize("phase", ["rollout", "update"])
def test_language_models_are_compiled_by_xla_where_there_are_tokens_enough(phase):
    few, many = XLA_TOKENS[phase] - 1, XLA_TOKENS[phase]
    assert choose_token_compilation("auto", phase, "/CPU:0", few) == "graph"
    assert choose_token_compilation("auto", phase, "/CPU:0", many) == "xla"
    assert choose_token_compilation("auto", phase, "/GPU:0", few) == "xla"
    assert choose_token_compilation("eager", phase, "/GPU:0", many) == "eager"


def test_a_language_model_goes_to_the_gpu_where_there_is_one(set_gpus):
    set_gpus(0)
    assert choose_device("auto", None)[0] == "/CPU:0"
    set_gpus(1)
    assert choose_device("auto", None) == ("/GPU:0", "language models run faster on a GPU")


def test_graph_and_xla_trace_once_and_only_xla_compiles():
    """XLA does not support strings, so it fails for a function that a graph can run."""
    traces = []

    def function(x):
        traces.append(tf.executing_eagerly())
        return tf.strings.length(tf.strings.as_string(x))

    graph, xla = compiled(function, "graph"), compiled(function, "xla")
    assert [int(graph(tf.constant(x))) for x in (7, 11)] == [1, 2]
    assert traces == [False]
    with pytest.raises(tf.errors.InvalidArgumentError, match="XLA"):
        xla(tf.constant(7))


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_direct_call_is_the_call(mode):
    """The arguments are arrays or tensors, there are several results, and the call uses the current weights."""
    weights = tf.Variable([1.0, 2.0])

    def function(x, index):
        return [x * weights, x[index]]

    program = compiled(function, mode)
    direct = call_directly(program, [tf.zeros([3, 2]), tf.constant(0)])
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    for _ in range(2):
        for given in (x, tf.constant(x)):
            for a, b in zip(direct(given, tf.constant(1)), program(tf.constant(x), tf.constant(1)), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
        weights.assign([3.0, 4.0])


def test_a_direct_call_is_compiled_as_asked():
    """XLA does not support strings, so an error shows that XLA compiled the function."""

    def function(x):
        return [tf.strings.length(tf.strings.as_string(x))]

    example = [tf.zeros([2], tf.int32)]
    for mode in ("eager", "graph"):
        np.testing.assert_array_equal(
            call_directly(compiled(function, mode), example)(np.array([5, 10], np.int32))[0], [1, 2]
        )
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)):
        call_directly(compiled(function, "xla"), example)(np.array([5, 10], np.int32))


REPEATABLE = """
import sys
import tensorflow as tf
from tensorflow.python.framework import config  # is_op_determinism_enabled is not public
from tfppo.errors import UsageError
from tfppo.execution.devices import apply_execution_settings
from tfppo.training.config import RunConfig
threads, deterministic = int(sys.argv[1]), sys.argv[2] == "True"
def applied(threads):
    return apply_execution_settings(RunConfig(threads=threads, deterministic=deterministic))["threads"]
kept = applied(threads)
tf.constant(1.0) + 1.0
threading = tf.config.threading
print(kept, threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
print(config.is_op_determinism_enabled())
print(applied(kept) == kept)
try:
    applied(kept + 1)
except UsageError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "deterministic"), [(3, False), (0, True)])
def test_a_process_runs_as_it_is_told_until_it_has_begun(threads, deterministic):
    done = subprocess.run(
        [sys.executable, "-c", REPEATABLE, str(threads), str(deterministic)], capture_output=True, text=True, check=True
    )
    counts, is_deterministic, again, refused = done.stdout.splitlines()
    chosen = threads or len(os.sched_getaffinity(0))
    kept, *set_to = map(int, counts.split())
    assert kept == chosen and set(set_to) <= {chosen, 0 if threads == 0 else chosen}  # 0: TensorFlow's own default
    assert (is_deterministic, again) == (str(deterministic), "True")
    assert refused.startswith(f"threads is {chosen + 1}, but TensorFlow already runs with {chosen} in this process")


FITTED = """
import tensorflow as tf
import tfppo
small = {"num_envs": 2, "rollout_length": 8, "minibatch_size": 16, "num_epochs": 1, "total_steps": 16}
trainer = tfppo.ControlTrainer(tfppo.make_control_config(threads=1, **small))
trainer.fit(verbose=0)
print(tf.config.threading.get_intra_op_parallelism_threads(), trainer.config.run.threads)
"""


@pytest.mark.slow
def test_a_trainer_in_python_has_the_threads_of_its_settings():
    done = subprocess.run([sys.executable, "-c", FITTED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1 1"


def test_a_run_refuses_the_library_for_matrices_that_tensorflow_does_not_use():
    now = uses_onednn()
    assert apply_execution_settings(RunConfig(onednn=now, deterministic=False))["onednn"] == now
    assert apply_execution_settings(RunConfig(deterministic=False))["onednn"] == now
    with pytest.raises(UsageError) as refused:
        apply_execution_settings(RunConfig(onednn=not now, deterministic=False))
    assert str(refused.value) == (
        f"onednn is {not now}, but TensorFlow runs {'with' if now else 'without'} oneDNN in this process: set the "
        f"environment variable TF_ENABLE_ONEDNN_OPTS to {int(not now)} before Python starts, or make onednn null"
    )


@pytest.mark.parametrize(
    ("variable", "setting", "language_model", "chosen"),
    [
        (None, None, False, None),  # TensorFlow's own choice, which depends on the processor
        (None, None, True, "1"),
        ("0", None, True, "0"),
        ("1", None, False, "1"),
        ("1", False, True, "0"),
        ("0", True, False, "1"),
        (None, False, False, "0"),
    ],
)
def test_the_library_for_matrices_is_chosen_before_tensorflow_is_imported(
    variable, setting, language_model, chosen, monkeypatch
):
    monkeypatch.setenv(VARIABLE, "")  # so that the old value comes back after the test
    monkeypatch.delenv(VARIABLE) if variable is None else monkeypatch.setenv(VARIABLE, variable)
    choose_onednn(True)  # TensorFlow is imported already
    assert os.environ.get(VARIABLE) == variable
    monkeypatch.delitem(sys.modules, "tensorflow")
    choose_onednn(setting, language_model)
    assert os.environ.get(VARIABLE) == chosen


ASKED = """
import os, sys
import tfppo
tfppo.{name}
print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"), "tensorflow" in sys.modules)
"""


@pytest.mark.parametrize(("name", "asks"), [("make_text_config", "1"), ("make_control_config", "None")])
def test_python_asks_for_onednn_before_the_first_use_of_a_language_model(name, asks):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", ASKED.format(name=name)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [asks, "False"]


@pytest.fixture
def warnings_of_tensorflow(caplog):
    """Returns the warnings of TensorFlow, whose logger does not pass them on."""
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "tensorflow"]
    logger.removeHandler(caplog.handler)


def test_many_programs_of_the_same_code_are_no_retraces(warnings_of_tensorflow):
    """Several models and evaluations in one process compile the same code, each a single time."""

    def double(x):
        return 2 * x

    for _ in range(8):
        assert int(compiled(double, "graph")(tf.constant(3))) == 6
    assert warnings_of_tensorflow() == []


def test_many_traces_of_one_program_are_still_warned_of(warnings_of_tensorflow):
    function = compiled(lambda x: 2 * x, "graph")
    for length in range(8):
        function(tf.zeros([length]))
    assert any("triggered tf.function retracing" in text for text in warnings_of_tensorflow())
