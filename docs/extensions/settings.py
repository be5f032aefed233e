"""Directives that describe settings: `settings` and `changed-settings`.

.. settings:: tfppo.PPOConfig              every field of a config dataclass: type, limits, default and text
.. changed-settings:: tfppo.text.config.TEXT_PPO      the fields in which an object differs from the defaults
"""

import dataclasses
import importlib
import inspect
import sys
import types
import typing

from annotated_types import Ge, Gt, Interval, Le, Lt
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from tfppo.settings import Must

WORDS = {str: "text", int: "whole number", float: "number", bool: "True or False", type(None): "None"}


class Settings(SphinxDirective):
    """Renders a config dataclass; its argument is the full name of the class."""

    required_arguments = 1

    def run(self):
        """Returns the nodes of a class with one attribute for each field."""
        name = self.arguments[0]
        module, _, class_name = name.rpartition(".")
        cls = getattr(importlib.import_module(module), class_name)
        self.env.note_dependency(sys.modules[cls.__module__].__file__)  # builds the page again if the module changes
        canonical = f"{cls.__module__}.{class_name}"
        lines = [f".. py:class:: {name}(**settings)"]
        lines += [f"   :canonical: {canonical}"] if canonical != name else []
        lines += ["", *(f"   {line}" for line in inspect.getdoc(cls).splitlines()), ""]
        for field in fields_of(cls):
            lines += [f"   .. py:attribute:: {field.name}"]
            lines += [f"      :value: {field.default}"] if field.default else []
            lines += ["", *(f"      {line}" for line in field.text), "", f"      *Type:* {field.kind}.", ""]
        return self.parse_text_to_nodes("\n".join(lines))


class ChangedSettings(SphinxDirective):
    """Renders a table of the settings in which an object differs from the defaults of its class."""

    required_arguments = 1

    def run(self):
        """Returns the nodes of the table."""
        module, _, name = self.arguments[0].rpartition(".")
        config = getattr(importlib.import_module(module), name)
        self.env.note_dependency(sys.modules[module].__file__)
        lines = [".. list-table::", "   :header-rows: 1", "", "   * - setting", "     - text", "     - elsewhere"]
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if value != field.default:
                owner = f"{type(config).__module__}.{type(config).__name__}"
                lines += [f"   * - :py:attr:`{field.name} <{owner}.{field.name}>`"]
                lines += [f"     - `{value!r}`", f"     - `{field.default!r}`"]
        return self.parse_text_to_nodes("\n".join(lines))


class Field(typing.NamedTuple):
    """A field of a config dataclass, in words."""

    name: str
    kind: str
    default: str
    text: list[str]


def fields_of(cls):
    """Returns the fields of a config dataclass in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [
        Field(field.name, kind_of(hints[field.name]), default_of(field), text_of(cls, field.name))
        for field in dataclasses.fields(cls)
    ]


def text_of(cls, name):
    """Returns the lines below a field in the source of its class, or of the class that it inherits the field from."""
    owner = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    return ModuleAnalyzer.for_module(owner.__module__).find_attr_docs().get((owner.__name__, name), [])


def default_of(field):
    """Returns the default of a field as Python code; empty where it is another config."""
    return "" if field.default is dataclasses.MISSING else repr(field.default).replace("PosixPath", "Path")


def kind_of(hint):
    """Returns an annotation in words: "whole number, at least 1, or None"."""
    if typing.get_origin(hint) is typing.Annotated:
        kind, optional, _ = kind_of(hint.__origin__).partition(" or None")
        kinds = [] if kind == "text" else [kind]  # its constraint says what the text is
        limits = [limit_of(constraint) for constraint in hint.__metadata__]
        return ", ".join([*kinds, *limits, *(["or None"] if optional else [])])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(kind_of(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"tuple of {kind_of(typing.get_args(hint)[0])}s"
    return WORDS.get(hint, hint.__name__)


def limit_of(constraint):
    """Returns a constraint of `tfppo.settings` in words."""
    if isinstance(constraint, Must):
        return constraint.wanted
    if isinstance(constraint, Interval):
        bounds = {"at least": constraint.ge, "above": constraint.gt, "at most": constraint.le, "below": constraint.lt}
    else:
        words = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}
        word, attribute = words[type(constraint)]
        bounds = {word: getattr(constraint, attribute)}
    return ", ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


def setup(app):
    """Adds the directives to Sphinx."""
    app.add_directive("settings", Settings)
    app.add_directive("changed-settings", ChangedSettings)
    return {"parallel_read_safe": True}
