"""Children: runs and batches of runs that a run triggers, and waits for. The bodies of the methods of ``Task``."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from headrace.durable.ops import (
    AwaitBatch,
    BatchOpened,
    BatchOutcome,
    FollowBatch,
    ItemData,
    KeepPage,
    OpenBatch,
    ReadOutcomes,
    RecallPage,
    RecallWait,
    RunOutcome,
    SealBatch,
    StoreItems,
    Triggered,
    TriggerRun,
    Value,
)
from headrace.durable.pending import Pending, Steps, Take
from headrace.durable.port import Port, current_port
from headrace.errors import BatchTriggerError, ConfigurationError, PayloadError
from headrace.indexes import UnseenIndexes
from headrace.items import AnyTask, Item, check_items, encode_item, encode_payload, make_options, read_options, task_id
from headrace.outcomes import Failed, Ok, Outcome
from headrace.protocol.packets import decode_packet
from headrace.protocol.statuses import TERMINAL_BATCH_STATUSES, RunStatus
from headrace.tasks import Task, registry

R = TypeVar("R")

OnCancel = Literal["cancel", "leave"]
"""What becomes of a child when the run that waits for it is canceled."""

CHUNK: Final = 1000
"""Items that are stored by one transaction, and outcomes that are read by one look."""

_OUTSIDE: Final = (
    "In a program of your own, use a Client: client.trigger(...).result(), client.batch_trigger(...).results()."
)


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run that was triggered: its id, and whether its idempotency key stood for it before."""

    id: str
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is common to the ways to wait for children."""

    inherit_tags: bool = False
    on_cancel: OnCancel = "cancel"
    key: str = ""

    @classmethod
    def read(cls, options: dict[str, Any]) -> Plan:
        """Takes its own options out of ``options``. Raises ConfigurationError on a wrong one."""
        on_cancel = options.pop("on_cancel", "cancel")
        if on_cancel not in ("cancel", "leave"):
            raise ConfigurationError(f"on_cancel is {on_cancel!r}, but must be 'cancel' or 'leave'.")
        return cls(bool(options.pop("inherit_tags", False)), on_cancel, str(options.pop("key", "") or ""))


def trigger(task: AnyTask, payload: Any, options: dict[str, Any]) -> Pending[RunRef]:
    """A run that nobody waits for, made exactly once however often the code is replayed."""
    port = current_port("Task.trigger()", _OUTSIDE)
    op = _make_op(port, "trigger", task, payload, options, awaited=False)
    return Pending(port, _trigger(op), f"{task_id(task)}.trigger()")


def trigger_and_wait(task: AnyTask, payload: Any, options: dict[str, Any]) -> Pending[Outcome[Any]]:
    """A child, and how it ended."""
    port = current_port("Task.trigger_and_wait()", _OUTSIDE)
    op = _make_op(port, "run", task, payload, options, awaited=True)
    return Pending(port, _await_run(op, task), f"{task_id(task)}.trigger_and_wait()")


def batch_trigger_and_wait(task: AnyTask, items: Any, options: dict[str, Any]) -> Pending[list[Outcome[Any]]]:
    """A batch of children, and how each ended, in the order of the items."""
    port = current_port("Task.batch_trigger_and_wait()", _OUTSIDE)
    batch = _Batch(port, task, items, options, "batch")
    return Pending(port, batch.await_outcomes(), f"{task_id(task)}.batch_trigger_and_wait()")


def batch_trigger_and_iterate(task: AnyTask, items: Any, options: dict[str, Any]) -> OutcomeIterator[Any]:
    """A batch of children, and how each ended, in the order in which they did."""
    port = current_port("Task.batch_trigger_and_iterate()", _OUTSIDE)
    return OutcomeIterator(port, _Batch(port, task, items, options, "iterate"))


class OutcomeIterator(Generic[R]):
    """Outcomes as they come: ``async for`` in an ``async def``, ``for`` in a ``def``. A replay gives the same order."""

    def __init__(self, port: Port, batch: _Batch) -> None:
        self._port = port
        self._batch = batch

    async def __aiter__(self) -> AsyncIterator[Outcome[R]]:
        await self._pending(self._batch.open())
        unseen = UnseenIndexes()
        while page := await self._pending(self._batch.next_page(unseen)):
            for outcome in page:
                yield outcome

    def __iter__(self) -> Iterator[Outcome[R]]:
        self._pending(self._batch.open()).result()
        unseen = UnseenIndexes()
        while page := self._pending(self._batch.next_page(unseen)).result():
            yield from page

    def _pending(self, steps: Steps[Any]) -> Pending[Any]:
        return Pending(self._port, steps, "batch_trigger_and_iterate()")


class _Batch:
    """One batch of children."""

    def __init__(self, port: Port, task: AnyTask, items: Any, options: dict[str, Any], kind: str) -> None:
        self._start: Literal["add", "seal"] = options.pop("start", "add")
        if self._start not in ("add", "seal"):
            raise ConfigurationError(f"start is {self._start!r}, but must be 'add' or 'seal'.")
        self._plan = Plan.read(options)
        check_items(items, options, may_be_async=True)
        self._port = port
        self._task = task
        self._options = options
        self._items = items
        self._name = port.names.take(kind, _label(task, self._plan.key))
        self._batch_id = ""
        self._count: int | None = None
        self._pages = 0

    def open(self) -> Steps[None]:
        """Makes the batch and stores its items; one that is small enough in one transaction."""
        items: Any = self._items
        source: Iterator[Any] | AsyncIterator[Any] = iter(items) if isinstance(items, Iterable) else aiter(items)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        position = 0
        ahead: list[Any] = yield Take(source, CHUNK)
        whole = len(ahead) < CHUNK
        if not ahead:
            return
        first = self._encode(ahead, position)
        opened: BatchOpened = yield OpenBatch(
            self._name,
            task_id(self._task),
            self._start,
            first if whole else None,
            self._plan.inherit_tags,
            self._plan.on_cancel == "cancel",
        )
        self._batch_id, self._count = opened.batch_id, opened.run_count
        if not opened.is_open:
            return
        # Storing an item twice does nothing: after a crash in mid-stream all are sent again, and those that were there stay.
        while ahead:
            yield StoreItems(self._batch_id, self._encode(ahead, position), self._plan.inherit_tags)
            position += len(ahead)
            ahead = yield Take(source, CHUNK)
        yield SealBatch(self._batch_id, position)
        self._count = position

    def await_outcomes(self) -> Steps[list[Outcome[Any]]]:
        """Makes the batch, waits for its end, reads the outcomes in pages."""
        yield from self.open()
        if not self._batch_id:
            return []
        ended: BatchOutcome = yield AwaitBatch(self._name)
        outcomes: list[Outcome[Any]] = []
        while True:
            page: list[RunOutcome] = yield ReadOutcomes(self._batch_id, start=len(outcomes), limit=CHUNK)
            outcomes.extend(_read_outcome(self._task, one) for one in page)
            if len(page) < CHUNK:
                break
        if len(outcomes) < (ended.run_count or 1):
            raise _describe_abort(ended, len(outcomes))
        return outcomes

    def next_page(self, unseen: UnseenIndexes) -> Steps[list[Outcome[Any]]]:
        """The outcomes that are there and were not given yet; waits for some. None are left where it is empty."""
        if not self._batch_id or unseen.taken == self._count:
            return []
        self._pages += 1
        known: bool = yield RecallPage(self._name, self._pages)
        fresh = None if known else (yield from self._find_fresh(unseen))
        kept: Value = yield KeepPage(self._name, self._pages, msgspec.json.encode([one.index for one in fresh or ()]))
        indexes: list[int] = msgspec.json.decode(kept.data or b"[]")
        if fresh is None and indexes:
            found: list[RunOutcome] = yield ReadOutcomes(self._batch_id, indexes=indexes)
            order = {index: place for place, index in enumerate(indexes)}
            fresh = sorted(found, key=lambda one: order[one.index])
        for index in indexes:
            unseen.take(index)
        return [_read_outcome(self._task, one) for one in fresh or ()]

    def _find_fresh(self, unseen: UnseenIndexes) -> Steps[list[RunOutcome]]:
        """Outcomes that were not given yet, at most a chunk; waits for some."""
        more = f"{self._name}/more"
        last: BatchOutcome | None = None
        if (yield RecallWait(more)) == "waiting":  # the run was put down there, and goes on from there
            last = yield FollowBatch(more, self._batch_id, unseen.taken)
        while True:
            start = unseen.find_from(0)
            while True:
                found: list[RunOutcome] = yield ReadOutcomes(self._batch_id, start=start, limit=CHUNK)
                fresh = [one for one in found if unseen.find_from(one.index) == one.index]
                if fresh:
                    return fresh
                if len(found) < CHUNK:
                    break
                start = found[-1].index + 1
            if last is not None and last.status in TERMINAL_BATCH_STATUSES:
                raise _describe_abort(last, unseen.taken)
            last = yield FollowBatch(more, self._batch_id, unseen.taken)

    def _encode(self, items: Sequence[Any], position: int) -> list[ItemData]:
        shared = read_options(make_options(self._task, self._options)) if self._options else None
        default = shared or read_options(make_options(self._task, {}))
        encoded: list[ItemData] = []
        for index, item in enumerate(items, position):
            if isinstance(item, Item):
                own = item.task or self._task
                chosen = read_options(make_options(own, {**self._options, **item.options}))
                encoded.append(ItemData(index, task_id(own), encode_item(index, own, item.payload), chosen))
            else:
                encoded.append(ItemData(index, task_id(self._task), encode_item(index, self._task, item), default))
        return encoded


def _make_op(
    port: Port, kind: str, task: AnyTask, payload: Any, options: dict[str, Any], *, awaited: bool
) -> TriggerRun:
    plan = Plan.read(options)
    data = encode_payload(task, payload)
    chosen = read_options(make_options(task, options))
    # its own text, not the hash: that of an attempt is another in each, and a replay has to find the point
    spelt = chosen.idempotency_key_options
    label = _label(task, plan.key or (spelt.key if spelt else chosen.idempotency_key) or _digest(data))
    return TriggerRun(
        port.names.take(kind, label),
        task_id(task),
        data,
        chosen,
        awaited,
        plan.inherit_tags,
        plan.on_cancel == "cancel",
    )


def _label(task: AnyTask, key: str) -> str:
    return f"{task_id(task)}/{key}" if key else task_id(task)


def _digest(data: bytes | None) -> str:
    # two children of one task differ by what they are given: their order may change from replay to replay
    return hashlib.sha256(data or b"").hexdigest()[:12]


def _trigger(op: TriggerRun) -> Steps[RunRef]:
    told: Triggered = yield op
    return RunRef(told.run_id, told.is_cached)


def _await_run(op: TriggerRun, task: AnyTask) -> Steps[Outcome[Any]]:
    told: RunOutcome = yield op
    return _read_outcome(task, told)


def _read_outcome(task: AnyTask, told: RunOutcome) -> Outcome[Any]:
    if told.status != RunStatus.COMPLETED:
        return Failed(told.index, told.run_id, told.status, told.error or {})
    known = task if told.task is None or isinstance(task, str) or told.task == task.id else registry.get(told.task)
    try:
        return Ok(told.index, told.run_id, _read_value(known, told.value))
    except PayloadError as error:  # of one item: the others are not to be lost for it
        return Failed(told.index, told.run_id, told.status, {"name": "PayloadError", "message": str(error)})


def _read_value(task: AnyTask | None, value: Value) -> Any:
    if isinstance(task, Task):
        return task.decode_output(value.data, value.type)
    return None if value.data is None else decode_packet(value.data, value.type)


def _describe_abort(batch: BatchOutcome, read: int) -> BatchTriggerError:
    told = (batch.error or {}).get("message") or "not all of its items were stored"
    return BatchTriggerError(
        f"Batch {batch.batch_id} is {batch.status}, and {read} of its items have an outcome: {told}",
        phase="seal",
        batch_id=batch.batch_id,
        accepted=read,
        expected=batch.run_count,
    )
