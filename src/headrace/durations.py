"""One parser for every duration: ``"1h30m"``, ``90``, ``2.5`` or a timedelta, to seconds.

Pure. The units are those of the wire (``s``, ``m``, ``h``, ``d``, ``w``) and ``ms``.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

type_hint = "seconds as a number, a timedelta, or text such as '90s', '1h30m', '2d'"

Duration = float | int | timedelta | str

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])", re.ASCII)


def parse_duration(value: Duration) -> float:
    """Seconds in ``value``.

    >>> parse_duration("1h30m")
    5400.0
    >>> parse_duration(2.5)
    2.5

    Raises ValueError where the text is no duration or the number is negative or not finite.
    """
    match value:
        case timedelta():
            seconds = value.total_seconds()
        case str():
            seconds = _parse_text(value)
        case _:
            seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is no duration: give {type_hint}, 0 or more")
    return seconds


def _parse_text(text: str) -> float:
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    if not parts or _PART.sub("", compact).strip():
        raise ValueError(f"{text!r} is no duration: give {type_hint}")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
