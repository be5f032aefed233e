"""Names of the layers and weights of a language model, and its frozen weights.

Keras numbers the layers without a name of their own within a process (`lstm`, `lstm_1`, ...). The paths of this module
number them within the model, so that a path means the same weight in a copy and in another process.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import keras
import keras_hub

from tfppo.errors import UsageError, one_line


def layers_by_path(model: keras.Model) -> dict[str, keras.Layer]:
    """Returns all layers of a model, without its preprocessor.

    Args:
      model: A Keras language model.

    Returns:
      The layers by path, for example `gpt2_backbone/transformer_layer_0/self_attention/query`, in the order of the
      weights of `model`. The path of the model itself is empty.
    """
    return dict(_walk(model, "", set()))


def weights_by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns all weights of a model.

    Args:
      model: A Keras language model.

    Returns:
      The weights by path: the path of their layer, a slash, and their name.
    """
    weights: dict[str, keras.Variable] = {}
    seen: set[int] = set()
    for path, layer in layers_by_path(model).items():
        own = [w for w in layer._trainable_variables + layer._non_trainable_variables if id(w) not in seen]
        seen.update(map(id, own))
        for label, weight in zip(_distinct(weight.name for weight in own), own, strict=True):
            weights[f"{path}/{label}" if path else label] = weight
    return weights


def frozen_paths(model: keras.Model) -> tuple[str, ...]:
    """Returns the paths of the weights that are not trained.

    Args:
      model: A Keras language model.

    Returns:
      The paths, sorted. A model of the same class and sizes has the same paths, also in another process.
    """
    trained = {id(weight) for weight in model.trainable_weights}
    return tuple(sorted(path for path, weight in weights_by_path(model).items() if id(weight) not in trained))


def fixed_weights(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights that nothing changes: their layers made them to be trained, but they are frozen.

    Such a weight keeps the value that was loaded with the model. Two other kinds of weights can change, and are not
    returned: those that are trained, adapters included, and those that a layer makes with `trainable=False`, such as
    running statistics and counters, which the layer may change itself in each pass. The states of random seeds are no
    weights in Keras.

    Args:
      model: A Keras language model, after its adapters were added.
    """
    trained = {id(weight) for weight in model.trainable_weights}
    made = [weight for layer in layers_by_path(model).values() for weight in layer._trainable_variables]
    return [weight for weight in made if id(weight) not in trained]


def freeze_paths(model: keras.Model, paths: Iterable[str]) -> None:
    """Freezes the weights with the given paths, and makes all other weights trainable.

    Args:
      model: A Keras language model.
      paths: The result of `frozen_paths` for a model of the same class and sizes.

    Raises:
      UsageError: If the model has no weight with one of the paths.
    """
    frozen, weights = set(paths), weights_by_path(model)
    unknown = sorted(frozen - set(weights))
    if unknown:
        raise UsageError(
            f"the frozen weight {one_line(unknown[0])} is not part of {type(model).__name__}; frozen weights must be "
            "those of the same model: give the model with which the run began"
        )
    model.trainable = True
    for path, weight in weights.items():
        weight.trainable = path not in frozen


def _walk(layer: keras.Layer, path: str, seen: set[int]) -> Iterator[tuple[str, keras.Layer]]:
    seen.add(id(layer))
    yield path, layer
    parts = [part for part in layer._layers if not isinstance(part, keras_hub.models.Preprocessor)]
    for label, part in zip(_distinct(map(_name, parts)), parts, strict=True):
        if id(part) not in seen:
            yield from _walk(part, f"{path}/{label}" if path else label, seen)


def _name(layer: keras.Layer) -> str:
    """Returns the name of a layer, without the number that Keras appends to a name that it chooses itself."""
    name = re.sub(r"_\d+$", "", layer.name)
    return name if name.replace("_", "") == type(layer).__name__.lower() else layer.name


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """Appends numbers to repeated names."""
    counts: Counter[str] = Counter()
    for name in names:
        yield f"{name}_{counts[name]}" if counts[name] else name
        counts[name] += 1
