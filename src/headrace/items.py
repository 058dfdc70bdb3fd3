"""What is triggered, as it goes over the wire: payloads encoded, options spelt as the protocol spells them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypedDict, Unpack

import msgspec

from headrace.debounce import Debounce, spell_seconds
from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError, PayloadError
from headrace.idempotency_keys import Key, spell_key
from headrace.protocol.errors import explain_validation_error
from headrace.protocol.options import RunOptions
from headrace.tasks import Retry, Task
from headrace.values import encode_json

AnyTask = Task[Any, Any] | str

_LONGEST_SHOWN: Final = 200


class SharedOptions(TypedDict, total=False):
    """What may be said of every run of a batch. Durations are seconds, timedelta or text such as "5m".

    ``delay`` may also be a datetime, or one as ISO 8601 text: local time, unless it says otherwise.
    """

    delay: Duration | datetime
    tags: Sequence[str] | str
    max_attempts: int
    retry: Retry
    queue: str
    ttl: Duration
    priority: float
    concurrency_key: str | int
    order_key: str
    metadata: Any
    max_duration: Duration
    version: str
    machine: str
    test: bool


class Options(SharedOptions, total=False):
    """What may be said of one run beside its payload.

    ``idempotency_key`` makes a second trigger with the same key (per task) give the first one's run; it holds for
    ``idempotency_key_ttl``. Inside of a run a text is that run's; ``Key`` says otherwise. ``debounce`` makes triggers with
    one key one run, which is put off by each.
    """

    idempotency_key: str | Key
    idempotency_key_ttl: Duration
    debounce: Debounce


class ChildOptions(Options, total=False):
    """What may be said of a child beside its payload."""

    inherit_tags: bool
    on_cancel: Literal["cancel", "leave"]
    key: str


class BatchOptions(SharedOptions, total=False):
    """What may be said of a batch of children, and of each of them."""

    start: Literal["add", "seal"]
    inherit_tags: bool
    on_cancel: Literal["cancel", "leave"]
    key: str


@dataclass(frozen=True, slots=True, init=False)
class Item:
    """An item of a batch with options of its own, or for another task: ``Item(url, tags=["big"])``."""

    payload: Any
    task: AnyTask | None
    options: dict[str, Any]

    def __init__(self, payload: Any = None, *, task: AnyTask | None = None, **options: Unpack[Options]) -> None:
        object.__setattr__(self, "payload", payload)
        object.__setattr__(self, "task", task)
        object.__setattr__(self, "options", dict(options))


def check_items(items: Any, options: Mapping[str, Any], *, may_be_async: bool = False) -> None:
    """Raises TypeError for what is no iterable of payloads, ConfigurationError for options that a batch can't share."""
    if isinstance(items, AsyncIterable) and not isinstance(items, Iterable):
        if not may_be_async:
            raise TypeError("items is an async iterable: use AsyncClient, which reads them.")
    elif not isinstance(items, Iterable):
        raise TypeError(f"items is a {type(items).__name__}: give an iterable of payloads, such as [payload].")
    if isinstance(items, str | bytes | bytearray | Mapping):
        raise TypeError(f"items is one {type(items).__name__}: give an iterable of payloads, such as [payload].")  # pyright: ignore[reportUnknownArgumentType]
    if clash := options.keys() & {"idempotency_key", "idempotency_key_ttl", "debounce"}:
        raise ConfigurationError(
            f"{' and '.join(sorted(clash))} of a batch would make all its items one run. A key for the batch is batch_key=; "
            "an item has its own by Item(payload, idempotency_key=...), or debounce=."
        )


def task_id(task: AnyTask) -> str:
    """The id of a task, or of the text that is one."""
    return task if isinstance(task, str) else task.id


def encode_payload(task: AnyTask, payload: Any) -> bytes | None:
    """The payload as one line of JSON, checked where the task is known. Raises PayloadError."""
    data = encode_json(payload) if isinstance(task, str) else task.encode_payload(payload)
    if data is not None and b"\n" in data:  # a msgspec.Raw goes in as somebody laid it out
        return msgspec.json.format(data, indent=-1)
    return data


def encode_item(index: int, task: AnyTask, payload: Any) -> bytes | None:
    """The payload of an item. Raises PayloadError naming its index."""
    try:
        return encode_payload(task, payload)
    except PayloadError as error:
        raise PayloadError(f"item {index}: {error}") from error.__cause__


def make_options(task: AnyTask, given: dict[str, Any]) -> dict[str, Any]:
    """Options as they stand on the wire; a known task's own queue and time to live are named. Raises ConfigurationError on a wrong one."""
    wire: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        translate = _TRANSLATIONS.get(name)
        if translate is None:
            allowed = ", ".join(sorted(_TRANSLATIONS))
            raise ConfigurationError(f"There is no option {name!r} for a run; there are: {allowed}.")
        key, convert = translate
        try:
            wire[key] = convert(value)
        except (TypeError, ValueError) as error:
            shown = repr(value)
            shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
            raise ConfigurationError(f"The option {name} is {shown}: {error}") from None
    if key := wire.pop("idempotencyKey", None):
        wire |= key
    if not isinstance(task, str) and "queue" not in wire and task.queue != f"task/{task.id}":
        wire["queue"] = {"name": task.queue}
    if not isinstance(task, str) and "ttl" not in wire and task.ttl is not None:
        wire["ttl"] = spell_duration(task.ttl)
    return wire


def read_options(wire: dict[str, Any]) -> RunOptions:
    """Options as the server reads them. Raises ConfigurationError where it would refuse them."""
    try:
        return msgspec.convert(wire, RunOptions)
    except msgspec.ValidationError as error:
        told = explain_validation_error(error, wire, RunOptions)
        raise ConfigurationError(f"These options are not what a run can have: {told}") from None


class LineEncoder:
    """Items of one batch to lines of NDJSON. Options that all items share are encoded once."""

    def __init__(self, task: AnyTask, options: dict[str, Any]) -> None:
        self._task = task
        self._options = options
        self._default = self._encode_tail(task, options)

    def __call__(self, index: int, item: Any) -> bytes:
        """One line, with its newline."""
        task, tail, payload = self._task, self._default, item
        if isinstance(item, Item):
            task, payload = item.task or self._task, item.payload
            if item.task is not None or item.options:
                tail = self._encode_tail(task, {**self._options, **item.options})
        data = encode_item(index, task, payload)
        if data is None:
            return b'{"index":%d,%s}\n' % (index, tail)
        return b'{"index":%d,%s,"payload":%s}\n' % (index, tail, data)

    @staticmethod
    def _encode_tail(task: AnyTask, options: dict[str, Any]) -> bytes:
        wire = make_options(task, options)
        read_options(wire)
        return b'"task":%s' % encode_json(task_id(task)) + (b',"options":%s' % encode_json(wire) if wire else b"")


def spell_delay(value: Duration | datetime) -> str:
    """A delay as the wire has it: a duration, or a date. Raises ValueError where it is none."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value)
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else spell_duration(value)


def _spell_retry(retry: Any) -> dict[str, Any]:
    if isinstance(retry, Mapping):  # as it is on the wire
        return {**retry}
    if not isinstance(retry, Retry):
        raise TypeError("give a headrace.Retry(...)")
    told = retry.as_dict()
    return {
        "maxAttempts": told["max_attempts"],
        "factor": told["factor"],
        "minTimeoutInMs": told["min_delay"] * 1000,
        "maxTimeoutInMs": told["max_delay"] * 1000,
        "randomize": told["jitter"],
    }


def _spell_debounce(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):  # as it is on the wire
        return {**value}
    if not isinstance(value, Debounce):
        raise TypeError("give a headrace.Debounce(...)")
    return value.spell()


def spell_duration(value: Duration) -> str:
    """A duration as the wire has it, ``"2592000s"``. Raises ValueError where it is none."""
    return spell_seconds(value)


_TRANSLATIONS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "delay": ("delay", spell_delay),
    "tags": ("tags", lambda value: [value] if isinstance(value, str) else list(value)),
    "max_attempts": ("maxAttempts", int),
    "retry": ("retry", _spell_retry),
    "queue": ("queue", lambda value: {"name": value}),
    "idempotency_key": ("idempotencyKey", spell_key),
    "idempotency_key_ttl": ("idempotencyKeyTTL", spell_duration),
    "debounce": ("debounce", _spell_debounce),
    "ttl": ("ttl", spell_duration),
    "priority": ("priority", float),
    "concurrency_key": ("concurrencyKey", str),
    "order_key": ("orderKey", str),
    "metadata": ("metadata", lambda value: value),
    "max_duration": ("maxDuration", parse_duration),
    "version": ("lockToVersion", str),
    "machine": ("machine", str),
    "test": ("test", bool),
}
