"""Lists of runs: pages in the order of their ids, which is that of time, whatever they are chosen by.

A page looks at a bounded number of runs. Where an index knows what is asked for, all that it looks at is that; where none
does, a page may come out short, or empty, with a cursor from which the next one goes on. So no question reads a whole table
at once, and an index that every run would have to pay for is not needed for each question.

With several stores each is asked for the same page, and the pages are merged (``merged``). An id is as good a cursor in a
store that does not own it. A store that does not answer is left out and named: its runs that lie within the page are not come
back to when it answers again, those behind it are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owner
from headrace.engine.outcomes import RunFilter, RunPage
from headrace.engine.rows import read_run
from headrace.ids import at_store, first_id_at, item_run_id
from headrace.protocol.statuses import RunStatus
from headrace.store.merged import Chosen, merge_chosen
from headrace.store.router import Gathered
from headrace.store.statements import Plan, Record, query

MOST_LOOKED_AT: Final = 50_000
"""Runs that one page looks at."""

_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)
_QUEUED: Final = frozenset({RunStatus.QUEUED, RunStatus.DELAYED, RunStatus.PENDING_VERSION})
"""What a run that is stored as QUEUED reads as."""

_UNSUCCESSFUL: Final = frozenset(
    {
        RunStatus.CANCELED,
        RunStatus.FAILED,
        RunStatus.CRASHED,
        RunStatus.SYSTEM_FAILURE,
        RunStatus.EXPIRED,
        RunStatus.TIMED_OUT,
    }
)
_OPEN: Final = _QUEUED | {RunStatus.DEQUEUED, RunStatus.EXECUTING, RunStatus.WAITING}

_MINTED_LATE: Final = timedelta(hours=1)
"""A run is as old as its transaction, and its id may be younger: by how long somebody else's transaction was open before."""

_CLOCKS: Final = timedelta(minutes=5)
"""How far the clocks of processes may be from the database's."""


async def list_runs(
    engine: Engine,
    environment_id: int,
    wanted: RunFilter,
    *,
    after: UUID | None = None,
    before: UUID | None = None,
    limit: int = 25,
    look_at: int = MOST_LOOKED_AT,
) -> RunPage:
    """A page of runs, newest first: those older than ``after``, or those newer than ``before`` (not both)."""

    async def ask(one: Engine) -> Chosen[Record]:
        own = localize(wanted, one.key)
        plan = choose_runs(environment_id, own, before, after, limit, look_at, whole=True)
        return await one.store.run_plan(plan)

    if wanted.batch_id is not None:  # all its runs are in its store
        asked = Gathered([await ask_owner(engine, wanted.batch_id, ask, has_nothing)], [])
    else:
        asked = await engine.stores.gather(ask)
    rows, last = merge_chosen(asked.answers, limit, lambda row: row["id"], newest_first=not before)
    runs = [read_run(row) for row in rows]
    if before:
        older = runs[0].id if runs else before
        return RunPage(runs[::-1], older=older, newer=last, missing=asked.missing)
    return RunPage(runs, older=last, newer=runs[0].id if runs and after else None, missing=asked.missing)


def has_nothing(chosen: Chosen[Any]) -> bool:
    """Whether a store has nothing to choose from: what is asked for may be in another one by now."""
    return chosen == ([], None)


def localize(wanted: RunFilter, store: str) -> RunFilter:
    """The filter as it is asked in one store: there the part of a bulk action is known by an id of its own."""
    if wanted.bulk_action_id is None:
        return wanted
    return replace(wanted, bulk_action_id=at_store(wanted.bulk_action_id, store))


def choose_runs(
    environment_id: int,
    wanted: RunFilter,
    before: UUID | None,
    after: UUID | None,
    limit: int,
    look_at: int,
    *,
    whole: bool = False,
) -> Plan[Chosen[Record]]:
    """Plan: rows of a page in the order in which they were come to, and where the next page goes on (None: nowhere).

    Payloads and outputs are in them only where they are asked for ``whole``.
    """
    look_at = max(look_at, limit + 1)  # else a page could not tell that there are more
    name = "list_runs:back" if before else "list_runs"
    low, high = yield from _find_interval(environment_id, wanted, before or _FIRST_ID, after or _LAST_ID)
    way = yield from _choose_way(wanted, look_at)
    arguments = [environment_id, low, high, way]
    rows = yield from query(name, *arguments, limit + 1, 0, look_at, *_columns(wanted), whole)
    if len(rows) > limit:
        return rows[:limit], rows[limit - 1]["id"]
    last = (yield from _find_last_looked_at(name, arguments, look_at, wanted)) if _looks_further(wanted, way) else None
    return rows, last


def _find_last_looked_at(name: str, arguments: Sequence[Any], look_at: int, wanted: RunFilter) -> Plan[UUID | None]:
    """Plan: the run at which a page stopped to look, or None where it saw all there are."""
    everything = _find_known(wanted, arguments[3])
    rows: list[Record] = yield from query(name, *arguments, 1, look_at - 1, look_at, *_columns(everything), False)
    return rows[0]["id"] if rows else None


def _find_interval(environment_id: int, wanted: RunFilter, low: UUID, high: UUID) -> Plan[tuple[UUID, UUID]]:
    """Plan: between which ids all that is wanted lies."""
    if wanted.batch_id is not None:
        low = max(low, UUID(int=max(item_run_id(wanted.batch_id, 0).int - 1, 0)))
        high = min(high, UUID(int=item_run_id(wanted.batch_id, 2**31 - 1).int + 1))
    if wanted.created_from is not None and wanted.batch_id is None:
        [row] = yield from query("find_oldest_open_batch", environment_id, wanted.created_from)
        oldest = first_id_at(_shift(wanted.created_from, -_CLOCKS))
        least = min(oldest, row["id"] or oldest)  # its first item has the batch's own id, and is to lie within
        low = max(low, UUID(int=max(least.int - 1, 0)))
    if wanted.created_to is not None:
        high = min(high, first_id_at(_shift(wanted.created_to, _CLOCKS + _MINTED_LATE)))
    return low, high


def _choose_way(wanted: RunFilter, look_at: int) -> Plan[str]:
    """Plan: by which index the runs are found (see list_runs.sql): the one that leads to the fewest."""
    if wanted.idempotency_key is not None:
        return "key"
    if wanted.bulk_action_id is not None:
        return "bulk"
    if wanted.schedule_id is not None:
        return "schedule"
    if wanted.batch_id is not None:
        return "all"
    if wanted.error is not None or (wanted.statuses is not None and wanted.statuses <= _UNSUCCESSFUL):
        return "unsuccessful"
    statuses, _ = _split_statuses(wanted.statuses)
    ways = {"open": wanted.statuses is not None and wanted.statuses <= _OPEN, "tags": wanted.tags is not None}
    for way in [way for way, suits in ways.items() if suits]:
        [row] = yield from query("count_few_runs", way, wanted.tags, statuses, look_at)
        if row["found"] < look_at:
            return way
    return "all"


def _looks_further(wanted: RunFilter, way: str) -> bool:
    """Whether a page can be short though there are more: where something is asked for that its index does not know."""
    if way in {"open", "tags"}:
        return False  # these were counted: a page sees all of them
    return wanted not in (_find_known(wanted, way), RunFilter(statuses=_UNSUCCESSFUL))


def _find_known(wanted: RunFilter, way: str) -> RunFilter:
    """What an index answers by itself."""
    match way:
        case "all":
            return RunFilter(batch_id=wanted.batch_id)
        case "key":
            return RunFilter(idempotency_key=wanted.idempotency_key)
        case "schedule":
            return RunFilter(schedule_id=wanted.schedule_id)
        case "bulk":
            return RunFilter(bulk_action_id=wanted.bulk_action_id)
        case _:
            return RunFilter()


def _columns(wanted: RunFilter) -> list[Any]:
    statuses, readings = _split_statuses(wanted.statuses)
    return [
        statuses,
        readings,
        wanted.tasks,
        wanted.queues,
        wanted.batch_id,
        wanted.tags,
        wanted.created_from,
        wanted.created_to,
        wanted.schedule_id,
        wanted.bulk_action_id,
        wanted.idempotency_key,
        wanted.concurrency_keys,
        wanted.order_keys,
        wanted.versions,
        wanted.is_test,
        wanted.error,
        wanted.machines,
        wanted.regions,
    ]


def _split_statuses(statuses: frozenset[RunStatus] | None) -> tuple[list[str] | None, list[str] | None]:
    """Stored statuses, and of the queued runs how those that are meant read (None: any of them).

    DELAYED is QUEUED with a delay that is not over, PENDING_VERSION is QUEUED in a lane that nobody could ever claim from:
    no row has to be moved when that changes.
    """
    if statuses is None:
        return None, None
    stored = sorted({str(RunStatus.QUEUED if status in _QUEUED else status) for status in statuses})
    readings = statuses & _QUEUED
    return stored, sorted(map(str, readings)) if readings not in (frozenset[RunStatus](), _QUEUED) else None


def _shift(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC) if by < timedelta() else datetime.max.replace(tzinfo=UTC)
