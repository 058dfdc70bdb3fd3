"""Queues on the wire: shown, paused, limited; and what an environment may do at once. research/engine.md B3.3, C2.2."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.durations import parse_duration
from headrace.queues import MAX_CONCURRENCY, MAX_NAME_LENGTH, MAX_RATE, TASK_PREFIX, Queue, check_queue_name

_ID_PREFIX: Final = "queue_"
_LONGEST_ID: Final = len(_ID_PREFIX) + (MAX_NAME_LENGTH * 4 * 8 + 4) // 5

QueueType = Literal["task", "custom"]
NameType = Literal["task", "custom", "id"]

Limit = Annotated[int, Meta(ge=0, le=MAX_CONCURRENCY)]


class QueueConcurrency(Struct, frozen=True, rename="camel"):
    """What a queue may do at once: what holds, what was declared, and what an operator said over it."""

    current: int | None
    base: int | None
    override: int | None
    overridden_at: str | None
    overridden_by: str | None = None


class RateLimit(Struct, frozen=True, rename="camel"):
    """So many starts in so long; of each concurrency key with ``perKey``. ``period`` is a duration: seconds, or "1m"."""

    limit: Annotated[int, Meta(ge=1, le=MAX_RATE)]
    period: str | float
    per_key: bool = False


class QueueItem(Struct, frozen=True, rename="camel"):
    """A queue. ``type`` is task for the one that a task has of its own, whose ``name`` is then the task's id.

    ``keyLimit`` and ``rateLimit`` are headrace's own. With a ``keyLimit`` the concurrency limit is that of all keys together;
    without one it is that of each key, and of the runs without one.
    """

    id: str
    name: str
    type: QueueType
    running: int
    queued: int
    paused: bool
    concurrency_limit: int | None
    concurrency: QueueConcurrency
    key_limit: int | None
    rate_limit: RateLimit | None
    release_concurrency_on_waitpoint: bool
    version: Literal["V1"] = "V1"
    waits_for_stores: list[str] | UnsetType = UNSET
    """Names of the stores without which nothing of it starts, because its limits hold over all of them: they do not answer."""


class QueuePages(Struct, frozen=True, rename="camel"):
    """Which page of how many, and how many queues there are."""

    current_page: int
    total_pages: int
    count: int


class QueueList(Struct, frozen=True):
    """Answer to ``GET /api/v1/queues``."""

    data: list[QueueItem]
    pagination: QueuePages
    warnings: list[str] | UnsetType = UNSET


class NamedQueue(Struct, frozen=True):
    """Body of ``POST /api/v1/queues/{queue}/concurrency/reset``: how the path names the queue."""

    type: NameType = "id"


class PauseQueue(Struct, frozen=True):
    """Body of ``POST /api/v1/queues/{queue}/pause``."""

    action: Literal["pause", "resume"]
    type: NameType = "id"


class OverrideQueue(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/queues/{queue}/concurrency/override``: either a number of runs (0: none), or a percentage."""

    type: NameType = "id"
    concurrency_limit: Limit | UnsetType = UNSET
    percent: Annotated[float, Meta(gt=0, le=100)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if isinstance(self.concurrency_limit, UnsetType) == isinstance(self.percent, UnsetType):
            raise ValueError("Provide exactly one of `concurrencyLimit` or `percent`")


class DeclareQueue(Struct, frozen=True, rename="camel"):
    """Body of ``PUT /api/v1/queues/{queue}``, headrace's own: all that a queue may do at once. It need not be there.

    The code of a worker that declares the same queue says otherwise when it registers.
    """

    type: NameType = "id"
    concurrency_limit: Limit | None = None
    key_limit: Annotated[int, Meta(ge=1, le=MAX_CONCURRENCY)] | None = None
    rate_limit: RateLimit | None = None
    keep_slot_while_waiting: bool = False

    def to_queue(self, name: str) -> Queue:
        """What the code would say. Raises ConfigurationError, or ValueError where the rate's period is no duration."""
        rate = self.rate_limit
        return Queue(
            name,
            concurrency_limit=self.concurrency_limit,
            key_limit=self.key_limit,
            rate_limit=(rate.limit, parse_duration(rate.period)) if rate else None,
            rate_by_key=rate.per_key if rate else False,
            keep_slot_while_waiting=self.keep_slot_while_waiting,
        )


class EnvironmentState(Struct, frozen=True, rename="camel"):
    """Answer of ``/api/v1/environment``: what the environment of the key may do at once, and does."""

    slug: str
    paused: bool
    paused_at: str | None
    concurrency_limit: int | None
    running: int
    queued: int


class PauseEnvironment(Struct, frozen=True):
    """Body of ``POST /api/v1/environment/pause``."""

    action: Literal["pause", "resume"]


class LimitEnvironment(Struct, frozen=True, rename="camel"):
    """Body of ``POST /api/v1/environment/concurrency``: so many runs at once, or null for any number."""

    concurrency_limit: Limit | None


def format_queue_id(name: str) -> str:
    """The id of a queue: its name, spelt so that it can stand anywhere. A queue is found without a look-up."""
    return _ID_PREFIX + base64.b32hexencode(name.encode("utf-8")).decode("ascii").rstrip("=").lower()


def parse_queue_id(text: str) -> str | None:
    """The name of the queue with that id; None where it is no id.

    >>> parse_queue_id(format_queue_id("task/résumé"))
    'task/résumé'
    """
    if not text.startswith(_ID_PREFIX) or len(text) > _LONGEST_ID or not text.isascii():
        return None
    body = text.removeprefix(_ID_PREFIX).upper()
    try:
        name = base64.b32hexdecode(body + "=" * (-len(body) % 8)).decode("utf-8")
        return check_queue_name(name) if format_queue_id(name) == text else None
    except (binascii.Error, ValueError):
        return None


def queue_name(text: str, kind: NameType) -> str | None:
    """The queue that a client names: by its id, as a task's own, or by its name. None where there can be none."""
    if kind == "id":
        return parse_queue_id(text)
    name = TASK_PREFIX + text.removeprefix(TASK_PREFIX) if kind == "task" else text
    try:
        return check_queue_name(name)
    except ValueError:
        return None


def split_name(name: str) -> tuple[str, QueueType]:
    """How a queue is called on the wire, and its type."""
    is_task = name.startswith(TASK_PREFIX)
    return (name.removeprefix(TASK_PREFIX), "task") if is_task else (name, "custom")
