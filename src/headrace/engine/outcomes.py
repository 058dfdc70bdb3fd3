"""What the engine answers: values to match on, one class an outcome.

The top floor (HTTP, worker, SDK, CLI) turns them into statuses, exceptions and text; the engine never raises for
what a caller can cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec import Struct

from headrace.engine.lanes import LaneKind, LaneName
from headrace.ids import format_run_id, is_foreign
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus, RunStatus

JSON_TYPE: Final = "application/json"


class Packet(Struct, frozen=True):
    """A payload or a result: its bytes and their media type.

    ``data`` is None where there is nothing. With type ``application/store`` the bytes are the path of an object in the
    payload store (see ``headrace.payloads``).
    """

    data: bytes | None
    type: str = JSON_TYPE


_NOTHING: Final = Packet(None)


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item of a batch could not become a run that can start: the code and the sentence of its pre-failed run."""

    code: str
    message: str


@dataclass(slots=True)
class StoredItem:
    """An item on its way into its batch. With an ``error`` it becomes a pre-failed run, which has ended from the start."""

    index: int
    task: str
    packet: Packet
    options: RunOptions | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class BatchItemError:
    """An item that could not become a run that can start."""

    index: int
    task: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchState:
    """A batch as it stands in its store. Times are aware, in UTC."""

    id: UUID
    environment_id: int
    status: BatchStatus
    run_count: int | None
    accepted: int
    highest_index: int
    aliased: int
    prefailed: int
    settled: int
    succeeded: int
    sealed: bool
    start_policy: str
    idempotency_key: str | None
    parent_run_id: UUID | None
    traceparent: str | None
    error: dict[str, object] | None
    created_at: datetime
    updated_at: datetime
    processing_completed_at: datetime | None
    completed_at: datetime | None
    seal_deadline: datetime
    root_run_id: UUID | None = None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class BatchCreated:
    """A new batch."""

    batch: BatchState


@dataclass(frozen=True, slots=True)
class BatchElsewhere:
    """The key stands for a batch of another store, which is to be looked for there."""

    batch_id: UUID


@dataclass(frozen=True, slots=True)
class BatchExists:
    """The same request was made before (request id or idempotency key): the batch that it made, in its true state."""

    batch: BatchState


@dataclass(frozen=True, slots=True)
class KeyConflict:
    """The idempotency key or request id stands for another request (HTTP 409)."""

    message: str


@dataclass(frozen=True, slots=True)
class BatchRefused:
    """A request that can't be served for what it says: HTTP ``status`` and a sentence."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class StreamOpen:
    """The batch takes items."""

    batch: BatchState


@dataclass(frozen=True, slots=True)
class StreamDone:
    """The work is done already: answer ``sealed: true`` with nothing accepted and leave the body unread."""

    batch: BatchState


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """The batch takes no items and never will (ABORTED), or has left the states in which it can be sealed."""

    batch: BatchState


@dataclass(frozen=True, slots=True)
class BatchMissing:
    """No such batch in this environment."""


@dataclass(frozen=True, slots=True)
class ChunkStored:
    """A chunk of items is stored: committed, and visible to workers unless the batch starts at its seal."""

    accepted: int
    deduplicated: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """The batch is sealed, by this call or before it."""

    batch: BatchState


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Not sealed: items are missing. ``missing`` holds inclusive ranges of indexes, the first of them only."""

    batch: BatchState
    missing: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RunCreated:
    """A new run."""

    run_id: UUID


@dataclass(frozen=True, slots=True)
class RunExists:
    """An existing run: hit by its idempotency or debounce key (``cached``), or made by this same request before."""

    run_id: UUID
    cached: bool
    replaced: Packet | None = None
    """The payload that the request's own took the place of, where it did (debounce)."""


@dataclass(frozen=True, slots=True)
class RunMissing:
    """No such run in this environment."""


@dataclass(frozen=True, slots=True)
class RunCanceled:
    """The run was canceled by this call."""

    run_id: UUID


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run has ended before, and stays as it is."""

    run_id: UUID
    status: RunStatus


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it is read. ``status`` is as on the wire; ``error`` is ``{"type", "name", "message", "stackTrace", ...}``."""

    id: UUID
    task: str
    queue: str
    status: RunStatus
    payload: Packet
    output: Packet | None
    error: dict[str, object] | None
    attempt: int
    max_attempts: int | None
    batch_id: UUID | None
    batch_index: int | None
    parent_run_id: UUID | None
    root_run_id: UUID | None
    depth: int
    resumes: int
    idempotency_key: str | None
    tags: list[str]
    metadata: object
    options: dict[str, object]
    created_at: datetime
    updated_at: datetime
    delayed_until: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    traceparent: str | None
    version: str | None = None
    """Of the code that had it last, or that it is locked to."""

    @property
    def spelt(self) -> str:
        """Its id, as it stands on the wire: of an imported run the one that it came with."""
        foreign = self.options.get("foreignId") if is_foreign(self.id) else None
        return foreign if isinstance(foreign, str) else format_run_id(self.id)


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One ended attempt of a run."""

    number: int
    status: RunStatus
    started_at: datetime | None
    finished_at: datetime
    error: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class WorkerLease:
    """A worker's right to write: its number is minted once and never used again, so it fences (house.md invariant 6)."""

    worker_id: int
    environment_id: int
    version: str = ""


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The worker was silent for too long and its runs were given away: it must drop them and register anew."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a new run stands: below which run, in whose tree, and with how many runs above it."""

    parent_run_id: UUID
    root_run_id: UUID
    depth: int


@dataclass(frozen=True, slots=True)
class Point:
    """A durable point of a run: what it is, and its outcome once it is not ``pending`` any more.

    ``status``, ``value`` and ``error`` are those of the run, batch or token that it waits for; of a step or an effect they
    are its own, and ``succeeded`` says how it went (None: a step that is to be tried again). ``seen`` is when the code was
    told, in the run's logical time; negative where it stopped asking before.
    """

    run_id: UUID
    name: str
    kind: str
    pending: bool
    made: int
    seen: int | None = None
    target: UUID | None = None
    due_in: float | None = None
    failures: int = 0
    succeeded: bool | None = None
    status: str | None = None
    value: Packet = field(default_factory=lambda: Packet(None))
    error: dict[str, object] | None = None
    run_count: int | None = None


class ClaimedRun(Struct, frozen=True):  # one a run: a tenth of what a dataclass of this width costs to make
    """A run that this worker holds. ``attempt`` numbers its claims: with the worker it fences every write.

    ``failures`` counts the attempts that failed by themselves; those that a dead worker left behind are not among them,
    and don't count against ``max_attempts`` (the override of the run's options, or None).
    """

    id: UUID
    task: str
    queue: str
    attempt: int
    failures: int
    max_attempts: int | None
    payload: bytes | None
    payload_type: str
    batch_id: UUID | None
    batch_index: int | None
    tags: list[str]
    options: dict[str, object]
    created_at: datetime
    traceparent: str | None
    parent_run_id: UUID | None = None
    root_run_id: UUID | None = None
    depth: int = 0
    resumes: int = 0
    metadata: dict[str, object] | None = None
    journal: tuple[Point, ...] = ()
    kind: LaneKind = "plain"
    locked: bool = False
    keeps_slot: bool = False

    @property
    def number(self) -> int:
        """Which attempt this is to the user: a run that waited goes on with the one it was in."""
        return self.attempt - self.resumes


class Finish(Struct, frozen=True):
    """How an attempt ended, as the worker reports it.

    ``status`` is COMPLETED with an ``output``, or FAILED / CRASHED / TIMED_OUT with an ``error``; with ``retry_in``
    (seconds) the run is queued again after that long instead of ending. WAITING puts it down: it is queued again when one
    of its journal's points is done. ``pin`` names the task, queue and kind of lane of a run with a journal, which goes on in a lane of
    its worker's version; ``seen`` is the order in which its code was told outcomes, ``forget`` the points that a next
    attempt does again.
    """

    run_id: UUID
    attempt: int
    status: RunStatus
    output: Packet = _NOTHING
    error: dict[str, object] | None = None
    retry_in: float | None = None
    pin: LaneName | None = None
    seen: tuple[tuple[str, int | None], ...] = ()
    forget: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ItemResult:
    """An ended item of a batch: its index and the run that it stands for."""

    index: int
    run: RunView


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """How an item of a batch ended: what a run that waits for it needs, and no more."""

    index: int
    run_id: UUID
    task: str
    status: RunStatus
    output: Packet
    error: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; None leaves a column open. Times are aware."""

    statuses: frozenset[RunStatus] | None = None
    tasks: list[str] | None = None
    queues: list[str] | None = None
    tags: list[str] | None = None
    batch_id: UUID | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    schedule_id: UUID | None = None
    bulk_action_id: UUID | None = None
    """Of the action that canceled or made them."""
    idempotency_key: str | None = None
    concurrency_keys: list[str] | None = None
    order_keys: list[str] | None = None
    versions: list[str] | None = None
    is_test: bool | None = None
    machines: list[str] | None = None
    regions: list[str] | None = None
    error: str | None = None
    """Part of the code, the name or the message of their error."""


@dataclass(frozen=True, slots=True)
class RunPage:
    """A page of runs, newest first, and the cursors of the pages of older and of newer runs (None: there are no more).

    It can be shorter than was asked for, and empty, while there are more.
    """

    runs: list[RunView]
    older: UUID | None
    newer: UUID | None
    missing: Sequence[str] = ()
    """Names of the stores that did not answer: their runs are not in it."""
