"""Error bodies and the sentences in them."""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType, inspect

_PATH: Final = re.compile(r" - at `\$(.*?)`$")
_PART: Final = re.compile(r"\.(\w+)|\[(\d+)\]|(.)")
_LONGEST_SHOWN: Final = 60

_WORDED: Final = {
    ("idempotencyKey", "Expected `str` of length <= 2048"): "idempotencyKey must be 2048 characters or less",
}
"""Sentences that published clients know, by the last part of the path and what msgspec says."""


class ErrorBody(Struct, frozen=True):
    """What every error answers with. ``error`` is the sentence; the rest stands beside it where access was refused."""

    error: str
    code: str | UnsetType = UNSET
    param: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


def describe_validation_error(error: Exception, given: object = UNSET, type_: Any = None) -> str:
    """A validation error as it stands in ``{"error": ...}``: what was expected, and where.

    ``given`` is what was to be a ``type_``: with both it says as well what was there, and which names are allowed.

    >>> import msgspec
    >>> try:
    ...     msgspec.json.decode(b'{"a": "x"}', type=dict[str, int])
    ... except msgspec.ValidationError as problem:
    ...     describe_validation_error(problem)
    'Validation error: Expected `int`, got `str` at "[...]"'
    """
    return f"Validation error: {explain_validation_error(error, given, type_)}"


def explain_validation_error(error: Exception, given: object = UNSET, type_: Any = None) -> str:
    """The same as a part of a sentence."""
    text = str(error)
    found = _PATH.search(text)
    if found is None:
        return text
    path = found[1].removeprefix(".")
    problem = text[: found.start()]
    problem = _WORDED.get((path.rpartition(".")[2], problem), problem)
    steps = _read_path(found[1])
    if steps is not None and problem.startswith(("Expected", "Invalid enum")):
        problem += _describe_value(given, steps) if "got" not in problem and "enum" not in problem else ""
        choices = [] if type_ is None else _find_choices(inspect.type_info(type_), steps)
        problem += f", must be one of: {', '.join(choices)}" if choices else ""
    return f'{problem} at "{path}"' if path else problem


def _read_path(text: str) -> list[str | int] | None:
    """The steps to a value, or None where the text leaves one out."""
    steps: list[str | int] = []
    for name, index, other in _PART.findall(text):
        if other:
            return None
        steps.append(int(index) if index else name)
    return steps


def _describe_value(given: Any, steps: list[str | int]) -> str:
    try:
        for step in steps:
            given = given[step]
    except (LookupError, TypeError):
        return ""
    if isinstance(given, str | list | dict) and len(given) > _LONGEST_SHOWN:  # pyright: ignore[reportUnknownArgumentType]
        return f", but its length is {len(given)}"  # pyright: ignore[reportUnknownArgumentType]
    return "" if isinstance(given, list | dict) else f", but it is {given!r}"


def _find_choices(type_: inspect.Type, steps: list[str | int]) -> list[str]:
    """The names that may stand at a place, where only some may."""
    match type_:
        case inspect.UnionType(types=types):
            return [choice for one in types for choice in _find_choices(one, steps)]
        case inspect.LiteralType(values=values) if not steps:
            return [str(value) for value in values]
        case inspect.StructType(fields=fields) if steps:
            return [
                choice for one in fields if one.encode_name == steps[0] for choice in _find_choices(one.type, steps[1:])
            ]
        case inspect.ListType(item_type=item_type) if steps:
            return _find_choices(item_type, steps[1:])
        case _:
            return []
