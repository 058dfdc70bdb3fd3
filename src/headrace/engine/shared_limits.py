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
from headrace.timeouts import answers_within

_REST: Final = 1.0
"""Seconds from look to look at whether a store that did not answer does again. Nobody waits for that: lanes without limits are not to."""

_BUSY_REST: Final = 0.2
"""The same where somebody else held a limit for too long."""

_PATIENCE: Final = 2.0
"""So long a claim waits for an answer or a lock of another store, or less where ``store_patience`` is."""

_LOOKS_AGAIN: Final = 0.05
"""After so long a worker looks again at a limit that it left to another store, which is woken and takes milliseconds."""

_NEVER: Final = float("inf")

_encode: Final = msgspec.json.Encoder().encode
_log: Final = get_logger("headrace.limits")

NO_COUNTS: Final = "{}"
"""What a claim is given that may take from no limited lane."""

MakeClaim = Callable[[str], Plan[list[Record]]]
"""The claim in its own store, given what the other stores have used up: what ``claim_limited_runs`` takes last."""


class _AwayError(Exception):
    """A store did not answer, so it can't be counted."""


class _BusyError(Exception):
    """Somebody else holds a limit for longer than a claim waits, or the stores do not agree yet what the limits are."""


@dataclass(slots=True)
class _Door:
    """One claim of a process at a time goes through all stores, so that it holds one connection in each at most."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    closed_until: float = 0.0
    away: str = ""
    """Why it is closed until every store answers again; "" where it is not."""
    look: asyncio.Task[None] | None = None
    looked_at: float = 0.0

    def close(self, reason: str) -> None:
        """Until every store answers."""
        if not self.away:
            _log.warning(
                "nothing is claimed under limits: a store that would have to be counted is away", reason=reason
            )
        self.away, self.looked_at = reason, time.monotonic()
        metrics.count_withheld_claim()

    def look_again(self, stores: Stores[Engine], patience: float) -> None:
        """Looks whether every store answers, unless that is done or was done just now. Returns at once."""
        if (self.look is None or self.look.done()) and time.monotonic() - self.looked_at >= _REST:
            self.look = asyncio.create_task(self._look(stores, patience))

    async def _look(self, stores: Stores[Engine], patience: float) -> None:
        asked = [answers_within(one.store.fetch("check_database"), patience) for one in stores.all()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        self.looked_at = time.monotonic()
        if not any(isinstance(answer, BaseException) for answer in answers):
            _log.info("every store answers again: what is under limits is claimed", reason=self.away)
            self.away = ""


_doors: Final[WeakKeyDictionary[Stores[Any], _Door]] = WeakKeyDictionary()


async def claim_over_stores(
    engine: Engine, environment_id: int, tasks: Sequence[str], limit: int, turns: Turns, make_claim: MakeClaim
) -> list[Record]:
    """The rows of a claim from lanes with keys or limits in the store of ``engine``, where there are others.

    Where a store does not answer, or holds a limit for too long, nothing is taken from lanes under limits, of which it would
    have to be counted what executes there. One that is away is waited for once, by the claim that finds it so. Raises errors of
    the engine's own store.
    """
    names: list[str] = [row["name"] for row in await engine.store.fetch("find_limits", environment_id, list(tasks))]
    door = _doors.setdefault(engine.stores, _Door())
    turns.again_in = None
    if names and door.away:
        metrics.count_withheld_claim()
        door.look_again(engine.stores, _find_patience(engine))
        turns.again_in = _REST
    elif names and time.monotonic() < door.closed_until:
        turns.again_in = door.closed_until - time.monotonic()
    elif names:
        claim = _Claim(engine, environment_id, list(tasks), names, limit, turns, make_claim)
        try:
            async with door.lock:
                if not door.away:  # else somebody before has found it so
                    return await claim.make()
            turns.again_in = _REST
        except _AwayError as error:
            door.close(str(error))
            turns.again_in = _REST
        except _BusyError:
            door.closed_until = time.monotonic() + _BUSY_REST
            turns.again_in = _BUSY_REST
    return await engine.store.run_plan(_claim_unlimited(engine, environment_id, tasks, make_claim))


def _find_patience(engine: Engine) -> float:
    # while it waits for one store the transactions in those before are idle, and may be so for no longer than a lease
    return min(engine.settings.store_patience, _PATIENCE, engine.settings.lease / (2 * len(engine.stores.all())))


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
        others = [one for one in self.engine.stores.all() if one.key != self.engine.key]
        async with _open_all(others, _find_patience(self.engine)) as sessions, self.engine.store.connect() as own:
            sessions[self.engine.key] = here = _Session(self.engine, own, AsyncExitStack())
            async with own.transaction():
                for _, session in sorted(sessions.items()):  # whoever waits for one holds none that comes after it
                    await session.ask(self._hold(session.engine))
                used = await self._count(sessions)
                rows, left_over = await self._share(here, used)
                if rows:  # else the lease is over, and nobody wants anything
                    await here.ask(self._note(rows, left_over))
        if left_over:
            self.turns.again_in = _LOOKS_AGAIN
            for one in {one.key: one for owners in left_over.values() for one in owners}.values():
                one.notices.runs_ready(self.environment_id)
        return rows

    async def _share(
        self, here: _Session, used: Mapping[str, Sequence[Record]]
    ) -> tuple[list[Record], dict[str, list[Engine]]]:
        """The claim; and the limits under which it could have taken something that it left to the stores named."""
        due = self._find_due(used)
        counts = _add_up(used, self.names, self.engine)
        if not due:
            return await here.ask(self.make_claim(counts)), {}
        trial = here.connection.transaction()
        await trial.start()
        rows = await here.ask(self.make_claim(counts))
        left_over = {name: due[name] for name in self._find_taken(rows) if name in due}
        if not left_over:  # it could take nothing of these anyway
            await trial.commit()
            return rows, {}
        await trial.rollback()
        for name, owners in left_over.items():
            for one in owners:
                self.turns.give_way(name, one.key)
        counts = _add_up(used, [name for name in self.names if name not in left_over], self.engine)
        return await here.ask(self.make_claim(counts)), left_over

    def _hold(self, one: Engine) -> Plan[list[Record]]:
        """Plan: takes the limits in one store."""
        own_tasks = self.tasks if one is self.engine else None
        lease = self.engine.settings.lease
        return query(
            "lock_named_limits", self.environment_id, self.names, lease, _find_patience(self.engine), own_tasks
        )

    async def _count(self, sessions: Mapping[str, _Session]) -> dict[str, list[Record]]:
        """What of the limits is used up in each store, by its key. Raises _AwayError where there are others beside them."""
        answers = await asyncio.gather(
            *(session.ask(self._look(session.engine)) for session in sessions.values()),
            return_exceptions=True,  # each has to be over before its connection is given back
        )
        found: dict[str, list[Record]] = {}
        for key, answer in zip(sessions, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found[key] = answer
        if {row["name"] for row in found[HOME_STORE] if row["kind"] == "store"} != set(found):
            raise _AwayError("the registry has other stores than this process knows; it is read every few seconds")
        if len({row["name"] for rows in found.values() for row in rows if row["kind"] == "mark"}) > 1:
            raise _BusyError  # one has not heard yet what the limits are now; it will in a moment
        return found

    def _look(self, one: Engine) -> Plan[list[Record]]:
        return query("count_limits", self.environment_id, self.names, one is not self.engine)

    def _find_due(self, used: Mapping[str, Sequence[Record]]) -> dict[str, list[Engine]]:
        """The limits under which it is another store's turn, and the engines of these: it would take more, and it is longer
        ago that it took anything.
        """
        said: dict[str, dict[tuple[str, str], float]] = {
            key: {(row["kind"], row["name"]): row["amount"] for row in rows} for key, rows in used.items()
        }
        own = said[self.engine.key]
        found: defaultdict[str, list[Engine]] = defaultdict(list)
        for one in self.engine.stores.all():
            if one.key == self.engine.key:
                continue
            theirs = said[one.key]
            for name in self.names:
                is_due = theirs.get(("wants", name), 0.0) > 0 and theirs.get(("took", name), _NEVER) > own.get(
                    ("took", name), _NEVER
                )
                if self.turns.may_give_way(name, one.key, theirs.get(("tried", name), _NEVER), is_due=is_due):
                    found[name].append(one)
        return dict(found)

    def _find_taken(self, rows: Sequence[Record]) -> set[str]:
        """The limits under which something was taken."""
        queues = {row["queue"] for row in rows if row["id"] is not None}
        return {name for name in self.names if (bool(queues) if not name else name in queues)}

    def _note(self, rows: Sequence[Record], left_over: Mapping[str, Any]) -> Plan[list[Record]]:
        taken = self._find_taken(rows)
        return query(
            "note_turns",
            self.environment_id,
            self.names,
            [name in taken for name in self.names],
            [name in left_over for name in self.names],
            self.tasks,
            sum(row["id"] is not None for row in rows) < self.limit,
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


@dataclass(slots=True)
class _Session:
    """A transaction on one store, in which a claim waits and looks."""

    engine: Engine
    connection: Any
    stack: AsyncExitStack
    patience: float | None = None
    """None in the claim's own store, whose errors are the claim's."""

    async def ask(self, plan: Plan[list[Record]]) -> list[Record]:
        """The rows of a plan. Raises _AwayError and _BusyError."""
        try:
            if self.patience is None:
                return await run_plan_on(self.connection, plan)
            return await answers_within(run_plan_on(self.connection, plan), self.patience)
        except asyncpg.LockNotAvailableError as error:
            raise _BusyError from error
        except DATABASE_ERRORS as error:
            if self.patience is None:
                raise
            self.connection.terminate()  # it may be waiting for that answer still
            raise _away(self.engine, error) from error

    async def close(self) -> None:
        """Lets go. What was done was to wait and to look, so it does not matter how it ends."""
        with suppress(*DATABASE_ERRORS):
            await answers_within(self.stack.aclose(), _PATIENCE)


@asynccontextmanager
async def _open_all(engines: Sequence[Engine], patience: float) -> AsyncGenerator[dict[str, _Session]]:
    """A transaction on each store, by its key; all end together. Raises _AwayError."""
    answers = await asyncio.gather(
        *(answers_within(_open(one, 2 * patience), patience) for one in engines), return_exceptions=True
    )
    sessions = {answer.engine.key: answer for answer in answers if isinstance(answer, _Session)}
    try:
        for one, answer in zip(engines, answers, strict=True):
            if isinstance(answer, DATABASE_ERRORS):
                raise _away(one, answer) from answer
            if isinstance(answer, BaseException):
                raise answer
        yield dict(sessions)
    finally:
        await asyncio.gather(*(session.close() for session in sessions.values()))


async def _open(one: Engine, patience: float) -> _Session:
    stack = AsyncExitStack()
    try:
        connection = await stack.enter_async_context(one.store.connect())
        await stack.enter_async_context(connection.transaction())
    except BaseException:
        await stack.aclose()
        raise
    return _Session(one, connection, stack, patience)


def _away(one: Engine, error: BaseException) -> _AwayError:
    return _AwayError(f"{one.name}: {type(error).__name__}: {error}")
