"""What a flow asks of whoever runs it: send this, wait so long. A flow itself does no I/O.

So the rules (when to try again, what to send then, what an answer means) are written once, and ``Client`` and
``AsyncClient`` are two small runners of the same generators.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec

from headrace.sdk.segments import Segment

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """A request: with ``json`` as its body, or the lines of a ``segment`` as they are produced."""

    method: str
    path: str
    json: Any = None
    segment: Segment | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """A wait of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; header names are lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def json(self) -> Any:
        """The body, parsed; None where it is no JSON."""
        try:
            return msgspec.json.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    @property
    def body(self) -> dict[str, Any]:
        """The body, parsed, where it is an object; else an empty one."""
        body = self.json
        return cast("dict[str, Any]", body) if isinstance(body, dict) else {}

    @property
    def message(self) -> str:
        """What the body says is wrong."""
        body = self.body
        if isinstance(body.get("error"), str):
            return str(body["error"])
        return self.content[:200].decode("utf-8", "replace") or "no reason was given"


@dataclass(frozen=True, slots=True)
class Broken:
    """No answer: the server could not be reached, or the connection broke."""

    cause: BaseException


Effect = Send | Sleep
Flow = Generator[Effect, Any, T]
"""Yields effects; is sent an Answer or Broken for a Send, and None for a Sleep; returns what came of it."""
