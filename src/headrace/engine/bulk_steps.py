"""How a bulk action is carried out: its members are written down, then dealt with, a bounded part a transaction.

What is done to a run and that it was done commit together, so a kill at any point repeats nothing and loses nothing: the next
process goes on with the members whose turn has not come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import msgspec

from headrace.engine.bulk_actions import BulkKind, read_filter
from headrace.engine.cancels import CANCELED, cancel_runs
from headrace.engine.engine import Engine
from headrace.engine.listings import choose_runs, localize
from headrace.engine.replays import replay_runs
from headrace.ids import HOME_STORE
from headrace.logs import get_logger
from headrace.store.statements import Plan, query

_SELECTED: Final = 2_000
_LOOKED_AT: Final = 20_000
_DEALT_WITH: Final = 200

_ENDED: Final = "The run had ended before."
_GONE: Final = "The run is not there any more."
_DRAINING: Final = (
    "The run is in the store {name}, which takes no new runs now. Replayed by itself it goes to another one."
)

_UNFIT: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    msgspec.MsgspecError,
    ValueError,
)
"""What one run may raise by what it is, at any time: it must not hold up the others."""

_log = get_logger("headrace.engine")


@dataclass(slots=True)
class BulkCarrier:
    """Carries on what is under way, an action after the other in turn; ``elected`` wraps each transaction."""

    engine: Engine
    elected: Callable[[Plan[Any]], Plan[Any]]
    done: int = 0
    canceled: int = 0
    environments: set[int] = field(default_factory=set[int])
    _turns: list[tuple[int, UUID]] = field(default_factory=list[tuple[int, UUID]])

    async def carry_on(self) -> bool:
        """One part of one action. False where there is none, or another process is the elected one."""
        if not self._turns:
            rows: list[Any] | None = await self.engine.store.run_plan(self.elected(query("find_pending_bulk_actions")))
            self._turns = [(row["environment_id"], row["id"]) for row in rows or []]
        if not self._turns:
            return False
        environment_id, action_id = self._turns.pop(0)
        try:
            await self._take(environment_id, action_id, _DEALT_WITH)
        except _UNFIT as error:
            _log.warning("a run of a bulk action is unfit: one by one", error=f"{type(error).__name__}: {error}")
            await self._take_one_by_one(environment_id, action_id)
        return True

    async def _take(self, environment_id: int, action_id: UUID, limit: int) -> None:
        step = _step(self.engine, environment_id, action_id, limit)
        self._note(environment_id, await self.engine.store.run_plan(self.elected(step)))

    async def _take_one_by_one(self, environment_id: int, action_id: UUID) -> None:
        for _ in range(_DEALT_WITH):
            try:
                await self._take(environment_id, action_id, 1)
            except _UNFIT as error:
                note = _settle_unfit(environment_id, action_id, f"{type(error).__name__}: {error}")
                self._note(environment_id, await self.engine.store.run_plan(self.elected(note)))

    def _note(self, environment_id: int, done: tuple[int, int] | None) -> None:
        if done is not None:
            self.done += done[0]
            self.canceled += done[1]
            self.environments.add(environment_id)


def _step(engine: Engine, environment_id: int, action_id: UUID, limit: int) -> Plan[tuple[int, int]]:
    """Plan: a bounded part of an action: how many members were dealt with, and how many runs canceled."""
    rows: list[Any] = yield from query("lock_bulk_action", environment_id, action_id)
    if not rows:
        return 0, 0
    [action] = rows
    if action["selected_at"] is None:
        yield from _select(environment_id, action, engine.key)
        return 0, 0
    members = yield from _find_open(environment_id, action_id, limit)
    is_home = engine.key == HOME_STORE
    if action["kind"] == BulkKind.CANCEL:
        ended = yield from cancel_runs(environment_id, members, CANCELED)
        results = {row["id"]: row["id"] for row in ended}
        reason, canceled = _ENDED, len(results)
    elif not engine.stores.takes_roots(engine.at(action_id)):
        # runs with an order key are at home whatever its weight, and so are their replays
        results = (yield from replay_runs(engine, environment_id, members, ordered_only=True)) if is_home else {}
        reason, canceled = _DRAINING.format(name=engine.name), 0
    else:
        results = yield from replay_runs(engine, environment_id, members)
        reason, canceled = _GONE, 0
    yield from _settle(environment_id, action_id, members, results, reason)
    return len(members), canceled


def _settle_unfit(environment_id: int, action_id: UUID, reason: str) -> Plan[tuple[int, int]]:
    """Plan: the member whose turn it is has failed. Where it is the filter that can't be used, the action is over."""
    rows: list[Any] = yield from query("lock_bulk_action", environment_id, action_id)
    if not rows:
        return 0, 0
    if rows[0]["selected_at"] is None:
        yield from query("abort_bulk_action", environment_id, action_id)
        return 0, 0
    members = yield from _find_open(environment_id, action_id, 1)
    yield from _settle(environment_id, action_id, members, {}, reason)
    return len(members), 0


def _select(environment_id: int, action: Any, store: str) -> Plan[None]:
    """Plan: writes down some more members: of the runs that were there when the action was made."""
    wanted = localize(read_filter(action["filter"]), store)
    until = min(wanted.created_to, action["created_at"]) if wanted.created_to else action["created_at"]
    frozen = replace(wanted, created_to=until)
    rows, last = yield from choose_runs(environment_id, frozen, None, action["cursor"], _SELECTED, _LOOKED_AT)
    yield from query("insert_bulk_members", environment_id, action["id"], [row["id"] for row in rows], last)


def _find_open(environment_id: int, action_id: UUID, limit: int) -> Plan[list[UUID]]:
    rows: list[Any] = yield from query("find_open_members", environment_id, action_id, limit)
    return [row["run_id"] for row in rows]


def _settle(
    environment_id: int, action_id: UUID, members: Sequence[UUID], results: dict[UUID, UUID], reason: str
) -> Plan[None]:
    """Plan: writes how it went. With no members left this is what ends the action."""
    yield from query(
        "settle_members",
        environment_id,
        action_id,
        list(members),
        [results.get(member) for member in members],
        [None if member in results else reason for member in members],
    )
