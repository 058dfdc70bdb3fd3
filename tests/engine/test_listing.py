"""Lists of runs: everything that is asked for and nothing else, each run once, while others come and go."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from headrace.engine import batches, listings, runs
from headrace.engine.cancels import cancel_run
from headrace.engine.engine import Engine
from headrace.engine.items import Origin
from headrace.engine.listings import list_runs
from headrace.engine.outcomes import Packet, RunCreated, RunFilter, RunView
from headrace.ids import first_id_at, item_run_id, mint_bulk_action_id, mint_run_id, minted_at
from headrace.protocol.options import QueueOption, RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.helpers import make_items, open_batch, register
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

UNSUCCESSFUL = ("FAILED", "CANCELED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT")


async def trigger(engine: Engine, task: str = "t", origin: Origin | None = None, **options: Any) -> UUID:
    made = await runs.trigger_run(engine, 1, task, Packet(b"1"), RunOptions(**options), origin=origin)
    assert isinstance(made, RunCreated)
    return made.run_id


async def leaf(
    engine: Engine, wanted: RunFilter, limit: int, look_at: int, between: Callable[[], Any] | None = None
) -> list[UUID]:
    """All pages from the newest on, and then back again; what came, in order."""
    forward: list[RunView] = []
    cursor: UUID | None = None
    while True:
        page = await list_runs(engine, 1, wanted, after=cursor, limit=limit, look_at=look_at)
        assert len(page.runs) <= limit
        assert page.older is None or cursor is None or page.older < cursor  # it comes to an end
        forward += page.runs
        if between:
            await between()
        if (cursor := page.older) is None:
            return [run.id for run in forward]


async def leaf_back(engine: Engine, wanted: RunFilter, start: UUID, limit: int, look_at: int) -> list[UUID]:
    """All pages of what is newer than ``start``, in the order in which they came."""
    back: list[UUID] = []
    cursor: UUID | None = start
    while cursor is not None:
        page = await list_runs(engine, 1, wanted, before=cursor, limit=limit, look_at=look_at)
        assert page.newer is None or page.newer > cursor
        assert [run.id for run in page.runs] == sorted((run.id for run in page.runs), reverse=True)
        back += [run.id for run in reversed(page.runs)]
        cursor = page.newer
    return back


@pytest.mark.parametrize("seed", range(4))
async def test_each_run_comes_once_while_others_are_added(engine: Engine, seed: int) -> None:
    """Others come as single runs, as items of a batch that is older than all of them, and from transactions that were
    open for long: their ids lie anywhere between those that are there.
    """
    chance = random.Random(seed)
    old_batch = await open_batch(engine)
    there: set[UUID] = set()
    for number in range(40):
        there.add(await trigger(engine, tags=["x"] if number % 3 else []))
        if chance.random() < 0.3:
            batch = await open_batch(engine)
            await batches.store_chunk(engine, 1, batch, make_items(0, 3))
            there |= {item_run_id(batch.id, index) for index in range(3)}
    late = await asyncpg.connect(engine.settings.database_url)
    transaction = late.transaction()
    await transaction.start()
    [lane] = await fetch_sql(engine, "SELECT min(lane_id) AS id FROM headrace.runs")
    ids = sorted(there)
    await late.execute(
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at)"
        " SELECT 1, $1, u.id, 'QUEUED', now(), now(), now() FROM unnest($2::uuid[]) AS u (id)",
        lane["id"],
        [UUID(int=one.int + (1 << 40)) for one in chance.sample(ids, 10)],
    )
    pages = 0

    async def add() -> None:
        nonlocal pages
        pages += 1
        await trigger(engine)
        await batches.store_chunk(engine, 1, old_batch, make_items(pages * 2, 2))
        if pages == 3:
            await transaction.commit()

    limit, look_at = chance.choice([1, 3, 7]), chance.choice([5, 50, 50_000])
    try:
        for wanted, meant in ((RunFilter(), there), (RunFilter(tags=["x"]), None)):
            seen = await leaf(engine, wanted, limit, look_at, add)
            assert len(seen) == len(set(seen)), "each once"
            assert seen == sorted(seen, reverse=True), "newest first"
            if meant is not None:
                assert meant <= set(seen), "all that were there"
        assert pages > 3
        before = await leaf(engine, RunFilter(), 100, 50_000)
        assert await leaf_back(engine, RunFilter(), UUID(int=0), limit, look_at) == before[::-1]
    finally:
        await late.close()


STATUSES: list[str] = [*UNSUCCESSFUL, "COMPLETED", "COMPLETED", "QUEUED", "EXECUTING", "WAITING"]


async def overwrite(engine: Engine, sql: str, *args: Any) -> None:
    """Puts a row into a state, past the table of transitions."""
    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(sql, *args)


async def seed_runs(engine: Engine, count: int) -> dict[UUID, dict[str, Any]]:
    """Runs of every kind, and what they are."""
    chance = random.Random(7)
    await register(engine, "a", "b")
    schedules, action = [uuid4(), uuid4()], mint_bulk_action_id()
    [worker] = await fetch_sql(engine, "SELECT max(id) AS id FROM headrace.workers")
    versions = await fetch_sql(
        engine,
        "INSERT INTO headrace.versions (environment_id, version, first_seen_at, last_seen_at)"
        " VALUES (1, 'v1', now(), now()), (1, 'v2', now(), now()) RETURNING id, version",
    )
    await fetch_sql(
        engine,
        "INSERT INTO headrace.bulk_actions (environment_id, id, kind, created_at) VALUES (1, $1, 'CANCEL', now())",
        action,
    )
    known: dict[UUID, dict[str, Any]] = {}
    for number in range(count):
        status = chance.choice(STATUSES)
        made: dict[str, Any] = {
            "task": chance.choice(["a", "b", "nobody"]),
            "queue": chance.choice([None, "q"]),
            "tags": chance.choice([[], ["x"], ["x", "y"], ["z"]]),
            "test": chance.choice([True, False]),
            "machine": chance.choice([None, "micro"]),
            "region": chance.choice([None, "eu"]),
            "idempotency_key": f"key {number}" if chance.random() < 0.2 else None,
            "concurrency_key": chance.choice([None, "c,1", "c2"]),
            "order_key": chance.choice([None, "o"]),
            "schedule": chance.choice([None, *schedules]),
            "delayed": status == "QUEUED" and chance.random() < 0.5,
        }
        if made["concurrency_key"]:
            made["order_key"] = None
        run_id = await trigger(
            engine,
            made["task"],
            Origin(schedule_id=made["schedule"]) if made["schedule"] else None,
            queue=QueueOption(made["queue"]) if made["queue"] else None,
            delay="1h" if made["delayed"] else None,
            **{
                name: made[name] or None
                for name in ("tags", "test", "machine", "region", "idempotency_key", "concurrency_key", "order_key")
            },
        )
        version = chance.choice([None, *versions])
        error = {"code": f"CODE_{number % 3}", "name": "ValueError", "message": "It broke"}
        await overwrite(
            engine,
            "UPDATE headrace.runs SET status = $2::text::headrace.run_status, version_id = $3, error = $4::text::jsonb,"
            " finished_at = CASE WHEN $2::text = ANY($5::text[]) THEN now() END,"
            " worker_id = CASE WHEN $2::text = 'EXECUTING' THEN $6::bigint END WHERE id = $1",
            run_id,
            status,
            version and version["id"],
            json.dumps(error) if status in UNSUCCESSFUL else None,
            [*UNSUCCESSFUL, "COMPLETED"],
            worker["id"],
        )
        in_action = chance.random() < 0.2
        if in_action:
            await fetch_sql(
                engine,
                "INSERT INTO headrace.bulk_members (environment_id, action_id, run_id, succeeded, result_id) VALUES (1, $1, $2, true, $2)",
                action,
                run_id,
            )
        reads = status
        if status == "QUEUED":
            reads = "PENDING_VERSION" if made["task"] == "nobody" else "DELAYED" if made["delayed"] else "QUEUED"
        known[run_id] = {
            **made,
            "status": reads,
            "version": version and version["version"],
            "error": f"CODE_{number % 3}" if status in UNSUCCESSFUL else None,
            "action": action if in_action else None,
        }
    return known


@pytest.mark.one_store("it writes rows past the engine, into one database: lists of several are in test_store_lists.py")
async def test_each_filter_finds_what_it_says_whatever_a_page_looks_at(engine: Engine) -> None:
    known = await seed_runs(engine, 120)
    with_key = next(one["idempotency_key"] for one in known.values() if one["idempotency_key"])
    schedule = next(one["schedule"] for one in known.values() if one["schedule"])
    action = next(one["action"] for one in known.values() if one["action"])
    cases: list[tuple[RunFilter, Callable[[dict[str, Any]], bool]]] = [
        (RunFilter(), lambda _: True),
        *(
            (RunFilter(statuses=frozenset({RunStatus(one)})), lambda run, one=one: run["status"] == one)
            for one in ("FAILED", "COMPLETED", "QUEUED", "DELAYED", "PENDING_VERSION", "EXECUTING", "WAITING")
        ),
        (
            RunFilter(statuses=frozenset({RunStatus.WAITING, RunStatus.DELAYED})),
            lambda run: run["status"] in ("WAITING", "DELAYED"),
        ),
        (
            RunFilter(statuses=frozenset({RunStatus.FAILED, RunStatus.QUEUED})),
            lambda run: run["status"] in ("FAILED", "QUEUED"),
        ),
        (RunFilter(statuses=frozenset(map(RunStatus, UNSUCCESSFUL))), lambda run: run["status"] in UNSUCCESSFUL),
        (RunFilter(tasks=["a"]), lambda run: run["task"] == "a"),
        (RunFilter(queues=["q"], tasks=["a", "b"]), lambda run: run["queue"] == "q" and run["task"] != "nobody"),
        (RunFilter(tags=["y", "z"]), lambda run: bool({"y", "z"} & set(run["tags"]))),
        (RunFilter(is_test=True), lambda run: run["test"]),
        (RunFilter(is_test=False), lambda run: not run["test"]),
        (RunFilter(machines=["micro"], regions=["eu"]), lambda run: bool(run["machine"] and run["region"])),
        (RunFilter(idempotency_key=with_key), lambda run: run["idempotency_key"] == with_key),
        (RunFilter(idempotency_key="nobody's"), lambda _: False),
        (RunFilter(concurrency_keys=["c,1"]), lambda run: run["concurrency_key"] == "c,1"),
        (RunFilter(order_keys=["o", "p"]), lambda run: run["order_key"] == "o"),
        (RunFilter(schedule_id=schedule), lambda run: run["schedule"] == schedule),
        (RunFilter(schedule_id=schedule, is_test=True), lambda run: run["schedule"] == schedule and run["test"]),
        (RunFilter(bulk_action_id=action), lambda run: run["action"] == action),
        (
            RunFilter(bulk_action_id=action, schedule_id=schedule),
            lambda run: run["action"] == action and run["schedule"] == schedule,
        ),
        (RunFilter(versions=["v1"]), lambda run: run["version"] == "v1"),
        (RunFilter(error="code_1"), lambda run: run["error"] == "CODE_1"),
        (RunFilter(error="it BROKE", tasks=["a"]), lambda run: run["error"] is not None and run["task"] == "a"),
    ]
    for wanted, is_meant in cases:
        meant = sorted((run_id for run_id, run in known.items() if is_meant(run)), reverse=True)
        for limit, look_at in ((100, 50_000), (2, 5), (5, 1)):
            assert await leaf(engine, wanted, limit, look_at) == meant, (wanted, limit, look_at)
        assert await leaf_back(engine, wanted, UUID(int=0), 3, 7) == meant[::-1], wanted


@pytest.mark.at_home("the ids that it makes up are home's")
async def test_lists_by_time_look_at_that_time_only(engine: Engine) -> None:
    """Items of a batch are as young as they are, however old its id is."""
    now = datetime.now(UTC)
    old_batch = await open_batch(engine)
    long_ago = UUID(int=first_id_at(now - timedelta(days=9)).int | 5 << 40)
    await fetch_sql(engine, "UPDATE headrace.batches SET id = $2 WHERE id = $1", old_batch.id, long_ago)
    [lane] = await fetch_sql(
        engine, "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 't', 'q') RETURNING id"
    )

    async def insert(
        run_id: UUID, created_at: datetime, batch_id: UUID | None = None, index: int | None = None
    ) -> UUID:
        await fetch_sql(
            engine,
            "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, batch_id,"
            " batch_index) VALUES (1, $1, $2, 'QUEUED', $3, $3, $3, $4, $5)",
            lane["id"],
            run_id,
            created_at,
            batch_id,
            index,
        )
        return run_id

    ages = [timedelta(hours=hours) for hours in (0.5, 3, 30, 300)]
    single = {age: await insert(UUID(int=first_id_at(now - age).int | 77 << 8), now - age) for age in ages}
    item = await insert(item_run_id(long_ago, 0), now - timedelta(hours=1), long_ago, 0)

    async def since(age: timedelta, until: timedelta = timedelta()) -> set[UUID]:
        wanted = RunFilter(created_from=now - age, created_to=now - until)
        return set(await leaf(engine, wanted, 100, 50_000))

    assert await since(timedelta(hours=2)) == {single[ages[0]], item}
    assert await since(timedelta(hours=40), timedelta(hours=2)) == {single[ages[1]], single[ages[2]]}
    assert await since(timedelta(days=99), timedelta(hours=20)) == {single[ages[2]], single[ages[3]]}
    await fetch_sql(
        engine, "UPDATE headrace.batches SET sealed_at = $1, status = 'ABORTED'", now - timedelta(minutes=50)
    )
    assert await since(timedelta(hours=2)) == {single[ages[0]], item}
    assert await since(timedelta(minutes=40)) == {single[ages[0]]}
    interval = listings._find_interval(1, RunFilter(created_from=now - timedelta(minutes=40)), UUID(int=0), UUID(int=1))
    low, _ = await engine.store.run_plan(interval)
    assert minted_at(low) > now - timedelta(hours=1), "what is older is not looked at"


async def test_a_page_that_found_nothing_says_where_to_go_on(engine: Engine) -> None:
    wanted = await trigger(engine, "rare")
    others = [await trigger(engine) for _ in range(10)]
    page = await list_runs(engine, 1, RunFilter(tasks=["rare"]), limit=3, look_at=4)
    assert (page.runs, page.older, page.newer) == ([], others[6], None)
    page = await list_runs(engine, 1, RunFilter(tasks=["rare"]), limit=3, look_at=4, after=page.older)
    assert page.runs == []
    page = await list_runs(engine, 1, RunFilter(tasks=["rare"]), limit=3, look_at=4, after=page.older)
    assert ([run.id for run in page.runs], page.older) == ([wanted], None)


async def test_runs_of_one_moment_whose_status_changes_between_pages_come_once_or_not_at_all(engine: Engine) -> None:
    """Items of one batch, so their times are equal. Some are canceled while a list of what is queued is paged through."""
    await register(engine)
    batch = await open_batch(engine, 30)
    await batches.store_chunk(engine, 1, batch, make_items(0, 30))
    made = [item_run_id(batch.id, index) for index in range(30)]
    chance = random.Random(3)
    left = set(made)

    async def cancel_some() -> None:
        for run_id in chance.sample(sorted(left), min(3, len(left))):
            left.remove(run_id)
            await cancel_run(engine, 1, run_id)

    seen = await leaf(engine, RunFilter(statuses=frozenset({RunStatus.QUEUED})), 4, 1000, cancel_some)
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=True)
    assert left <= set(seen)  # what was queued all the time is there
    canceled = await leaf(engine, RunFilter(statuses=frozenset({RunStatus.CANCELED})), 4, 1000)
    assert canceled == sorted(set(made) - left, reverse=True)


async def test_a_run_that_is_not_there_is_a_cursor_too(engine: Engine) -> None:
    older = await trigger(engine)
    gone = mint_run_id()
    page = await list_runs(engine, 1, RunFilter(), after=gone)
    assert [run.id for run in page.runs] == [older]
    page = await list_runs(engine, 1, RunFilter(), before=gone)
    assert (page.runs, page.older, page.newer) == ([], gone, None)


async def test_other_environments_have_lists_of_their_own(engine: Engine) -> None:
    await trigger(engine, tags=["x"])
    for wanted in (RunFilter(), RunFilter(tags=["x"]), RunFilter(statuses=frozenset({RunStatus.QUEUED}))):
        page = await list_runs(engine, 2, wanted)
        assert (page.runs, page.older) == ([], None)
