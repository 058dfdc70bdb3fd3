"""The parts that a bulk action has in stores other than home: made, looked at, aborted.

A part is a bulk action of its store, with the action's id but for the store in it, and is carried out there as any other. Home
notes which parts there are to be in the transaction that makes the action. So a store that is away then gets its part when it
is back, and the action is not over before. Nothing here has a transaction in two stores at once: each step can be repeated, by
whoever comes next, and a kill between two of them costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from headrace.engine.engine import Engine
from headrace.engine.registry import list_stores
from headrace.ids import at_store
from headrace.logs import get_logger
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS

_OVER = ("COMPLETED", "ABORTED")

_log = get_logger("headrace.engine")


@dataclass(frozen=True, slots=True)
class PartState:
    """How far a part is."""

    store: str
    status: str
    selected: bool
    total: int
    succeeded: int
    failed: int


async def tend_parts(engine: Engine, environment_id: int, action_id: UUID, *, at_once: bool = False) -> None:
    """Makes, looks at or aborts the open parts of an action, in the stores that answer; the sweep does the rest.

    ``at_once``: the action was made just now, so what is in a store now was there then, whatever the clocks say.
    """
    try:
        rows = await engine.home.store.fetch("find_open_bulk_parts", environment_id, action_id)
        await _tend(engine.home, rows, at_once=at_once)
    except DATABASE_ERRORS as error:
        _log.warning("parts of a bulk action are left to the sweep", error=f"{type(error).__name__}: {error}")


async def tend_all_parts(engine: Engine) -> None:
    """The same with all parts that are open. Of home's engine; two who do it at once do no harm."""
    if rows := await engine.store.fetch("find_open_bulk_parts", None, None):
        await _tend(engine, rows)


@dataclass(slots=True)
class PartKeeper:
    """Tends the parts beside the sweeps: a store that is silent holds up no deadline of home."""

    engine: Engine
    _tending: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begins to, unless it does so already."""
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend())

    async def stop(self) -> None:
        """Ends it."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait({self._tending})

    async def _tend(self) -> None:
        try:
            await tend_all_parts(self.engine)
        except DATABASE_ERRORS as error:
            _log.warning("parts of bulk actions are put off", error=f"{type(error).__name__}: {error}")


async def look_at_parts(
    engine: Engine, environment_id: int, parts: dict[UUID, list[PartState]]
) -> tuple[dict[UUID, list[PartState]], list[str]]:
    """The parts of actions as they stand, and which stores don't answer: theirs are as they were seen last."""
    wanted: defaultdict[str, list[UUID]] = defaultdict(list)
    for action_id, own in parts.items():
        for part in own:
            if part.status not in _OVER:
                wanted[part.store].append(at_store(action_id, part.store))
    if not wanted:
        return parts, []

    async def ask(one: Engine) -> list[tuple[UUID, PartState]]:
        rows = await one.store.fetch("find_bulk_actions", environment_id, wanted[one.key])
        return [(at_store(row["id"], engine.home.key), _read_state(one.key, row)) for row in rows]

    asked = await engine.stores.gather_from(wanted, ask)
    seen = {(action_id, state.store): state for states in asked.answers for action_id, state in states}
    found = {
        action_id: [seen.get((action_id, part.store), part) if part.status not in _OVER else part for part in own]
        for action_id, own in parts.items()
    }
    return found, asked.missing


def read_parts(text: str) -> list[PartState]:
    """Parts as home has noted them."""
    return msgspec.json.decode(text, type=list[PartState])


async def _tend(home: Engine, rows: Sequence[Record], *, at_once: bool = False) -> None:
    by_store: defaultdict[str, list[Record]] = defaultdict(list)
    for row in rows:
        by_store[row["store"]].append(row)

    async def ask(one: Engine) -> list[tuple[Record, PartState]]:
        plans = [(row, _tend_part(row, one.key, at_once=at_once)) for row in by_store[one.key]]
        return [(row, await one.store.run_plan(plan)) for row, plan in plans]

    asked = await home.stores.gather_from(by_store, ask)
    answers = [answer for answered in asked.answers for answer in answered]
    if unknown := set(by_store) - {record.key for record in home.stores.records()}:
        removed = unknown & {record.key for record in await list_stores(home) if record.state == "removed"}
        # what it owned is in other stores, and whatever is to be done to it can't be done here any more
        answers += [(row, PartState(store, "COMPLETED", True, 0, 0, 0)) for store in removed for row in by_store[store]]
    for row, state in answers:
        await home.store.run_plan(_note(row["environment_id"], row["action_id"], state))


def _tend_part(row: Record, store: str, *, at_once: bool) -> Plan[PartState]:
    """Plan, in its store: the part is there, or is aborted, and this is how far it is."""
    environment_id: int = row["environment_id"]
    part_id = at_store(row["action_id"], store)
    found = yield from query("find_bulk_actions", environment_id, [part_id])
    if found and row["wanted"]:
        return _read_state(store, found[0])
    made = yield from query(
        "insert_bulk_part",
        environment_id,
        part_id,
        row["kind"],
        row["name"],
        None if row["run_ids"] is not None else row["filter"],
        row["wanted"],
        None if at_once else row["created_at"],
    )
    if made and row["wanted"] and row["run_ids"] is not None:
        yield from query("insert_bulk_members", environment_id, part_id, row["run_ids"], None)
    if not row["wanted"]:
        yield from query("abort_bulk_action", environment_id, part_id)
    found = yield from query("find_bulk_actions", environment_id, [part_id])
    # none: its environment is not known there, so there was no run of it
    return _read_state(store, found[0]) if found else PartState(store, "COMPLETED", True, 0, 0, 0)


def _note(environment_id: int, action_id: UUID, state: PartState) -> Plan[None]:
    """Plan, at home: what was seen of a part. The last part that is over ends the action; one that can't be carried out aborts it."""
    action = yield from query("lock_bulk_action", environment_id, action_id)
    yield from query(
        "note_bulk_part",
        *(environment_id, action_id, state.store, state.status),
        *(state.selected, state.total, state.succeeded, state.failed),
    )
    if action and state.status == "ABORTED":
        yield from query("abort_bulk_action", environment_id, action_id)
    elif action and state.status == "COMPLETED":
        yield from query("complete_bulk_action", environment_id, action_id)


def _read_state(store: str, row: Record) -> PartState:
    return PartState(store, row["status"], row["selected"], row["total"], row["succeeded"], row["failed"])
