"""Limits that hold over all stores: a claim under limits, where there are several (decision 0014).

Who claims under a limit holds its lock in every store, taken in one order, counts what executes in each, and claims in its own.
Only then does it let go. What makes this safe is the lock in its own store, which ends with the claim itself: nobody can have
counted this store while the claim was under way, whichever other lock was lost to a crash or a standstill.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import asyncpg
import msgspec

from headrace import metrics
from headrace.engine.engine import Engine
from headrace.engine.turns import Turns
from headrace.ids import HOME_STORE
from headrace.logs import get_logger
from headrace.store.router import Stores
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS, run_plan_on

_REST: Final = 2.0
"""Seconds in which a store that did not answer is not asked again: lanes without limits are not to wait for it each time."""

_BUSY_REST: Final = 0.2
"""The same where somebody else held a limit for too long."""

_PATIENCE: Final = 1.0
"""So long a claim waits for an answer or a lock of another store, or less where ``store_patience`` is."""

_YIELDS: Final = 0.3
"""So long a worker leaves a limit to a store whose turn it is. It is woken, and takes a few milliseconds."""

_encode: Final = msgspec.json.Encoder().encode
_log: Final = get_logger("headrace.limits")

NO_COUNTS: Final = "{}"
"""What a claim is given that may take from no limited lane."""

MakeClaim = Callable[[str], Plan[list[Record]]]
"""The claim in its own store, given what the other stores have used up: what ``claim_limited_runs`` takes last."""


class _AwayError(Exception):
    """A store did not answer, so it can't be counted."""


class _BusyError(Exception):
    """Somebody else holds a limit, for longer than a claim waits."""


@dataclass(slots=True)
class _Door:
    """One claim of a process at a time goes through all stores, so that it holds one connection in each at most."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    closed_until: float = 0.0


_doors: Final[WeakKeyDictionary[Stores[Any], _Door]] = WeakKeyDictionary()


async def claim_over_stores(
    engine: Engine, environment_id: int, tasks: Sequence[str], limit: int, turns: Turns, make_claim: MakeClaim
) -> list[Record]:
    """The rows of a claim from lanes with keys or limits in the store of ``engine``, where there are others.

    Where a store does not answer, or holds a limit for too long, nothing is taken from lanes under limits, of which it would
    have to be counted what executes there. Raises errors of the engine's own store.
    """
    names: list[str] = [row["name"] for row in await engine.store.fetch("find_limits", environment_id, list(tasks))]
    door = _doors.setdefault(engine.stores, _Door())
    turns.again_in = None
    if names and time.monotonic() < door.closed_until:
        turns.again_in = door.closed_until - time.monotonic()
    elif names:
        claim = _Claim(engine, environment_id, list(tasks), names, limit, turns, make_claim)
        try:
            async with door.lock:
                return await claim.make()
        except _AwayError as error:
            door.closed_until = time.monotonic() + _REST
            _log.warning(
                "nothing is claimed under limits: a store that would have to be counted is away", reason=str(error)
            )
            metrics.count_withheld_claim()
        except _BusyError:
            door.closed_until = time.monotonic() + _BUSY_REST
        turns.again_in = door.closed_until - time.monotonic()
    return await engine.store.run_plan(_claim_unlimited(engine, environment_id, tasks, make_claim))


def _claim_unlimited(
    engine: Engine, environment_id: int, tasks: Sequence[str], make_claim: MakeClaim
) -> Plan[list[Record]]:
    """Plan: a claim from lanes with keys and without limits, which are their store's own affair."""
    yield from query("lock_limits", environment_id, list(tasks), engine.settings.lease)
    return (yield from make_claim(NO_COUNTS))


@dataclass(slots=True)
class _Claim:
    """One claim under limits."""

    engine: Engine
    environment_id: int
    tasks: list[str]
    names: list[str]
    limit: int
    turns: Turns
    make_claim: MakeClaim

    async def make(self) -> list[Record]:
        others = [one for one in self.engine.stores.all() if one is not self.engine]
        async with _open_all(others) as connections, self.engine.store.connect() as own:
            connections[self.engine.key] = (self.engine, own)
            async with own.transaction():
                for _, (one, connection) in sorted(connections.items()):  # whoever waits for one holds none behind it
                    await self._ask(one, connection, self._hold(one))
                used = await self._count(connections)
                left_over = self._find_left_over(used)
                counts = _add_up(used, [name for name in self.names if name not in left_over], self.engine)
                rows = await self._claim(own, counts)
                if rows:  # else the lease is over, and nobody wants anything
                    await run_plan_on(own, self._note(rows, left_over))
        if left_over:
            self.turns.again_in = _YIELDS / 2
            for one in {one.key: one for owners in left_over.values() for one in owners}.values():
                one.notices.runs_ready(self.environment_id)
        return rows

    def _hold(self, one: Engine) -> Plan[list[Record]]:
        """Plan: takes the limits in one store."""
        own_tasks = self.tasks if one is self.engine else None
        lease = self.engine.settings.lease
        return query("lock_named_limits", self.environment_id, self.names, lease, self._patience, own_tasks)

    async def _count(self, connections: Mapping[str, tuple[Engine, Any]]) -> dict[str, list[Record]]:
        """What of the limits is used up in each store, by its key. Raises _AwayError where there are others beside them."""
        answers = await asyncio.gather(
            *(self._ask(one, connection, self._look(one)) for one, connection in connections.values()),
            return_exceptions=True,  # each has to be over before its connection is given back
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        found = {key: answer for key, answer in zip(connections, answers, strict=True) if isinstance(answer, list)}
        registered = {row["name"] for row in found[HOME_STORE] if row["kind"] == "store"}
        if registered != set(connections):
            raise _AwayError("the registry has other stores than this process knows; it is read every few seconds")
        return found

    def _look(self, one: Engine) -> Plan[list[Record]]:
        return query("count_limits", self.environment_id, self.names, one is not self.engine)

    async def _ask(self, one: Engine, connection: Any, plan: Plan[list[Record]]) -> list[Record]:
        try:
            if one is self.engine:
                return await run_plan_on(connection, plan)
            async with asyncio.timeout(2 * self._patience):
                return await run_plan_on(connection, plan)
        except asyncpg.LockNotAvailableError as error:
            raise _BusyError from error
        except DATABASE_ERRORS as error:
            if one is self.engine:
                raise
            raise _AwayError(f"{one.name}: {type(error).__name__}: {error}") from error

    async def _claim(self, own: Any, counts: str) -> list[Record]:
        try:
            return await run_plan_on(own, self.make_claim(counts))
        except asyncpg.LockNotAvailableError as error:  # whoever sets a limit holds the worker's row
            raise _BusyError from error

    @property
    def _patience(self) -> float:
        return min(self.engine.settings.store_patience, _PATIENCE)

    def _find_left_over(self, used: Mapping[str, Sequence[Record]]) -> dict[str, list[Engine]]:
        """The limits under which it is another store's turn, and the engines of these: it wants more and has not tried since
        this one took something. A worker gives way for a moment only, whatever the others say.
        """
        said: dict[str, dict[tuple[str, str], float]] = {
            key: {(row["kind"], row["name"]): row["amount"] for row in rows} for key, rows in used.items()
        }
        own = said[self.engine.key]
        found: defaultdict[str, list[Engine]] = defaultdict(list)
        for one in self.engine.stores.all():
            if one is self.engine:
                continue
            theirs = said[one.key]
            for name in self.names:
                wants = theirs.get(("wants", name), 0.0) > 0
                took = own.get(("took", name))
                if wants and took is not None and theirs.get(("tried", name), float("inf")) > took:
                    found[name].append(one)
        return {name: owners for name, owners in found.items() if self.turns.gives_way(name, _YIELDS)}

    def _note(self, rows: Sequence[Record], left_over: Mapping[str, Any]) -> Plan[list[Record]]:
        taken = [row for row in rows if row["id"] is not None]
        queues = {row["queue"] for row in taken}
        names = self.names
        for name in set(names) - set(left_over):
            self.turns.had_turn(name)
        return query(
            "note_turns",
            self.environment_id,
            names,
            [bool(taken) if not name else name in queues for name in names],
            [name in left_over for name in names],
            self.tasks,
            len(taken) < self.limit,
            2 * self.engine.settings.poll_interval,
        )


def _add_up(used: Mapping[str, Sequence[Record]], names: Sequence[str], engine: Engine) -> str:
    """What the other stores have used up of the limits ``names``, as ``claim_limited_runs`` takes it.

    A queue that another store has not heard of yet is left out: what executes there is counted under nothing.
    """
    counts: dict[str, float] = {}
    answers: Counter[str] = Counter()
    for key, rows in used.items():
        for row in rows:
            if key != engine.key and row["kind"] == "count":
                counts[row["name"]] = counts.get(row["name"], 0.0) + row["amount"]
                answers[row["name"]] += 1
            elif key != engine.key and row["kind"] == "rate":
                counts[row["name"]] = max(counts.get(row["name"], 0.0), row["amount"])
    kept = {f"queue:{name}" if name else "environment" for name in names}
    for name in [*answers]:
        is_limit = name == "environment" or name.startswith("queue:")
        if is_limit and (name not in kept or answers[name] < len(used) - 1):
            del counts[name]
    return _encode(counts).decode("utf-8")


@asynccontextmanager
async def _open_all(engines: Sequence[Engine]) -> AsyncGenerator[dict[str, tuple[Engine, Any]]]:
    """A transaction on each store, by its key; all end together. Raises _AwayError."""
    stacks = [AsyncExitStack() for _ in engines]
    try:
        opened = await asyncio.gather(
            *(_open(one, stack) for one, stack in zip(engines, stacks, strict=True)), return_exceptions=True
        )
        connections: dict[str, tuple[Engine, Any]] = {}
        for one, answer in zip(engines, opened, strict=True):
            if isinstance(answer, DATABASE_ERRORS):
                raise _AwayError(f"{one.name}: {type(answer).__name__}: {answer}") from answer
            if isinstance(answer, BaseException):
                raise answer
            connections[one.key] = (one, answer)
        yield connections
    finally:  # what they did was to wait and to look: how they end is of no matter
        await asyncio.gather(*(_close(stack) for stack in stacks))


async def _open(one: Engine, stack: AsyncExitStack) -> Any:
    async with asyncio.timeout(min(one.settings.store_patience, _PATIENCE)):
        connection = await stack.enter_async_context(one.store.connect())
        await stack.enter_async_context(connection.transaction())
        return connection


async def _close(stack: AsyncExitStack) -> None:
    with suppress(*DATABASE_ERRORS):
        async with asyncio.timeout(_PATIENCE):
            await stack.aclose()
