"""Error bodies and the sentences in them."""

from __future__ import annotations

import re
from typing import Final

_PATH: Final = re.compile(r" - at `(?:key in )?\$(.*?)`$")


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
    if found := _PATH.search(text):
        path = found[1].removeprefix(".")
        return (
            f'Validation error: {text[: found.start()]} at "{path}"'
            if path
            else f"Validation error: {text[: found.start()]}"
        )
    return f"Validation error: {text}"
