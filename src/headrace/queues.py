"""Queues: what their names may be, and how the code says what one may do at once. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError

MAX_NAME_LENGTH: Final = 128
MAX_CONCURRENCY: Final = 100_000
MAX_RATE: Final = 1_000_000
LONGEST_RATE_PERIOD: Final = 31 * 86_400.0
TASK_PREFIX: Final = "task/"
"""The queue that a task has of its own is called so, and the task's id behind it."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, and what it may do at once: ``@task(queue=Queue("gpu", concurrency_limit=2))``.

    name: default: the task's own queue. Tasks may share a queue: give each the same one.
    concurrency_limit: so many of its runs execute at once, on all workers together; default: any number; 0: none. Where
        runs have concurrency keys, and no ``key_limit`` is given, it is the limit of each key.
    key_limit: so many runs of one concurrency key at once; then ``concurrency_limit`` is that of all keys together.
    rate_limit: ``(10, "1s")``: so many starts in so long, a burst of as many; with ``rate_by_key`` of each key.
    keep_slot_while_waiting: a run that waits stays in memory and counts. Default: it makes room for another.

    >>> Queue("gpu", concurrency_limit=2, rate_limit=(10, "1m")).rate_limit
    (10, 60.0)
    """

    name: str | None = None
    concurrency_limit: int | None = None
    key_limit: int | None = None
    rate_limit: tuple[int, Duration] | None = None
    rate_by_key: bool = False
    keep_slot_while_waiting: bool = False

    def __post_init__(self) -> None:
        try:
            if self.name is not None:
                check_queue_name(self.name)
            check_limit("concurrency_limit", self.concurrency_limit, 0, MAX_CONCURRENCY)
            check_limit("key_limit", self.key_limit, 1, MAX_CONCURRENCY)
            if self.rate_limit is not None:
                object.__setattr__(self, "rate_limit", _read_rate(self.rate_limit))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"Queue({self.name!r}): {error}") from None
        if self.rate_by_key and self.rate_limit is None:
            raise ConfigurationError(f"Queue({self.name!r}): rate_by_key is given without a rate_limit")

    @property
    def rate(self) -> tuple[int, float] | None:
        """``rate_limit``, its time in seconds."""
        return cast("tuple[int, float] | None", self.rate_limit)


def check_queue_name(name: str) -> str:
    """The name. Raises ValueError where it can't be a queue's."""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"a queue's name has 1 to {MAX_NAME_LENGTH} characters, {len(name)} were given")
    if not name.isprintable() or name != name.strip():
        raise ValueError(
            f"a queue's name is printable and neither begins nor ends with a space, but {name!r} was given"
        )
    return name


def check_limit(what: str, value: int | None, lowest: int, highest: int) -> None:
    """Raises ValueError unless ``value`` is None or a whole number from ``lowest`` to ``highest``."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:  # pyright: ignore[reportUnnecessaryIsInstance] - callers need not be typed
        raise ValueError(f"{what} must be a whole number from {lowest} to {highest}, but is {value!r}")


def check_rate_period(seconds: float) -> float:
    """The seconds. Raises ValueError where nothing can be counted in so long."""
    if not 0.001 <= seconds <= LONGEST_RATE_PERIOD:
        raise ValueError(f"the time of a rate_limit must be from 1ms to {LONGEST_RATE_PERIOD / 86_400:g}d")
    return seconds


def _read_rate(rate: tuple[int, Duration]) -> tuple[int, float]:
    if not isinstance(rate, tuple) or len(rate) != 2:  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison] - as above
        raise ValueError(f'rate_limit must be (starts, time), such as (10, "1s"), but is {rate!r}')
    starts, period = rate
    check_limit("the starts of a rate_limit", starts, 1, MAX_RATE)
    return starts, check_rate_period(parse_duration(period))
