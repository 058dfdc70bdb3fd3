"""Error bodies and the sentences in them."""

from __future__ import annotations

import re
from typing import Final

from msgspec import UNSET, Struct, UnsetType

_PATH: Final = re.compile(r" - at `\$(.*?)`$")

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


def describe_validation_error(error: Exception) -> str:
    """A validation error as it stands in ``{"error": ...}``: what was expected, and where.

    >>> import msgspec
    >>> try:
    ...     msgspec.json.decode(b'{"a": "x"}', type=dict[str, int])
    ... except msgspec.ValidationError as problem:
    ...     describe_validation_error(problem)
    'Validation error: Expected `int`, got `str` at "[...]"'
    """
    text = str(error)
    found = _PATH.search(text)
    if found is None:
        return f"Validation error: {text}"
    path = found[1].removeprefix(".")
    problem = text[: found.start()]
    problem = _WORDED.get((path.rpartition(".")[2], problem), problem)
    return f'Validation error: {problem} at "{path}"' if path else f"Validation error: {problem}"
