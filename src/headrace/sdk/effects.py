"""What a flow can ask of the world, and what it is told.

A flow is a generator that does no I/O: it yields effects, is sent their outcomes and returns a value. The client's whole
behaviour (requests, retries, streams, waits) is written once as flows; a runner over ``httpx2.Client`` performs them for
``Client`` and one over ``httpx2.AsyncClient`` for ``AsyncClient``. Tests feed outcomes by hand.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")


class _End(Enum):
    END = "end"


END: Final = _End.END
"""What a Pull is told when the caller's iterable has nothing more."""


@dataclass(frozen=True, slots=True)
class Pull:
    """The next item of the caller's iterable, or END. Its exceptions go to the caller, never to the flow."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing, for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Values for the caller who iterates over the flow."""

    values: Sequence[Any]


Body = Generator[Pull | bytes, Any, None]
"""The body of a request while it is produced: pieces of it, and Pulls in between."""


@dataclass(frozen=True, slots=True)
class Send:
    """A request. The outcome is an Answer of any status, or Broken.

    ``path`` is below the server's URL; ``content`` the body, or ``body`` what opens a body that is produced while it is
    sent; ``patience`` how many seconds the server may take to answer.
    """

    method: Literal["GET", "POST"]
    path: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes | None = None
    body: Callable[[], Body] | None = None
    patience: float = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Broken:
    """There was no answer: no connection, or it broke. What the request asked for may have been done all the same."""

    error: Exception


Effect = Send | Sleep | Pull | Emit
Flow = Generator[Effect, Any, T]


def send(effect: Send) -> Generator[Effect, Any, Answer | Broken]:
    """Within a flow: ``outcome = yield from send(Send(...))``, typed."""
    return (yield effect)


def sleep(seconds: float) -> Generator[Effect, Any, None]:
    """Within a flow: waits."""
    yield Sleep(seconds)


def _new_request_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class World:
    """Clocks and chance, as flows see them."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    random: Callable[[], float] = random.random
    new_request_id: Callable[[], str] = _new_request_id
