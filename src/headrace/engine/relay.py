"""The relay: brings what is in a store's outbox to the stores that it is for.

What is in the outbox was put there in the transaction in which it happened. It is delivered at least once, by whichever
process comes first, and has its effect once: the end of a run or token by its mirror (see ``mirrors``), a run that is to be
made by its id. No transaction is open here while another store is waited for. Each store has its own time: one that is away
holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from headrace.engine.engine import Engine
from headrace.engine.items import Origin
from headrace.engine.lanes import LaneFinder
from headrace.engine.mirrors import MirrorPlace, audit_mirrors, forget_mirrors, resolve_mirrors, tell_ended
from headrace.engine.notices import OUTBOX_CHANNEL
from headrace.engine.outcomes import Packet
from headrace.engine.registry import list_stores
from headrace.engine.runs import insert_named_run
from headrace.ids import format_run_id
from headrace.logs import get_logger
from headrace.protocol.options import RunOptions
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import answers_within

_CHUNK: Final = 100
_LONGEST_DELAY: Final = 15.0
_AWAY: Final = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError)

_log = get_logger("headrace.relay")


class TriggerMessage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A run that is to be made in another store. Its id stands beside it."""

    task: str
    payload: str
    options: RunOptions
    origin: Origin


def order_run(store: str, environment_id: int, run_id: UUID, message: TriggerMessage) -> Plan[None]:
    """Plan: a run is to be made in another store, with an id of that store's, when this transaction has committed."""
    spelt = msgspec.json.encode(message).decode("utf-8")
    yield from query("insert_mail", store, environment_id, run_id, spelt)


async def relay_outbox(engine: Engine) -> int:
    """Delivers what is due in the outbox of the store of ``engine``, to all stores at once; how much of it arrived."""
    if not engine.stores.others():
        return 0
    stores: list[Any] = await engine.store.fetch("find_mail")
    return sum(await asyncio.gather(*(deliver_mail(engine, row["store"]) for row in stores if row["due_in"] <= 0)))


@asynccontextmanager
async def relaying(engine: Engine, interval: float, audit_interval: float) -> AsyncGenerator[None]:
    """Delivers the outbox of the store of ``engine`` meanwhile, and audits what is waited for in other stores."""
    tasks = {
        asyncio.create_task(_relay(engine, interval)),
        asyncio.create_task(_audit(engine, audit_interval)),
    }
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def deliver_mail(engine: Engine, store: str) -> int:
    """Delivers what is due for one store; how much of it arrived. What did not is tried again later."""
    target = _find_store(engine, store)
    if target is None:
        if any(one.key == store and one.state == "removed" for one in await list_stores(engine)):
            await engine.store.fetch("drop_mail", store)
        return 0
    lease = 2 * engine.settings.store_patience
    delivered = 0
    while True:
        mail = await engine.store.fetch("take_mail", store, _CHUNK, lease)
        if not mail:
            return delivered
        done, is_away = await _deliver(engine, target, mail)
        if done:
            await engine.store.fetch("delete_mail", done)
        delivered += len(done)
        if rest := [row["id"] for row in mail if row["id"] not in done]:
            await engine.store.fetch("put_off_mail", rest, _LONGEST_DELAY)
        if is_away:
            return delivered


async def _relay(engine: Engine, interval: float) -> None:
    busy: dict[str, asyncio.Task[int]] = {}
    try:
        while True:
            heard = engine.notices.count(OUTBOX_CHANNEL, 0)
            pause = interval
            for row in await _find_mail(engine):
                store: str = row["store"]
                if row["due_in"] > 0:
                    pause = min(pause, row["due_in"])
                elif store not in busy or busy[store].done():
                    busy[store] = asyncio.create_task(_go_on(engine, deliver_mail(engine, store)))
            await engine.notices.wait(OUTBOX_CHANNEL, 0, pause, since=heard)
    finally:
        for task in busy.values():
            task.cancel()
        if busy:
            await asyncio.wait(busy.values())


async def _audit(engine: Engine, interval: float) -> None:
    place = MirrorPlace()
    while True:
        await asyncio.sleep(interval)
        if engine.stores.others():
            await _go_on(engine, audit_mirrors(engine, place))
            await _go_on(engine, tell_ended(engine, place))
            await _go_on(engine, forget_mirrors(engine, place))


async def _find_mail(engine: Engine) -> list[Any]:
    if not engine.stores.others():
        return []
    try:
        return await engine.store.fetch("find_mail")
    except DATABASE_ERRORS as error:
        _log.warning("outbox not looked at: the database does not answer", store=engine.name, error=_spell(error))
        return []


async def _go_on(engine: Engine, work: Awaitable[int]) -> int:
    """What ``work`` gives, or 0 where it failed: what was to be done is done at the next look."""
    try:
        return await work
    except DATABASE_ERRORS as error:
        _log.warning("outbox put off: the database does not answer", store=engine.name, error=_spell(error))
    except Exception:  # noqa: BLE001 - logged: who waits in another store waits for this, so it has to go on
        _log.exception("outbox_failed", store=engine.name)
    return 0


async def _deliver(engine: Engine, target: Engine, mail: Sequence[Record]) -> tuple[set[int], bool]:
    """Which of a chunk arrived, and whether the store that it is for is away."""
    done: set[int] = set()
    for environment_id, kind, rows in _group(mail):
        try:
            telling = (
                _deliver_ends(engine, target, environment_id, rows)
                if kind == "end"
                else _make_runs(target, environment_id, rows)
            )
            await answers_within(telling, engine.settings.store_patience)
        except _AWAY as error:
            _log.warning("a store is away: what it is to be told waits", store=target.name, error=_spell(error))
            return done, True
        except (*DATABASE_ERRORS, msgspec.MsgspecError, ValueError) as error:
            _log.warning("a store does not take what it is told, for now", store=target.name, error=_spell(error))
        else:
            done.update(row["id"] for row in rows)
    return done, False


async def _deliver_ends(engine: Engine, target: Engine, environment_id: int, rows: Sequence[Record]) -> None:
    ids = sorted({row["target_id"] for row in rows})
    ended = [row for row in await engine.store.fetch("read_targets", environment_id, ids, target.key) if row["ended"]]
    await resolve_mirrors(target, environment_id, ended)


async def _make_runs(target: Engine, environment_id: int, rows: Sequence[Record]) -> None:
    for row in rows:
        message = msgspec.json.decode(row["message"], type=TriggerMessage)
        lanes = LaneFinder(environment_id, target.lanes)
        plan = insert_named_run(
            row["target_id"], message.task, Packet(message.payload.encode()), message.options, lanes, message.origin
        )
        if not await target.store.run_plan(plan):
            raise ValueError(
                f"{format_run_id(row['target_id'])} can't be made: the store has no environment {environment_id}"
            )
        lanes.keep_lanes()
    target.notices.runs_ready(environment_id)


def _group(mail: Sequence[Record]) -> list[tuple[int, str, list[Record]]]:
    """A run at a time and ends of an environment at once: what is refused keeps back what it is together with."""
    ends: defaultdict[int, list[Record]] = defaultdict(list)
    groups: list[tuple[int, str, list[Record]]] = []
    for row in mail:
        if row["kind"] == "end" and row["tries"] <= 1:
            ends[row["environment_id"]].append(row)
        else:
            groups.append((row["environment_id"], row["kind"], [row]))
    return [(environment_id, "end", rows) for environment_id, rows in ends.items()] + groups


def _find_store(engine: Engine, key: str) -> Engine | None:
    return next((one for one in engine.stores.all() if one.key == key), None)


def _spell(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
