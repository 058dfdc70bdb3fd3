"""Items of a batch on their way to the wire: payload and options of each, checked and encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, Unpack, cast, overload

import msgspec

from headrace.errors import PayloadError
from headrace.protocol.options import RunOptions
from headrace.sdk.options import TriggerOptions, build_options
from headrace.tasks import Task
from headrace.values import encode_json

P = TypeVar("P")
Q = TypeVar("Q")


class Item(Generic[P]):
    """An item of a batch that says more than its payload: options of its own, or another task.

    ``client.batch_trigger(resize, [Item(image, delay="5m"), Item(text, task=translate)])``
    """

    @overload
    def __init__(self, payload: P, /, **options: Unpack[TriggerOptions]) -> None: ...
    @overload
    def __init__(
        self: Item[Any], payload: Q, /, *, task: Task[Q, Any] | str, **options: Unpack[TriggerOptions]
    ) -> None: ...
    def __init__(self, payload: Any, /, *, task: Task[Any, Any] | str | None = None, **options: Any) -> None:
        self.payload: P = payload
        self.task = task
        self.options: Mapping[str, Any] = options

    def __repr__(self) -> str:
        return f"Item({self.payload!r}, task={self.task!r}, options={self.options!r})"


@dataclass(frozen=True, slots=True)
class PreparedItem:
    """What an item comes to: the id of its task, its payload as JSON text (None: no payload) and its options."""

    task: str
    payload: bytes | None
    options: RunOptions | None


class ItemEncoder:
    """Encodes the items of one batch. ``tasks`` holds each Task that an item named, by id: results are read with them."""

    def __init__(self, task: Task[Any, Any] | str, options: Mapping[str, Any]) -> None:
        self._options = options
        self._default_options = build_options(options)
        self._tail = _encode_tail(self._default_options)
        self._task = task
        self._heads: dict[str, bytes] = {}
        self.tasks: dict[str, Task[Any, Any]] = {}
        _ = self._name_task(task)

    def encode_line(self, index: int, item: Any) -> bytes:
        """The line of an item in the stream. Raises PayloadError naming the index."""
        if isinstance(item, Item):
            prepared = self.prepare(index, item)
            tail = self._tail if prepared.options is self._default_options else _encode_tail(prepared.options)
            return self._join(index, self._head(prepared.task), prepared.payload, tail)
        task = self._task
        head = self._heads.get(task if isinstance(task, str) else task.id)
        return self._join(index, head or self._head(self._name_task(task)), self._encode(index, task, item), self._tail)

    def prepare(self, index: int, item: Any) -> PreparedItem:
        """An item's parts. Raises PayloadError naming the index, ConfigurationError for its options."""
        if not isinstance(item, Item):
            task = self._task
            task_id = task if isinstance(task, str) else task.id
            return PreparedItem(task_id, self._encode(index, task, item), self._default_options)
        given = cast("Item[Any]", item)
        task = self._task if given.task is None else given.task
        options = build_options({**self._options, **given.options}) if given.options else self._default_options
        return PreparedItem(self._name_task(task), self._encode(index, task, given.payload), options)

    def _encode(self, index: int, task: Task[Any, Any] | str, payload: Any) -> bytes | None:
        try:
            return encode_payload(task, payload)
        except PayloadError as error:
            raise PayloadError(f"item {index}: {error}") from error.__cause__

    def _name_task(self, task: Task[Any, Any] | str) -> str:
        if isinstance(task, str):
            return task
        self.tasks[task.id] = task
        return task.id

    def _head(self, task_id: str) -> bytes:
        head = self._heads.get(task_id)
        if head is None:
            head = self._heads[task_id] = b',"task":' + msgspec.json.encode(task_id)
        return head

    @staticmethod
    def _join(index: int, head: bytes, payload: bytes | None, tail: bytes) -> bytes:
        if payload is None:
            return b'{"index":%d%b%b' % (index, head, tail)
        return b'{"index":%d%b,"payload":%b%b' % (index, head, payload, tail)


def encode_payload(task: Task[Any, Any] | str, payload: Any) -> bytes | None:
    """A payload as one line of JSON, checked where the task is at hand. Raises PayloadError."""
    data = encode_json(payload) if isinstance(task, str) else task.encode_payload(payload)
    if data is not None and b"\n" in data:  # a msgspec.Raw, written down as somebody formatted it
        return msgspec.json.format(data, indent=-1)
    return data


def _encode_tail(options: RunOptions | None) -> bytes:
    return b"}\n" if options is None else b',"options":' + encode_json(options) + b"}\n"
