"""Rematerialization: the backward pass computes layers again, so that their activations need not be kept.

`keras.RematScope` acts only on layers that are made within it. It uses `tf.recompute_grad`, which takes no keyword
arguments in a graph, and which draws another dropout mask in the backward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import keras_hub
import tensorflow as tf

from tfppo.errors import UsageError


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a language model that are computed again if it is rematerialized.

    Args:
      model: A KerasHub CausalLM or an `LSTMLanguageModel`.

    Raises:
      UsageError: If the model has no list of layers.
    """
    is_causal = isinstance(model, keras_hub.models.CausalLM)
    layers = getattr(model.backbone, "transformer_layers", ()) if is_causal else getattr(model, "lstm_layers", ())
    if not layers:
        raise UsageError(
            f"rematerialize is True; {type(model).__name__} has no list of layers with the name transformer_layers: "
            "leave rematerialize out"
        )
    return list(layers)


@contextmanager
def rematerialized(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Makes layers keep only their inputs for the backward pass within a `with` block.

    This also holds for what the block traces into a graph. The gradient must be computed outside of the block.

    Args:
      layers: Built layers, each of which the block calls at most once. No layers: nothing changes.

    Yields:
      None.
    """
    for layer in layers:
        layer.call = _rematerialized_call(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _rematerialized_call(layer: keras.layers.Layer) -> Callable[..., Any]:
    call, variables = layer.call, layer.variables
    values = [tf.convert_to_tensor(variable) for variable in variables]  # before a scope of Keras casts them

    def rematerialized_call(*args: Any, **kwargs: Any) -> Any:
        outputs, losses = _run(call, layer, variables, values, args, kwargs)
        for loss in losses:
            layer.add_loss(loss)
        return outputs

    return rematerialized_call


def recomputed(function: Callable[..., Any], variables: Sequence[keras.Variable], *args: tf.Tensor) -> Any:
    """Calls a function of tensors, and calls it again in the backward pass (Chen et al. 2016, section 3).

    Args:
      function: The function. It must not add losses.
      variables: All variables that the function reads.
      *args: Of the function.

    Returns:
      The result of the function.
    """
    return _run(function, function, variables, [tf.convert_to_tensor(variable) for variable in variables], args, {})[0]


def _run(
    forward: Callable[..., Any],
    again: Callable[..., Any],
    variables: Sequence[keras.Variable],
    values: Sequence[tf.Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, list[tf.Tensor]]:
    """Calls a function with a gradient that calls it again, with the same inputs and random seeds.

    Args:
      forward: The function.
      again: Computes the same in the backward pass, where the scopes of Keras that surround `forward` have ended.
      variables: All variables that the function reads.
      values: Their values.
      args: Of the function; nests of tensors and of anything else.
      kwargs: Of the function.

    Returns:
      The result of the function, and the losses that layers added in it.
    """
    inputs = tf.nest.flatten((args, kwargs))
    places = [place for place, x in enumerate(inputs) if tf.is_tensor(x) and x.dtype.is_floating]
    trained = [place for place, variable in enumerate(variables) if variable.trainable]
    updates: list[tuple[keras.Variable, tf.Tensor]] = []

    def evaluate(function: Callable[..., Any], given: Sequence[tf.Tensor]) -> tuple[Any, list[tf.Tensor]]:
        """Calls the function with other float inputs and trained weights, and without a change of the variables."""
        known = [tf.stop_gradient(x) for x in values]
        for place, x in zip(trained, given[len(places) :], strict=True):
            known[place] = x
        replaced = list(inputs)
        for place, x in zip(places, given[: len(places)], strict=True):
            replaced[place] = x
        positional, named = tf.nest.pack_sequence_as((args, kwargs), replaced)
        pairs = list(zip(variables, known, strict=True))
        with keras.StatelessScope(pairs, collect_losses=True, initialize_variables=False) as scope:
            outputs = function(*positional, **named)
        updates[:] = [(v, scope.get_current_value(v)) for v, old in pairs if scope.get_current_value(v) is not old]
        return outputs, scope.losses

    @tf.custom_gradient
    def run(*given: tf.Tensor) -> tuple[Any, Callable[..., list[tf.Tensor | None]]]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor | None]:
            # Without this dependency, a compiler may find that both calls are equal, and keep the activations after
            # all. The number is 0, or NaN if the gradient is.
            zero = tf.minimum(tf.abs(tf.reshape(upstream[0], [-1])[0]), 0)
            delayed = [x + tf.cast(zero, x.dtype) for x in given[: len(places)]]
            watched = [*delayed, *map(tf.identity, given[len(places) :])]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                result = evaluate(again, watched)
            slopes = tape.gradient(tf.nest.flatten(result), watched, list(upstream))
            return [None if slope is None else tf.convert_to_tensor(slope) for slope in slopes]

        return evaluate(forward, [tf.stop_gradient(x) for x in given]), gradient  # no tape keeps the activations

    found = run(*(inputs[place] for place in places), *(values[place] for place in trained))
    for variable, value in updates:
        variable.assign(value)
    return found
