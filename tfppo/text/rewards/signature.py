"""Calls the user's functions of prompts and responses, and of labels of the prompts, by their parameters."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from tfppo.errors import UsageError, one_line
from tfppo.text.data.prompts import TEXTS, Prompt, labels_of

T = TypeVar("T")
BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Way(NamedTuple):
    """How a function takes prompts, responses and labels."""

    by_name: bool  # False: the first two arguments are the prompts and the responses
    required: tuple[str, ...] = ()  # labels that it needs
    optional: tuple[str, ...] = ()  # labels that it takes if the prompts have them
    takes_all: bool = False  # it takes any label, by **columns
    fixed: tuple[str, ...] = ()  # arguments that functools.partial gives; labels of these names are left out


def call_with_texts(function: Callable[..., T], prompts: Sequence[str], responses: Sequence[str]) -> T:
    """Calls a function with lists of its own, which it may change.

    Args:
      function: A function that `check_signature` accepts.
      prompts: N prompts. If they have labels, the function gets those that its parameters name.
      responses: N responses.

    Returns:
      The result of the function.
    """
    way = (way_of(function) or Way(by_name=False))._replace(fixed=_fixed_by_partial(function))
    texts, labels = [list(prompts), list(responses)], _labels_for(way, labels_of(prompts))
    if way.by_name:
        return function(**dict(zip(TEXTS, texts, strict=True)), **labels)
    return function(*texts, **labels)


def check_signature(function: Callable[..., object], what: str) -> None:
    """Checks that a function can take prompts and responses. All its other parameters are labels of the prompts.

    Args:
      function: A function, a partial of one, a bound method or another callable object. A builtin function without a
        signature is accepted.
      what: Name of the function, the beginning of the error.

    Raises:
      UsageError: If it cannot take them, or if the order of its parameters contradicts their names.
    """
    if way_of(function) is None:
        raise UsageError(
            f"{what} has the parameters {one_line(inspect.signature(function))}; it must take two lists, prompts and "
            "responses: define it with the parameters (prompts, responses), and add labels of the prompts by name"
        )


def check_labels(function: Callable[..., object], what: str, prompts: Sequence[str]) -> None:
    """Checks that all prompts have the labels that a function needs.

    Args:
      function: A function that `check_signature` accepts.
      what: Name of the function, the beginning of the error.
      prompts: The prompts.

    Raises:
      UsageError: If a label is missing.
    """
    way = way_of(function)
    for name in way.required if way else ():
        without = [prompt for prompt in prompts if name not in getattr(prompt, "labels", ())]
        if not without:
            continue
        if len(without) < len(prompts):
            raise UsageError(
                f"{what} needs the label {name}, and {_origin(without[0])} has none ({len(without)} of {len(prompts)} "
                "prompts have none): add it"
            )
        known = ", ".join(labels_of(prompts)) or "no labels"
        raise UsageError(
            f"{what} has the parameter {name}; it must be prompts, responses or a label of the prompts, which have "
            f"{known}: add a column {name} to the prompts, or give the parameter a default"
        )


def way_of(function: Callable[..., object]) -> Way | None:
    """Returns how a function takes prompts, responses and labels.

    Args:
      function: Any callable object.

    Returns:
      The way, or None if it cannot take prompts and responses.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtin functions have no signature
        return Way(by_name=False)
    by_place = [name for name, parameter in signature.parameters.items() if parameter.kind in BY_PLACE][:2]
    in_order, named = _labels_in(signature, by_place), _labels_in(signature, TEXTS)
    bound = _bound(signature, *TEXTS, **dict.fromkeys(in_order.required))
    placed = None if bound is None else {name: text for name, text in bound.items() if text in TEXTS}
    if placed == dict(zip(TEXTS, TEXTS, strict=True)):
        return in_order  # both ways are right, and a wrapper of the function may take no names
    by_name = _bound(signature, **dict.fromkeys((*TEXTS, *named.required))) is not None
    if by_name and all(name in signature.parameters for name in TEXTS):
        return named._replace(by_name=True)
    is_consistent = placed is not None and all(placed.get(name, name) == name for name in TEXTS)
    if is_consistent and not {*in_order.required} & {*TEXTS}:
        return in_order
    return named._replace(by_name=True) if by_name else None


def _labels_in(signature: inspect.Signature, texts: Sequence[str]) -> Way:
    """Returns the parameters that are labels, if `texts` are the parameters for prompts and responses."""
    others = [p for p in signature.parameters.values() if p.kind in BY_KEYWORD and p.name not in texts]
    return Way(
        by_name=False,
        required=tuple(p.name for p in others if p.default is inspect.Parameter.empty),
        optional=tuple(p.name for p in others if p.default is not inspect.Parameter.empty),
        takes_all=any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values()),
    )


def _labels_for(way: Way, labels: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    named = {*way.required, *way.optional}
    return {
        name: values for name, values in labels.items() if (name in named or way.takes_all) and name not in way.fixed
    }


def _fixed_by_partial(function: Callable[..., object]) -> tuple[str, ...]:
    """Returns the names of the arguments that `functools.partial` fixes, also behind a wrapper of `functools.wraps`."""
    function = inspect.unwrap(function)
    return tuple(function.keywords) if isinstance(function, functools.partial) else ()


def _origin(prompt: str) -> str:
    return prompt.origin if isinstance(prompt, Prompt) else f"the prompt {one_line(prompt)}"


def _bound(signature: inspect.Signature, *args: str, **kwargs: object) -> dict[str, object] | None:
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        return None
