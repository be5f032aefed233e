"""Prepares docstrings for Sphinx: fields of NamedTuples, one-line sections and equations.

The source keeps its short forms, and the site shows them well:

- The comment behind a field (`log_probs: tf.Tensor  # [N]`) becomes the text of the field.
- `Returns: a tensor [N]: its ids.` is a text, of which napoleon would read the beginning as a type.
- Several results (`loss: a scalar` and `metrics: a dictionary` below `Returns:`) become a list.
- A line that is an equation (`A_t = ...`) keeps its line break.
- An asterisk that touches a word (`[*rows, N]`) is no emphasis.
"""

import ast
import functools
import importlib
import inspect
import re

SECTION = re.compile(r"^(Returns|Yields):(?: (\S.*))?$")
FIELDS = {"Returns": "returns", "Yields": "Yields"}
RESULT = re.compile(r"^(\w+): (?=\S)")
ASTERISK = re.compile(r"(?<![`*\\])\*(?=[\w\[])(?![^`]*`[^`]*$)")
EQUATION = re.compile(r"^[A-Za-z]\w*(\([^()]*\))? += \S")


def setup(app):
    """Connects the functions of this module to autodoc's event; the low priority runs them before napoleon."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    app.connect("autodoc-process-docstring", _without_types, priority=900)
    app.connect("autodoc-process-signature", _without_signature)
    return {"parallel_read_safe": True}


def _process(app, what, name, obj, options, lines):
    if what in ("attribute", "property"):
        comment = field_comments(name.rpartition(".")[0]).get(name.rpartition(".")[2])
        if comment and (not any(lines) or lines[0].startswith("Alias for field number")):
            lines[:] = [comment]
    lines[:] = [ASTERISK.sub(r"\\*", line) for line in with_equations(with_fields(lines))]


def _without_types(app, what, name, obj, options, lines):
    """Undoes that napoleon takes what stands before a colon, in the text of an attribute, as its type."""
    if what in ("attribute", "property") and len(lines) > 1 and lines[-1 if lines[-1] else -2].startswith(":type: "):
        kind = lines.pop(-1 if lines[-1] else -2).removeprefix(":type: ")
        lines[0] = f"{kind}: {lines[0]}"


def _without_signature(app, what, name, obj, options, signature, return_annotation):
    """A Protocol is not called."""
    return ("", None) if what == "class" and getattr(obj, "_is_protocol", False) else None


@functools.cache
def field_comments(class_name):
    """Returns the comments behind the fields of a class, by field name; empty for anything that is not a class."""
    module, _, name = class_name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError):
        return {}
    if not inspect.isclass(cls):
        return {}
    source = inspect.getsource(inspect.getmodule(cls))
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__]
    lines = source.splitlines()
    fields = [field for node in nodes for field in node.body if isinstance(field, ast.AnnAssign)]
    comments = {field.target.id: lines[field.end_lineno - 1][field.end_col_offset :].strip() for field in fields}
    return {field: comment.removeprefix("# ") for field, comment in comments.items() if comment.startswith("# ")}


def with_fields(lines):
    """Returns the lines of a docstring with `Returns:` and `Yields:` as fields of reStructuredText.

    Napoleon would read what stands before a colon as a type. Several results become a list.
    """
    result, section = [], []
    for line in [*lines, ""]:
        match = SECTION.match(line)
        if match:
            result += [*_field(section), ""] if section else []
            section = [match[1], *([match[2]] if match[2] else [])]
        elif section and (line.startswith(" ") or not line.strip()):
            section.append(line.strip())
        else:
            result += [*_field(section), ""] if section else []
            section = []
            result.append(line)
    result += _field(section) if section else []
    return result


def _field(section):
    name, *text = section
    while text and not text[-1]:
        text.pop()
    if sum(bool(RESULT.match(line)) for line in text) > 1 and RESULT.match(text[0]):
        text = [RESULT.sub(r"- `\1`: ", line) if RESULT.match(line) else f"  {line}" for line in text]
        return ["", f":{FIELDS[name]}:", *(f"   {line}" for line in text)]
    return ["", f":{FIELDS[name]}: {text[0] if text else ''}", *(f"   {line}" for line in text[1:])]


def with_equations(lines):
    """Returns the lines of a docstring with consecutive equations as a line block."""
    result, inside = [], False
    for line in lines:
        is_equation = bool(EQUATION.match(line))
        if is_equation != inside and result and result[-1].strip():
            result.append("")
        result.append(f"| {line}" if is_equation else line)
        inside = is_equation
    return result
