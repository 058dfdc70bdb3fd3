"""Options as keywords beside the payload, and as they stand on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypedDict

import msgspec

from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError
from headrace.protocol.options import RunOptions

Machine = Literal["micro", "small-1x", "small-2x", "medium-1x", "medium-2x", "large-1x", "large-2x"]


class ItemOptions(TypedDict, total=False):
    """What may be said of every run of a batch, as keywords. Durations are seconds, a timedelta, or text such as "5m"."""

    delay: Duration | datetime
    """Not before: a duration from now, or a moment."""
    tags: str | Sequence[str]
    """Up to 10, of up to 128 characters each, to find runs by."""
    max_attempts: int
    """How often this run is tried, the first time included; default: what its task says."""
    queue: str
    """Where it waits; default: the queue of its task."""
    ttl: Duration
    priority: float
    concurrency_key: str | int
    metadata: Any
    """Any JSON value; the run's context shows it."""
    max_duration: Duration
    """The longest that one attempt may take; default: what its task says. 0 is no limit."""
    version: str
    machine: Machine
    test: bool
    """Marks the run as a test."""


class TriggerOptions(ItemOptions, total=False):
    """What may be said of one run, as keywords."""

    idempotency_key: str
    """Names what this run is for: a later trigger of the same task with the same key leads to the same run."""
    idempotency_key_ttl: Duration
    """How long the key holds; default 30 days."""


_WIRE_NAMES: Final = {
    "delay": "delay", "tags": "tags", "max_attempts": "maxAttempts", "queue": "queue", "ttl": "ttl", "priority": "priority",
    "concurrency_key": "concurrencyKey", "metadata": "metadata", "max_duration": "maxDuration", "version": "lockToVersion",
    "machine": "machine", "test": "test", "idempotency_key": "idempotencyKey", "idempotency_key_ttl": "idempotencyKeyTTL",
}  # fmt: skip


def build_options(options: Mapping[str, Any]) -> RunOptions | None:
    """The options as a run keeps them; None where nothing is said.

    Raises ConfigurationError naming the option, what was given and what is allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    if unknown := given.keys() - _WIRE_NAMES.keys():
        raise ConfigurationError(f"there is no option {', '.join(sorted(unknown))}: there are {', '.join(_WIRE_NAMES)}")
    wire = {_WIRE_NAMES[name]: _spell_option(name, value) for name, value in given.items()}
    try:
        return msgspec.convert(wire, RunOptions)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{', '.join(f'{k}={v!r}' for k, v in given.items())}: {error}") from error


def spell_duration(value: Duration) -> str:
    """A duration as the wire has it: ``"300s"``. Raises ValueError where it is none."""
    return f"{parse_duration(value):.3f}".rstrip("0").rstrip(".") + "s"


def _spell_option(name: str, value: Any) -> Any:
    try:
        match name:
            case "delay" if isinstance(value, datetime):
                return value.astimezone(UTC).isoformat()  # a naive one is local time, as everywhere in Python
            case "delay" | "ttl" | "idempotency_key_ttl":
                return spell_duration(value)
            case "max_duration":
                return parse_duration(value)
            case "queue":
                return {"name": value}
            case "tags" if not isinstance(value, str):
                return list(value)
            case _:
                return value
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"option {name}: {error}") from None
