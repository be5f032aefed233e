"""Calls the user's functions of prompts and responses, by the names of their parameters or in this order."""

import inspect
from collections.abc import Callable, Sequence
from typing import TypeVar

from tfppo.errors import UsageError, one_line

T = TypeVar("T")
TEXTS = ("prompts", "responses")


def call_with_texts(function: Callable[..., T], prompts: Sequence[str], responses: Sequence[str]) -> T:
    """Calls a function with lists of its own, which it may change.

    Args:
      function: A function that `check_signature` accepts.
      prompts: N prompts.
      responses: N responses.

    Returns:
      The result of the function.
    """
    texts = list(prompts), list(responses)
    return function(**dict(zip(TEXTS, texts, strict=True))) if takes_names(function) else function(*texts)


def check_signature(function: Callable[..., object], what: str) -> None:
    """Checks that a function can take prompts and responses.

    Args:
      function: A function, a partial of one, a bound method or another callable object. A builtin function without a
        signature is accepted.
      what: Name of the function, the beginning of the error.

    Raises:
      UsageError: If it needs other arguments, or if the order of its parameters contradicts their names.
    """
    if takes_names(function) is None:
        raise UsageError(
            f"{what} has the parameters {one_line(inspect.signature(function))}; it must take two lists, prompts and "
            "responses: define it with the parameters (prompts, responses), and give all others a default"
        )


def takes_names(function: Callable[..., object]) -> bool | None:
    """Returns how a function takes prompts and responses.

    Args:
      function: Any callable object.

    Returns:
      True if it takes them by name, False if it takes them in the order prompts, responses, and None if it cannot take
      them.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtin functions have no signature
        return False
    in_order = signature.bind(*TEXTS).arguments if _binds(signature, *TEXTS) else None
    if in_order == dict(zip(TEXTS, TEXTS, strict=True)):
        return False  # both ways are right, and a wrapper of the function may take no names
    by_name = _binds(signature, **dict.fromkeys(TEXTS))
    if by_name and all(name in signature.parameters for name in TEXTS):
        return True
    if in_order is not None and all(in_order.get(name, name) == name for name in TEXTS):
        return False
    return True if by_name else None


def _binds(signature: inspect.Signature, *args: object, **kwargs: object) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
