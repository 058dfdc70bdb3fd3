"""What a run's code does at a durable point, as values: who does it, what it is, and under which name it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from headrace.engine.outcomes import Lineage, Packet, StoredItem, WorkerLease
from headrace.protocol.batches import CreateBatch
from headrace.protocol.metadata import MetadataOperation
from headrace.protocol.options import RunOptions


@dataclass(frozen=True, slots=True)
class Fence:
    """Who writes: the worker's lease and the run in that attempt; and where the run's children stand."""

    lease: WorkerLease
    run_id: UUID
    attempt: int
    lineage: Lineage
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class ChildRun:
    """A child, made under ``run_id`` unless its idempotency key stands for a run: then that one is waited for."""

    run_id: UUID
    task: str
    packet: Packet
    options: RunOptions
    awaited: bool = True


@dataclass(frozen=True, slots=True)
class ChildBatch:
    """A batch of children. With ``items`` it is made, filled and sealed at once; without them it is only opened."""

    batch_id: UUID
    request: CreateBatch
    items: Sequence[StoredItem] | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """Some more items of a batch that are to end, beyond the ``settled`` that were counted."""

    batch_id: UUID
    settled: int


@dataclass(frozen=True, slots=True)
class Timer:
    """A time: in so many seconds, or a date."""

    seconds: float | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenWait:
    """A token that somebody is to complete."""

    token_id: UUID


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that is made; ``describe`` gives what is kept of it, by its id and whether a key stood for it before."""

    token_id: UUID
    describe: Callable[[UUID, bool], Packet]
    timeout: str | None
    tags: Sequence[str]
    idempotency_key: str | None
    idempotency_key_ttl: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """How code ended that runs once: a value, or an error; or neither, and it is tried again ``retry_in`` seconds."""

    value: Packet = field(default_factory=lambda: Packet(None))
    error: dict[str, object] | None = None
    retry_in: float | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class MetadataChange:
    """Operations on the run's metadata, all or none of them; or on that of a run above it."""

    operations: Sequence[MetadataOperation]
    above: UUID | None = None


@dataclass(frozen=True, slots=True)
class TagsAddition:
    """Tags that the run has from now on, beside those that it has."""

    tags: Sequence[str]


Deed = ChildRun | ChildBatch | Following | Timer | TokenWait | NewToken | Result | MetadataChange | TagsAddition


@dataclass(frozen=True, slots=True)
class PointWrite:
    """A point that the code has come to: its name, its moment, and what is done there."""

    name: str
    made: int
    deed: Deed
    seen: int | None = None
    cascade: bool = True
