"""Sessions of ``headrace dev``: whose a run is, what is canceled when one is away for too long, and what is not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from headrace.engine import dev_sessions, runs, sweeps, workers
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from tests.engine.helpers import claim, finish, register
from tests.engine.test_bulk_actions import trigger
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

FIRST, SECOND = UUID(int=1), UUID(int=2)


@asynccontextmanager
async def session(engine: Engine, session_id: UUID) -> AsyncGenerator[Engine]:
    """The engine, of the same store, of a process of a session, which is there."""
    opened = await Engine.open(replace(engine.home.settings, dev_session=session_id.hex))
    own = opened.stores.named(engine.key)
    try:
        await dev_sessions.keep_session(own)
        yield own
    finally:
        await opened.close()


async def go_away(engine: Engine, session_id: UUID) -> None:
    """Its time is over, by the clock of the database."""
    sql = "UPDATE headrace.dev_sessions SET kept_until = now() - interval '1 second' WHERE id = $1 RETURNING id"
    assert await fetch_sql(engine, sql, session_id)


async def status(engine: Engine, run_id: UUID) -> RunStatus:
    run = await runs.find_run(engine, 1, run_id)
    assert run is not None
    return run.status


async def left(engine: Engine) -> tuple[int, int]:
    """Rows that are kept of sessions, and of their claims."""
    [row] = await fetch_sql(
        engine,
        "SELECT (SELECT count(*) FROM headrace.dev_sessions) AS s, (SELECT count(*) FROM headrace.dev_claims) AS c",
    )
    return row["s"], row["c"]


async def test_what_it_has_begun_is_canceled_and_what_nobody_has_begun_is_not(engine: Engine) -> None:
    async with session(engine, FIRST) as dev:
        lease = await register(dev)
        begun = await trigger(engine)
        assert [run.id for run in await claim(dev, lease)] == [begun]
        waits = await trigger(engine)
    await sweeps.sweep_once(engine)
    assert await status(engine, begun) is RunStatus.EXECUTING  # its time is not over
    await go_away(engine, FIRST)
    [look] = await engine.store.fetch("find_due_work")
    assert look["due"]
    await sweeps.sweep_once(engine)
    run = await runs.find_run(engine, 1, begun)
    assert run is not None
    assert (run.status, run.error) == (RunStatus.CANCELED, dev_sessions.AWAY)
    assert await status(engine, waits) is RunStatus.QUEUED
    assert await left(engine) == (0, 0)
    await assert_invariants(engine)


async def test_what_was_given_back_or_rescued_is_its_own_still(engine: Engine) -> None:
    async with session(engine, FIRST) as dev:
        lease = await register(dev)
        given_back = await trigger(engine)
        await claim(dev, lease)
        await workers.retire_worker(dev, lease)
        lost = await register(dev)
        rescued = await trigger(engine)
        assert len(await claim(dev, lost)) == 2
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() - interval '1 s' WHERE id = $1", lost.worker_id
    )
    await sweeps.sweep_once(engine)
    assert {await status(engine, one) for one in (given_back, rescued)} == {RunStatus.QUEUED}
    await go_away(engine, FIRST)
    await sweeps.sweep_once(engine)
    assert {await status(engine, one) for one in (given_back, rescued)} == {RunStatus.CANCELED}


async def test_what_another_worker_has_claimed_since_is_left(engine: Engine) -> None:
    async with session(engine, FIRST) as dev, session(engine, SECOND) as other:
        plain_run, other_run = await trigger(engine), await trigger(engine)
        lease = await register(dev)
        assert len(await claim(dev, lease)) == 2
        await workers.retire_worker(dev, lease)
        plain, others = await register(engine), await register(other)
        [claimed] = await claim(engine, plain, 1)
        [second] = await claim(other, others, 1)
        assert {claimed.id, second.id} == {plain_run, other_run}
    await go_away(engine, FIRST)
    await sweeps.sweep_once(engine)
    assert [await status(engine, one) for one in (plain_run, other_run)] == [RunStatus.EXECUTING] * 2
    await go_away(engine, SECOND)
    await sweeps.sweep_once(engine)
    assert await status(engine, claimed.id) is RunStatus.EXECUTING  # a worker that is no dev's is never touched
    assert await status(engine, second.id) is RunStatus.CANCELED


async def test_who_comes_back_in_time_keeps_them(engine: Engine) -> None:
    async with session(engine, FIRST) as dev:
        begun = await trigger(engine)
        lease = await register(dev)
        await claim(dev, lease)
        await workers.retire_worker(dev, lease)
    async with session(engine, FIRST) as again:
        await sweeps.sweep_once(again)
        assert await status(engine, begun) is RunStatus.QUEUED
        [claimed] = await claim(again, await register(again))
        assert claimed.id == begun


async def test_who_comes_back_too_late_begins_anew(engine: Engine) -> None:
    """Nobody was there to sweep: the next one does what was due before it goes on."""
    async with session(engine, FIRST) as dev:
        begun = await trigger(engine)
        await claim(dev, await register(dev))
    await go_away(engine, FIRST)
    async with session(engine, FIRST) as again:
        assert await status(engine, begun) is RunStatus.CANCELED
        fresh = await trigger(engine)
        lease = await register(again)
        claimed = await claim(again, lease)
        await sweeps.sweep_once(again)
        assert await status(engine, fresh) is RunStatus.EXECUTING
        assert await left(engine) == (1, 1)
        await finish(again, lease, claimed)
        await dev_sessions.keep_session(again)
        assert await left(engine) == (1, 0)  # what has ended is forgotten


async def test_many_runs_are_canceled_bit_by_bit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev_sessions, "_CHUNK", 3)
    async with session(engine, FIRST) as dev:
        begun = [await trigger(engine) for _ in range(8)]
        await claim(dev, await register(dev))
    await go_away(engine, FIRST)
    report = await sweeps.sweep_once(engine)
    assert report.runs_canceled == 8
    assert {await status(engine, one) for one in begun} == {RunStatus.CANCELED}
    assert await left(engine) == (0, 0)


async def test_a_worker_that_is_no_devs_notes_nothing(engine: Engine) -> None:
    await trigger(engine)
    await claim(engine, await register(engine))
    assert await left(engine) == (0, 0)


async def test_a_claim_with_a_concurrency_key_is_noted_too(engine: Engine) -> None:
    async with session(engine, FIRST) as dev:
        run_id = await trigger(engine, concurrency_key="k")
        assert [run.id for run in await claim(dev, await register(dev))] == [run_id]
        assert await left(engine) == (1, 1)


def test_a_session_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="HEADRACE_DEV_SESSION"):
        Settings(dev_session="mine")
    Settings(dev_session=uuid4().hex)
