"""Arguments and wrappers of environments, as the settings `env_kwargs` and `wrappers` name them.

This module does not import TensorFlow, so that the command line starts fast.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import yaml

from tfppo.errors import UsageError, kind_and_text, one_line, shown
from tfppo.training.user_modules import load_named

Wrapper: TypeAlias = Callable[[Any], Any]
"""A function that takes an environment and returns it inside a wrapper."""


class WrapperCall(NamedTuple):
    """A wrapper as a setting names it, for example `TimeLimit(max_episode_steps=100)`."""

    name: str  # a name in gymnasium.wrappers, or "module:Class"
    arguments: tuple[Any, ...]
    named: dict[str, Any]


def parse_env_kwargs(words: Sequence[str], name: str = "env_kwargs") -> dict[str, Any]:
    """Parses the arguments of an environment's constructor.

    Args:
      words: "key=value" each; a value as in YAML, such as 5, true, null or [1, 2].
      name: Name of the setting, for errors.

    Returns:
      The values by key.

    Raises:
      UsageError: If a word has another form, or a key is given twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"{name} has {word!r}; its value is not valid YAML ({one_line(error)})") from None
        if not (equals and key.isidentifier()):
            raise UsageError(f"{name} has {word!r}; it must have the form key=value, such as size=5")
        if key in values:
            raise UsageError(f"{name} has {key} twice; give it once")
        values[key] = parsed
    return values


def format_env_kwargs(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the words that `parse_env_kwargs` parses, from a dictionary that was given in Python."""
    flow = {key: yaml.safe_dump(value, default_flow_style=True, width=10**6) for key, value in values.items()}
    return tuple(f"{key}={text.removesuffix('...' + chr(10)).strip()}" for key, text in flow.items())


def parse_wrapper(text: str) -> WrapperCall:
    """Parses a wrapper of the setting `wrappers`.

    Args:
      text: A name, or a name with arguments in brackets, which are Python's literals.

    Raises:
      UsageError: If the text has another form.
    """
    name, bracket, _ = text.partition("(")
    try:
        call: Any = ast.parse(f"f{text[len(name) :]}" if bracket else "f()", mode="eval").body
        if (
            not isinstance(call, ast.Call)
            or not isinstance(call.func, ast.Name)
            or any(keyword.arg is None for keyword in call.keywords)
        ):
            raise ValueError("it is no call")
        arguments = tuple(ast.literal_eval(argument) for argument in call.args)
        named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise UsageError(
            f"wrappers has {shown(text)} ({one_line(error)}); it must be a name, or a name with arguments such as "
            "TimeLimit(max_episode_steps=100)"
        ) from None
    if not all(part.isidentifier() for part in name.strip().replace(":", ".").split(".")):
        raise UsageError(
            f"wrappers has {shown(text)}; it must begin with the name of a wrapper of Gymnasium, or with module:Class"
        )
    return WrapperCall(name.strip(), arguments, named)


def load_wrapper(text: str) -> Wrapper:
    """Finds a wrapper by its name, and binds its arguments.

    Args:
      text: As for `parse_wrapper`.

    Returns:
      The function that wraps an environment.

    Raises:
      UsageError: If the text has another form, there is no such wrapper, or its module cannot be imported.
    """
    from gymnasium import wrappers

    name, arguments, named = parse_wrapper(text)
    if ":" in name:
        found: Any = load_named(name, "wrappers", "class")
    else:
        known = [other for other in wrappers.__all__ if other[0].isupper()]
        found = getattr(wrappers, name, None) if name in known else None
        if found is None:
            raise UsageError(
                f"wrappers has {shown(text)}; Gymnasium has {', '.join(sorted(known))}: give one of these, "
                "or module:Class for your own"
            )

    def wrap(env: Any) -> Any:
        try:
            return found(env, *arguments, **named)
        except Exception as error:
            raise UsageError(
                f"wrapper {text} cannot wrap the environment ({kind_and_text(error)}): correct its arguments, or leave "
                "it out"
            ) from error

    if found is wrappers.TimeLimit:
        wrap.time_limit = named.get("max_episode_steps", *arguments[:1])  # type: ignore[attr-defined]
    return wrap


def options_of(env_kwargs: Sequence[str], wrappers: Sequence[str], replaced: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the options of `make_vector_environment` for the settings `env_kwargs` and `wrappers`.

    Args:
      env_kwargs: As for `parse_env_kwargs`.
      wrappers: As for `parse_wrapper`, the innermost first.
      replaced: More arguments, which replace those of the same name.

    Returns:
      The arguments of the environment, and the functions that wrap it under "wrappers" if there are any.

    Raises:
      UsageError: If an argument or a wrapper is invalid.
    """
    options = parse_env_kwargs(env_kwargs) | parse_env_kwargs(replaced)
    return options | ({"wrappers": tuple(map(load_wrapper, wrappers))} if wrappers else {})
