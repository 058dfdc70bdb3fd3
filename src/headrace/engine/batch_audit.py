"""The audit of batches: counts that disagree with the items, which can't be, are looked for all the same.

A batch's end follows from counts that are written in the transactions that end its runs. A bug there, or a hand in the
database, would leave a batch that never ends, and somebody who waits for it. So batches that have not ended are counted now
and then, a slice at a time, and what is wrong is repaired, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from headrace.engine.waits import complete_targets
from headrace.ids import format_batch_id
from headrace.logs import get_logger
from headrace.store.statements import Plan, Record, query

QUIET: Final = 60.0
"""Seconds without any progress after which a batch is worth counting."""

MOST_ITEMS: Final = 200_000
"""Items that one slice counts, about: a second's work. A larger batch is a slice by itself."""

_FIRST: Final = UUID(int=0)

_log = get_logger("headrace.audit")


@dataclass(frozen=True, slots=True)
class BatchRepair:
    """A batch that was wrong: its counts as they were and as they are, and whether that ended it."""

    environment_id: int
    batch_id: UUID
    before: Mapping[str, int]
    after: Mapping[str, int]
    missing: int
    ended: bool


@dataclass(slots=True)
class BatchAudit:
    """What one slice found. ``after`` is where the next one begins; None after the last."""

    looked: int = 0
    after: UUID | None = None
    repairs: list[BatchRepair] = field(default_factory=list[BatchRepair])
    woken: set[UUID] = field(default_factory=set[UUID])  # runs that waited for a batch which a repair ended


def audit_batches(
    after: UUID | None, limit: int, *, quiet: float = QUIET, most_items: int = MOST_ITEMS
) -> Plan[BatchAudit]:
    """Plan: looks at up to ``limit`` sealed batches that have not ended, with ids above ``after`` (None: from the start).

    Batches that moved within ``quiet`` seconds are passed over. What is wrong is repaired under the batch's row lock:
    counts as its items say them; a batch whose items have no run at all is ABORTED. Who waits for a batch that ends so is
    made ready. Counts of batches that have ended are not looked at: their end is final. Reads the items of what it counts,
    so a round is for every minute rather than every second.
    """
    rows = yield from query("audit_batches", after or _FIRST, limit, most_items, quiet)
    audit = BatchAudit(looked=len(rows), after=rows[-1]["id"] if rows else None)
    for row in rows:
        if row["wrong"]:
            yield from _repair_batch(row, audit)
    return audit


def log_repairs(audit: BatchAudit) -> None:
    """Says what was repaired, once it is committed, as the bug that it is."""
    for repair in audit.repairs:
        _log.error(
            "bug: the counts of a batch disagreed with its runs, and were repaired",
            batch=format_batch_id(repair.batch_id),
            before=dict(repair.before),
            after=dict(repair.after),
            items_without_run=repair.missing,
            ended=repair.ended,
        )


def _repair_batch(row: Record, audit: BatchAudit) -> Plan[None]:
    environment_id, batch_id = row["environment_id"], row["id"]
    yield from query("lock_batch", environment_id, batch_id)
    recounted = yield from query("recount_batch", environment_id, batch_id)
    if not recounted:  # it ended while its row was waited for
        return
    [found] = recounted
    audit.repairs.append(
        BatchRepair(environment_id, batch_id, _read_counts(row), _read_counts(found), found["missing"], found["ended"])
    )
    ended = [batch_id] if found["ended"] else []
    audit.woken |= yield from complete_targets(environment_id, ended, [batch_id])


def _read_counts(row: Record) -> dict[str, int]:
    return {name: row[name] for name in ("accepted", "settled", "succeeded")}
