"""How a phase is compiled.

"auto" is a rule over device, batch size and length of the run, never a timing: the same settings give the same bits on
the same machine.
"""

from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeGuard, TypeVar

import tensorflow as tf

Mode = Literal["xla", "graph", "eager"]
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Up to which one XLA thread beats the two of graph mode. A step of environments in Python ("act") never repays the time
# that it takes to call an XLA program.
XLA_ROWS = {"rollout": 16_384, "update": 4_096, "act": 0}
XLA_TOKENS = {"rollout": 100_000, "update": 400_000}  # of a text run, from which XLA's compilation is repaid
XLA_GRADIENT_STEPS = 5_000  # length of a run from which XLA's seconds of compilation are repaid
XLA_RECURRENT_STEPS = 1_000  # the same, where a step is a loop of small operations, which XLA makes twice as fast


def choose_compilation(
    setting: str, phase: str, device: str, rows: int, gradient_steps: int, recurrent: bool = False
) -> str:
    """Returns the mode ("xla", "graph" or "eager") that `setting` stands for; "auto" is a rule.

    On a GPU always XLA. On the CPU XLA runs element-wise work on one thread and takes seconds to compile: it is chosen
    up to `XLA_ROWS[phase]` rows a step (environments in a rollout, items of a minibatch in an update) in runs of
    at least `XLA_GRADIENT_STEPS` gradient steps (a recurrent policy: `XLA_RECURRENT_STEPS`), plain graphs otherwise.

    Args:
      setting: "auto", or the mode itself.
      phase: "rollout" (in the graph), "act" (a step of a rollout in Python) or "update".
      device: where it runs.
      rows: of a step.
      gradient_steps: in the whole run.
      recurrent: whether the policy has a memory.
    """
    if setting != "auto":
        return setting
    pays = rows <= XLA_ROWS[phase] and gradient_steps >= (XLA_RECURRENT_STEPS if recurrent else XLA_GRADIENT_STEPS)
    return "xla" if "GPU" in device or pays else "graph"


def choose_token_compilation(setting: Literal["auto"] | Mode, phase: str, device: str, tokens: int) -> Mode:
    """The mode that `setting` stands for where a language model samples ("rollout") or is evaluated and trained on
    ("update") `tokens` tokens in the whole run.

    Both are many small operations between the matrix products, which XLA fuses: on two CPU cores it takes about four
    fifths of the time of a plain graph, and longer to compile.
    """
    if setting != "auto":
        return setting
    return "xla" if "GPU" in device or tokens >= XLA_TOKENS[phase] else "graph"


def compiled(function: Callable[Parameters, Result], mode: str) -> Callable[Parameters, Result]:
    """Makes a tf.function of a function, compiled by XLA or a plain graph; with "eager" returns it as it is."""
    if mode == "eager":
        return function
    return tf.function(function, autograph=False, jit_compile=mode == "xla")


def is_compiled(function: Callable[..., object]) -> TypeGuard[tf.types.experimental.PolymorphicFunction]:
    """Returns whether a function is a tf.function, which `compiled` makes unless the mode is "eager"."""
    return isinstance(function, tf.types.experimental.PolymorphicFunction)


def call_directly(
    function: Callable[..., list[tf.Tensor]], example: Sequence[tf.Tensor]
) -> Callable[..., list[tf.Tensor]]:
    """Specializes what `compiled` returned, of tensors to a list of tensors, to one signature and to many calls.

    A tf.function inspects every argument to find its program, which takes longer than a small network. Here the program
    is the operand of an op. Arguments may be arrays, and are not checked.

    Args:
      function: compiled, or eager.
      example: tensors of the shapes and types that it will be called with.
    """
    if not is_compiled(function):  # eager
        return lambda *inputs: function(*map(tf.convert_to_tensor, inputs))
    outer = tf.function(lambda *inputs: function(*inputs), autograph=False)  # the op itself knows nothing of XLA
    program = outer.get_concrete_function(*(tf.TensorSpec(x.shape, x.dtype) for x in example))
    captured, types = program.captured_inputs, [x.dtype for x in program.outputs]
    return lambda *inputs: tf.raw_ops.StatefulPartitionedCall(args=[*inputs, *captured], Tout=types, f=program)
