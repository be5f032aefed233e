"""Compilation modes: "xla", "graph" or "eager", chosen for each phase of a run.

"auto" is a rule over the device, the batch size and the length of the run. No time is measured, so the same settings
give the same bits on the same machine.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeGuard, TypeVar

import tensorflow as tf

Mode = Literal["xla", "graph", "eager"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# The most rows for which one XLA thread is faster than the two threads of graph mode. For "act", a step of environments
# in Python, the call of an XLA program always costs more time than XLA saves.
XLA_ROWS = {"rollout": 16_384, "update": 4_096, "act": 0}
XLA_TOKENS = {"rollout": 100_000, "update": 400_000}  # tokens in a text run from which XLA saves time
XLA_GRADIENT_STEPS = 5_000  # gradient steps in a run from which XLA saves more time than it compiles
XLA_RECURRENT_STEPS = 1_000  # the same for a recurrent policy, a loop of small operations that XLA makes twice as fast


def choose_compilation(
    setting: str, phase: str, device: str, rows: int, gradient_steps: int, recurrent: bool = False
) -> str:
    """Chooses the compilation mode of a phase of a control run.

    On a GPU, "auto" is XLA. On the CPU, XLA runs element-wise work on one thread and takes seconds to compile. "auto"
    is XLA there if a step has at most `XLA_ROWS[phase]` rows and the run has at least `XLA_GRADIENT_STEPS` gradient
    steps (`XLA_RECURRENT_STEPS` for a recurrent policy). Otherwise it is a plain graph.

    Args:
      setting: "auto", "xla", "graph" or "eager".
      phase: "rollout" (a rollout in the graph), "act" (a step of a rollout in Python) or "update".
      device: The device of the run, for example "/CPU:0".
      rows: Rows per step. These are environments in a rollout and items of a minibatch in an update.
      gradient_steps: Gradient steps in the whole run.
      recurrent: True if the policy is recurrent.

    Returns:
      "xla", "graph" or "eager".
    """
    if setting != "auto":
        return setting
    pays = rows <= XLA_ROWS[phase] and gradient_steps >= (XLA_RECURRENT_STEPS if recurrent else XLA_GRADIENT_STEPS)
    return "xla" if "GPU" in device or pays else "graph"


def choose_token_compilation(setting: Literal["auto"] | Mode, phase: str, device: str, tokens: int) -> Mode:
    """Chooses the compilation mode of a phase of a text run.

    Between their matrix products, language models run many small operations, which XLA fuses. On two CPU cores XLA
    takes about four fifths of the time of a plain graph, but it compiles for longer. "auto" is XLA on a GPU, and on the
    CPU from `XLA_TOKENS[phase]` tokens on. Otherwise it is a plain graph.

    Args:
      setting: "auto", "xla", "graph" or "eager".
      phase: "rollout" (sampling) or "update" (evaluation and training).
      device: The device of the run, for example "/CPU:0".
      tokens: Tokens in the phase, over the whole run.

    Returns:
      "xla", "graph" or "eager".
    """
    if setting != "auto":
        return setting
    return "xla" if "GPU" in device or tokens >= XLA_TOKENS[phase] else "graph"


def compiled(function: Callable[Parameters, Result], mode: str) -> Callable[Parameters, Result]:
    """Compiles a function in the given mode.

    Args:
      function: A function of tensors.
      mode: "xla", "graph" or "eager".

    Returns:
      A `tf.function`, or with "eager" the function itself.
    """
    if mode == "eager":
        return function
    # TensorFlow counts retraces for each piece of Python code, and warns of many. Several models and evaluations in one
    # process compile the same code, each with a graph of its own. A partial function is counted by itself.
    counted = functools.partial(function)
    return tf.function(counted, autograph=False, jit_compile=mode == "xla")


def is_compiled(function: Callable[..., object]) -> TypeGuard[tf.types.experimental.PolymorphicFunction]:
    """Returns whether a function is a `tf.function`. `compiled` returns one in every mode except "eager"."""
    return isinstance(function, tf.types.experimental.PolymorphicFunction)


def call_directly(
    function: Callable[..., list[tf.Tensor]], example: Sequence[tf.Tensor]
) -> Callable[..., list[tf.Tensor]]:
    """Specializes a function to one signature, so that a call takes less time.

    A `tf.function` inspects every argument to find its program, which takes longer than to run a small network. The
    function that is returned here calls the program as an operand of one op. Its arguments may also be arrays. It does
    not check them.

    Args:
      function: The result of `compiled`, a function from tensors to a list of tensors.
      example: Tensors with the shapes and types of the arguments of all calls.

    Returns:
      A function with the same arguments and results.
    """
    if not is_compiled(function):  # eager
        return lambda *inputs: function(*map(tf.convert_to_tensor, inputs))
    # The op below does not compile its operand with XLA, but a call inside of the operand is compiled.
    outer = tf.function(lambda *inputs: function(*inputs), autograph=False)
    program = outer.get_concrete_function(*(tf.TensorSpec(x.shape, x.dtype) for x in example))
    captured, types = program.captured_inputs, [x.dtype for x in program.outputs]
    return lambda *inputs: tf.raw_ops.StatefulPartitionedCall(args=[*inputs, *captured], Tout=types, f=program)
