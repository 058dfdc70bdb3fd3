"""Copies of the control plane: what home says of environments, queues, tasks and versions is in every store, which joins with it.

State is copied, not commands: a copy is home's rows in one snapshot, written in one transaction that takes the store's lock before
the snapshot and holds it to its end. So copies come in home's order whoever makes them, one that dies leaves nothing, and a
store that was away gets in one step all that it missed. Nothing of what is copied is ever deleted at home; a store may have a little
more, which its workers said before home's did.

A change of the control plane gives home a new mark (migration 0011: triggers, so that none is forgotten). The process that made
it copies at once; all others compare marks now and then. With one store nothing is done.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from headrace.engine.recounts import count_executing
from headrace.ids import HOME_STORE
from headrace.logs import get_logger
from headrace.store.statements import Plan, load_sql, query
from headrace.store.store import DATABASE_ERRORS, run_plan_on
from headrace.timeouts import answers_within

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

VERSIONS_COPIED: Final = 200
"""So many of the newest versions of an environment, so that a copy does not grow with the number of deployments."""

_LOCK_SECONDS: Final = 30.0
_BELIEVED_SECONDS: Final = 300.0
"""How long it is believed that a store has what it was seen to have: it may have been restored from a backup."""

_log: Final = get_logger("headrace.stores")


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy changed in a store: queues by environment, None where it is more than some queues; and home's mark."""

    mark: UUID
    changed: Mapping[int, Sequence[str] | None]


async def copy_control(home: Engine, other: Engine) -> bool:
    """Brings a store's copy of the control plane to what home's is now. Whether anything had to be written.

    Raises DATABASE_ERRORS where either is away.
    """
    async with other.store.connect() as connection:
        copied = await copy_on(connection, lambda mark: _read_home(home, mark))
    for environment_id in copied.changed:
        other.notices.runs_ready(environment_id)
    other.control.note_copied(copied.mark)
    return bool(copied.changed)


async def copy_on(connection: Any, read_home: Callable[[UUID | None], Awaitable[Any]]) -> Copied:
    """The same on an open connection to the store; ``read_home`` is given the mark that it has, and gives home's row."""
    async with connection.transaction():
        [own] = await run_plan_on(connection, _begin_copy())
        said = await read_home(own["copied_mark"])
        changed: dict[int, Sequence[str] | None] = {}
        if said["state"] is not None:
            changed = await run_plan_on(connection, _write_copy(said))
    if changed or own["recounting"]:  # who wrote the copy before did not come so far
        async with connection.transaction():
            await run_plan_on(connection, _count_again(None if own["recounting"] else changed, said["mark"]))
    return Copied(said["mark"], changed)


async def spread_control(engine: Engine) -> None:
    """Copies the control plane to each store that has not what home has; to be called after a change of it.

    Never raises: a store that is away gets it when it is back (``copying``). With one store nothing is done.
    """
    home = engine.home
    if not home.stores.others():
        return
    try:
        [row] = await answers_within(home.store.fetch("read_control_mark"), home.settings.store_patience)
    except DATABASE_ERRORS as error:
        _log.warning("what other stores lack of the control plane can't be seen", error=_describe(error))
        return
    behind = [one for one in home.stores.others() if not one.control.has_copied(row["mark"], _BELIEVED_SECONDS)]
    await asyncio.gather(*(_try_copy(home, one) for one in behind))


@asynccontextmanager
async def copying(engine: Engine, every: float) -> AsyncGenerator[None]:
    """Within it, all stores get what home has, looked at every so many seconds: for each process that sweeps.

    Done beside the home store's sweeps, and not in them, so that a store which does not answer holds up no deadline.
    """
    if engine.key != HOME_STORE:
        yield
        return
    following = asyncio.create_task(_follow_control(engine, every))
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})


async def _follow_control(engine: Engine, every: float) -> None:
    while True:
        try:
            await spread_control(engine)
        except Exception:  # noqa: BLE001 - logged; a store that never hears of a limit again must not be the price of it
            _log.exception("the control plane was not copied")
        await asyncio.sleep(every)


async def read_home_on(connection: Any, mark: UUID | None) -> Any:
    """Home's row on an open connection to home, for ``copy_on``."""
    [row] = await connection.fetch(load_sql("read_control"), mark, VERSIONS_COPIED)
    return row


async def _read_home(home: Engine, mark: UUID | None) -> Any:
    [row] = await home.store.fetch("read_control", mark, VERSIONS_COPIED)
    return row


async def _try_copy(home: Engine, other: Engine) -> None:
    try:
        await answers_within(copy_control(home, other), home.settings.store_patience)
    except DATABASE_ERRORS as error:
        if not other.control.behind:  # said once
            _log.warning(
                "a store lacks a change of the control plane: it gets it when it is back",
                store=other.name,
                error=_describe(error),
            )
        other.control.behind = True
    else:
        if other.control.behind:
            _log.info("a store that was away has the control plane again", store=other.name)
        other.control.behind = False


def _begin_copy() -> Plan[list[Any]]:
    yield from query("lock_copy", _LOCK_SECONDS)
    return (
        yield from query("read_copied")
    )  # a statement of its own: what was written while the lock was waited for is seen


def _write_copy(said: Any) -> Plan[dict[int, Sequence[str] | None]]:
    """Plan: home's rows, in the order in which a worker that registers locks them. Returns what has changed."""
    home: dict[str, Any] = json.loads(said["state"])
    environments: list[Any] = yield from query("copy_environments", _spell(home["environments"]))
    tasks: list[Any] = yield from query("copy_tasks", _spell(home["tasks"]))
    moved: defaultdict[int, list[str]] = defaultdict(list)
    for row in tasks:
        if row["elsewhere"]:
            moved[row["environment_id"]].append(row["id"])
    for environment_id, ids in moved.items():
        yield from query("rename_lanes", environment_id, ids)
    queues: list[Any] = yield from query("copy_queues", _spell(home["queues"]))
    limited: defaultdict[int, list[str]] = defaultdict(list)
    for row in queues:
        limited[row["environment_id"]].append(row["name"])
    changed: dict[int, Sequence[str] | None] = {**limited, **{row["id"]: None for row in environments}}
    for environment_id, names in changed.items():
        yield from count_executing(environment_id, names)
    yield from query("lock_versions")
    versions: list[Any] = yield from query("copy_versions", _spell(home["versions"]))
    for row in versions:
        yield from query("open_version_lanes", row["environment_id"], row["version"])
    yield from query("write_copied", said["epoch"], said["mark"], bool(changed))
    told = {row["environment_id"] for row in (*tasks, *versions)}
    return {**dict.fromkeys(told, ()), **changed}


def _count_again(changed: Mapping[int, Sequence[str] | None] | None, mark: UUID) -> Plan[None]:
    """Plan: after the commit of new limits and pauses, claims that had looked before them are over, and are counted. None: in
    every environment.
    """
    if changed is None:
        rows: list[Any] = yield from query("list_environments")
        changed = {row["id"]: None for row in rows}
    for environment_id, names in sorted(changed.items()):
        if names is None or names:
            yield from count_executing(environment_id, names)
    yield from query("end_recounting", mark)


def _spell(rows: Sequence[Any] | None) -> str:
    return json.dumps(rows or [])


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
