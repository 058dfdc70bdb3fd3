"""Debounce as a program writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from headrace.durations import Duration, parse_duration


@dataclass(frozen=True, slots=True)
class Debounce:
    """Triggers of a task with the same ``key`` become one run, which starts when none came for ``delay``.

    mode: "leading" keeps the first trigger's payload, "trailing" takes the latest one's, with its metadata, tags, machine,
    max_attempts and max_duration. max_delay: a run is put off for no longer than this altogether; the next trigger makes
    another one.

    >>> Debounce("page-7", "5s", max_delay="1m").spell()
    {'key': 'page-7', 'delay': '5s', 'mode': 'leading', 'maxDelay': '60s'}
    """

    key: str
    delay: Duration
    mode: Literal["leading", "trailing"] = "leading"
    max_delay: Duration | None = None

    def spell(self) -> dict[str, Any]:
        """As it stands on the wire. Raises ValueError on a duration that is none."""
        said = {"key": self.key, "delay": spell_seconds(self.delay), "mode": self.mode}
        return said if self.max_delay is None else {**said, "maxDelay": spell_seconds(self.max_delay)}


def spell_seconds(value: Duration) -> str:
    """A duration as the wire has it, ``"2592000s"``. Raises ValueError where it is none."""
    return f"{parse_duration(value):.3f}".rstrip("0").rstrip(".") + "s"
