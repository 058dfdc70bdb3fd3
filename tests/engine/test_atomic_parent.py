"""The parent of a submission is its batch, the children are its runs: what must never happen between them.

After a study of a memory server whose batches were rows of the same table as their children (research/hindsight.md).
First its checks of acceptance (section 14), those that the engine can be asked by now, and where each is held:

 1  A killed worker's task goes on under another: ``worker/test_worker_deaths.py::test_runs_of_a_killed_worker_are_executed_by_another``
 2  What a stale worker says is refused: ``test_what_a_stale_worker_says_is_refused``
 3  A crash at any statement of a submission: ``chaos/test_crash_points.py::test_a_one_shot_batch_is_whole_or_not_there``, which
    ``test_every_statement_of_a_submission_is_a_point_where_it_is_killed`` keeps complete
 4  One key, fifty at once: ``test_fifty_submissions_with_one_key_at_once_make_one_parent``, and over HTTP
    ``e2e/test_submit.py::test_fifty_calls_with_one_key_at_once_make_one_batch``
 5  A thousand last children: ``test_last_children_at_once_end_their_parent_once_and_wake_its_waiter_once``
 6  Ten thousand children: ``test_the_end_of_a_child_costs_the_same_however_many_siblings_it_has``
 7  A cancel of everything: ``test_a_canceled_parent_takes_children_in_every_state_with_it_for_good``
 8  A canceled or deleted child: ``test_a_canceled_child_neither_strands_nor_falsifies_its_parent``,
    ``engine/test_batch_audit.py::test_a_batch_that_lost_some_runs_ends_with_the_others_and_says_so``
13  A stream that is cut: ``api/test_ingest.py::test_a_reset_connection_keeps_what_came``,
    ``e2e/test_client.py::test_a_connection_that_is_cut_in_mid_stream_is_resumed``,
    ``engine/test_items.py::test_missing_indexes_are_named_as_ranges``,
    ``engine/test_batches.py::test_an_unsealed_batch_is_aborted_at_its_deadline``
15  A shutdown while an end is written: ``worker/test_worker_deaths.py::test_after_the_drain_timeout_what_still_runs_is_given_back``,
    ``chaos/test_crash_points.py::test_fault_03_and_26_an_end_and_what_follows_from_it_commit_together``,
    ``worker/test_completer.py::test_results_outlive_a_database_that_goes_away``
16  Progress: ``test_progress_waits_for_nobody_and_touches_no_index``
17  Reads: ``test_reading_writes_nothing_and_calls_no_childless_parent_done``

Of the others, 9 and 10 are asked of the example that has an order and shares a run between documents
(``e2e/test_retain.py::test_many_submissions_of_one_document_at_once_leave_the_last``,
``e2e/test_retain.py::test_one_bad_document_does_not_take_its_neighbours_with_it``); 11, 12, 14 and 18 wait for what they are
about: retries of batches, deferral, fair shares, events. 19 is the journal's.

Then its weaknesses that lose work, double it or hang (section 12, starred):

 1  No lease and no fence: ``test_what_a_stale_worker_says_is_refused``, ``engine/test_leases.py::test_a_late_completion_and_the_rescue_never_both_win``
 2  Exclusion that is only a look: ``engine/test_leases.py::test_a_run_is_claimed_by_one_worker``. Keys of exclusion are to come
 3  A retry lets the next of its key go first: the example's order does not hang on execution,
    ``e2e/test_retain.py::test_of_two_submissions_the_later_stays_whatever_order_they_run_in``
 4  What was applied is applied again: ``e2e/test_retain.py::test_an_attempt_that_is_repeated_says_again_what_the_first_one_did``
 5  A swallowed error rolls a child's end back unnoticed: ``test_a_parent_that_can_t_be_counted_fails_the_childs_end_aloud``
 6  Cancels that are overwritten, or stop at the parent: ``test_a_cancel_and_an_end_at_once_have_one_winner``, and 7 above
 7  Four rules for a parent's end: ``test_one_rule_ends_every_parent``, and 17 above. No parent without children:
    ``engine/test_batch_audit.py::test_a_batch_without_runs_is_aborted_and_says_so``
20  One fate for what travels together: ``e2e/test_retain.py::test_one_bad_document_does_not_take_its_neighbours_with_it``
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest

from headrace.api.app import ENDPOINTS
from headrace.engine import batches, claims, completions, sweeps
from headrace.engine.cancels import cancel_run
from headrace.engine.engine import Engine
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    BatchState,
    ClaimedRun,
    Finish,
    KeyConflict,
    Packet,
    RunCanceled,
    RunEnded,
    StoredItem,
    WorkerLease,
)
from headrace.ids import format_batch_id, format_run_id, item_run_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus, RunStatus
from headrace.store.statements import Plan, load_sql
from tests.chaos import crash_child, test_crash_points
from tests.chaos.crash_child import ITEMS
from tests.engine.batch_waiters import make_batch_waiter, read_waiter
from tests.engine.helpers import claim, finish, look, make_items, register
from tests.invariants import assert_invariants, fetch_sql
from tests.server_fixture import RunningServer
from tests.test_docs import list_tests

pytestmark = pytest.mark.anyio

SILENT = "UPDATE headrace.workers SET lease_until = now() - interval '1 second' WHERE id = $1"


async def submit(engine: Engine, items: list[StoredItem], **more: Any) -> BatchState:
    answer = await batches.submit_batch(engine, 1, CreateBatch(run_count=len(items), **more), items)
    assert isinstance(answer, BatchCreated)
    return answer.batch


async def read_statuses(engine: Engine, batch: BatchState) -> list[str]:
    rows = await fetch_sql(engine, "SELECT status FROM headrace.runs WHERE batch_id = $1 ORDER BY id", batch.id)
    return [row["status"] for row in rows]


def test_what_is_pointed_to_above_is_there() -> None:
    tests = Path(__file__).parents[1]
    named = re.findall(r"``(?:([\w/]+\.py)::)?(test_\w+)``", __doc__ or "")
    assert len(named) > 25
    for file, name in named:
        assert name in list_tests(tests / file if file else Path(__file__)), f"{file}::{name}"


@pytest.mark.parametrize(
    "late",
    [
        {"status": RunStatus.COMPLETED, "output": Packet(b'"late"')},
        {"status": RunStatus.FAILED, "error": {"type": "STRING_ERROR", "raw": "late"}},
        {"status": RunStatus.FAILED, "error": {"type": "STRING_ERROR", "raw": "late"}, "retry_in": 60.0},
        {"status": RunStatus.WAITING},
    ],
    ids=["complete", "fail", "retry", "put down"],
)
@pytest.mark.parametrize("now", ["queued again", "held by another", "ended"])
async def test_what_a_stale_worker_says_is_refused(engine: Engine, late: dict[str, Any], now: str) -> None:
    """Check 2, weakness 1: whatever it says, and whatever has become of the run since."""
    batch = await submit(engine, make_items(0, 1))
    stale, other = await register(engine), await register(engine)
    [run] = await claim(engine, stale)
    await fetch_sql(engine, SILENT, stale.worker_id)
    assert (await sweeps.sweep_once(engine)).runs_rescued == 1
    if now != "queued again":
        taken = await claim(engine, other)
        if now == "ended":
            assert await finish(engine, other, taken) == set()
    before = await fetch_sql(engine, "SELECT * FROM headrace.runs"), await look(engine, batch)
    assert await completions.finish_runs(engine, stale, [Finish(run.id, run.attempt, **late)]) == {run.id}
    assert (await fetch_sql(engine, "SELECT * FROM headrace.runs"), await look(engine, batch)) == before
    await assert_invariants(engine)


async def test_fifty_submissions_with_one_key_at_once_make_one_parent(engine: Engine) -> None:
    """Check 4."""
    request = CreateBatch(run_count=3, idempotency_key="once")
    same = [batches.submit_batch(engine, 1, request, make_items(0, 3)) for _ in range(49)]
    other = batches.submit_batch(engine, 1, request, [*make_items(0, 2), StoredItem(2, "t", Packet(b"2"))])
    *answers, odd = await asyncio.gather(*same, other)
    [parent] = await fetch_sql(engine, "SELECT id FROM headrace.batches")
    if isinstance(odd, BatchCreated):  # it came first: then the forty-nine are another payload
        assert {type(answer) for answer in answers} == {KeyConflict}
    else:
        assert isinstance(odd, KeyConflict)
        assert sorted(type(answer).__name__ for answer in answers) == ["BatchCreated"] + ["BatchExists"] * 48
        assert {
            answer.batch.id for answer in answers if isinstance(answer, BatchCreated | BatchExists)
        } == {parent["id"]}  # fmt: skip
    assert len(await fetch_sql(engine, "SELECT id FROM headrace.runs")) == 3
    await assert_invariants(engine)


async def test_last_children_at_once_end_their_parent_once_and_wake_its_waiter_once(engine: Engine) -> None:
    """Check 5: a thousand children, of which any may be its parent's last, end in transactions of their own."""
    await fetch_sql(engine, "CREATE TABLE ends (batch_id uuid)")
    await fetch_sql(
        engine,
        "CREATE FUNCTION note_end() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL THEN INSERT INTO ends VALUES (NEW.id);"
        " ELSIF OLD.completed_at IS NOT NULL THEN RAISE 'it had ended'; END IF; RETURN NEW; END $$",
    )
    await fetch_sql(
        engine, "CREATE TRIGGER note_end AFTER UPDATE ON headrace.batches FOR EACH ROW EXECUTE FUNCTION note_end()"
    )
    parents = [await submit(engine, make_items(0, 4)) for _ in range(250)]
    waiters = [await make_batch_waiter(engine, parent) for parent in parents]
    leases = [await register(engine) for _ in range(4)]
    held = await claim_all(engine, leases)
    ends = [finish(engine, lease, [run], "FAILED" if run.id.bytes[-2] % 3 else "COMPLETED") for lease, run in held]
    assert len(ends) == 1000
    assert {frozenset(lost) for lost in await asyncio.gather(*ends)} == {frozenset()}
    assert {(await look(engine, parent)).status for parent in parents} == {BatchStatus.COMPLETED}
    rows = await fetch_sql(engine, "SELECT batch_id FROM ends")
    assert sorted(row["batch_id"] for row in rows) == sorted(parent.id for parent in parents)
    assert {await read_waiter(engine, waiter) for waiter in waiters} == {("QUEUED", 1)}
    await assert_invariants(engine)


async def claim_all(engine: Engine, leases: list[WorkerLease]) -> list[tuple[WorkerLease, ClaimedRun]]:
    """Everything that is ready, each run with the worker that has it, so that siblings are with different ones."""
    held: list[tuple[WorkerLease, ClaimedRun]] = []
    while True:
        found = [(lease, run) for lease in leases for run in await claim(engine, lease, 1)]
        if not found:
            return held
        held += found


async def test_the_end_of_a_child_costs_the_same_however_many_siblings_it_has(engine: Engine) -> None:
    """Check 6: linear in all. What a chunk of ends touches is counted, and all of them are timed, roughly."""
    lease = await register(engine)
    touched: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for children in (1_000, 10_000):
        parent = await submit(engine, make_items(0, children))
        begun = time.monotonic()
        for _ in range(children // 100 - 1):
            assert await finish(engine, lease, await claim(engine, lease, 100)) == set()
        seconds[children] = time.monotonic() - begun
        last = await claim(engine, lease, 100)
        touched[children] = await count_pages(engine, lease, last)
        assert await finish(engine, lease, last) == set()
        ended = await look(engine, parent)
        assert (ended.status, ended.settled) == (BatchStatus.COMPLETED, children)
    assert touched[10_000] < 2 * touched[1_000]
    assert seconds[10_000] < 50 * max(
        seconds[1_000], 0.1
    )  # ten times the work; at a cost that is quadratic, a hundredfold


async def count_pages(engine: Engine, lease: WorkerLease, ended: list[ClaimedRun]) -> int:
    """Pages that the statement of these ends touches; it is undone."""
    count = len(ended)
    arguments: list[Any] = [
        1, lease.worker_id, sorted(run.id for run in ended), [1] * count, ["COMPLETED"] * count, [b"2"] * count, [], [], [], [],
    ]  # fmt: skip
    async with engine.store.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        text = await connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {load_sql('finish_runs')}", *arguments
        )
        await transaction.rollback()
    top = json.loads(text)[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"]


async def test_a_canceled_parent_takes_children_in_every_state_with_it_for_good(engine: Engine) -> None:
    """Check 7, weakness 6: queued, delayed, held by a worker, backing off. No late word brings one back."""
    items = make_items(0, 30)
    items += [StoredItem(30 + n, "t", Packet(b"1"), RunOptions(delay="1h")) for n in range(10)]
    parent = await submit(engine, items)
    root = await make_batch_waiter(engine, parent)
    lease = await register(engine)
    claimed = await claim(engine, lease, 20)
    assert await finish(engine, lease, claimed[:5]) == set()
    assert await finish(engine, lease, claimed[5:10], "FAILED", retry_in=30.0) == set()
    held = claimed[10:]
    assert isinstance(await cancel_run(engine, 1, root), RunCanceled)

    async def assert_over() -> None:
        ended = await look(engine, parent)
        assert (ended.status, ended.settled, ended.succeeded) == (BatchStatus.COMPLETED, 40, 5)
        statuses = await read_statuses(engine, parent)
        assert (statuses.count("COMPLETED"), statuses.count("CANCELED")) == (5, 35)
        await assert_invariants(engine)

    await assert_over()
    assert await finish(engine, lease, held[:3]) == {run.id for run in held[:3]}
    assert await finish(engine, lease, held[3:6], "FAILED") == {run.id for run in held[3:6]}
    assert await finish(engine, lease, held[6:8], "FAILED", retry_in=0.0) == {run.id for run in held[6:8]}
    await fetch_sql(engine, SILENT, lease.worker_id)
    assert (await sweeps.sweep_once(engine)).runs_rescued == 0
    await fetch_sql(engine, "UPDATE headrace.runs SET ready_at = now() - interval '1 day'")
    assert await claim(engine, await register(engine)) == []
    assert await cancel_run(engine, 1, root) == RunEnded(root, RunStatus.CANCELED)
    await assert_over()


async def test_a_canceled_child_neither_strands_nor_falsifies_its_parent(engine: Engine) -> None:
    """Check 8."""
    parent = await submit(engine, make_items(0, 3))
    waiter = await make_batch_waiter(engine, parent)
    canceled = item_run_id(parent.id, 1)
    assert isinstance(await cancel_run(engine, 1, canceled), RunCanceled)
    assert (await look(engine, parent)).status == BatchStatus.PROCESSING
    lease = await register(engine)
    claimed = await claim(engine, lease)
    assert {run.id for run in claimed} == {item_run_id(parent.id, 0), item_run_id(parent.id, 2)}
    assert await finish(engine, lease, claimed) == set()
    ended = await look(engine, parent)
    assert (ended.status, ended.settled, ended.succeeded) == (BatchStatus.COMPLETED, 3, 2)
    outcomes = await batches.list_batch_results(engine, 1, parent.id)
    assert [outcome.run.status for outcome in outcomes] == ["COMPLETED", "CANCELED", "COMPLETED"]
    assert await read_waiter(engine, waiter) == ("QUEUED", 1)
    await assert_invariants(engine)


async def test_a_cancel_and_an_end_at_once_have_one_winner(engine: Engine) -> None:
    """Weakness 6: nothing is checked first and written later."""
    parent = await submit(engine, make_items(0, 60))
    lease = await register(engine)
    claimed = await claim(engine, lease)
    ends = [finish(engine, lease, [run], "FAILED", retry_in=None if n % 2 else 0.0) for n, run in enumerate(claimed)]
    cancels = [cancel_run(engine, 1, run.id) for run in claimed]
    mixed = await asyncio.gather(*(one for pair in zip(ends, cancels, strict=True) for one in pair))
    statuses = dict(zip([run.id for run in claimed], await read_statuses(engine, parent), strict=True))
    for run, lost, answer in zip(claimed, mixed[::2], mixed[1::2], strict=True):
        if lost:  # the worker was told so, and the cancel stands
            assert isinstance(answer, RunCanceled)
            assert statuses[run.id] == "CANCELED"
        elif isinstance(answer, RunEnded):
            assert statuses[run.id] == answer.status == "FAILED"
        else:  # it was to be tried again, and was canceled before that
            assert statuses[run.id] == "CANCELED"
    ended = await look(engine, parent)
    assert (ended.status, ended.settled) == (BatchStatus.COMPLETED, 60)
    assert await claims.claim_runs(engine, lease, tasks=["t"], limit=100) == []
    await assert_invariants(engine)


async def test_progress_waits_for_nobody_and_touches_no_index(engine: Engine) -> None:
    """Check 16: a run's metadata is in its own row, in no index, and its write asks for no row of its parent's."""
    parent = await submit(engine, make_items(0, 1))
    lease = await register(engine)
    [run] = await claim(engine, lease)
    indexes = "SELECT indexdef FROM pg_indexes WHERE schemaname = 'headrace' AND tablename = 'runs'"
    assert not [row for row in await fetch_sql(engine, indexes) if "metadata" in row["indexdef"]]
    links = "SELECT id, batch_id, batch_index, status, attempt, worker_id, parent_run_id FROM headrace.runs"
    before = await fetch_sql(engine, links)
    async with engine.store.connect() as connection, connection.transaction():
        assert await connection.fetch(load_sql("lock_batch"), 1, parent.id)
        async with asyncio.timeout(30):  # the parent's row is held meanwhile
            held = await engine.store.fetch("lock_own_run", 1, run.id, run.attempt, lease.worker_id)
            [row] = await engine.store.fetch("set_metadata", 1, run.id, '{"done": 1}', None)
    assert held
    assert not row["queued"]
    assert await fetch_sql(engine, links) == before


async def test_reading_writes_nothing_and_calls_no_childless_parent_done(server: RunningServer, engine: Engine) -> None:
    """Check 17, weakness 7: every GET there is, of parents that run, have ended, and lost their children."""
    childless, running, ended = [await submit(engine, make_items(0, 3)) for _ in range(3)]
    await fetch_sql(engine, "DELETE FROM headrace.runs WHERE batch_id = $1", childless.id)
    lease = await register(engine)
    claimed = await claim(engine, lease)
    assert await finish(engine, lease, [run for run in claimed if run.batch_id == ended.id]) == set()
    await fetch_sql(
        engine, "UPDATE headrace.workers SET lease_until = now() + interval '1 hour'"
    )  # no sweep takes them
    before = await read_versions(engine)
    gets = [one.operation.path for one in ENDPOINTS if one.operation.method == "GET"]
    assert len(gets) > 6
    async with httpx2.AsyncClient(
        base_url=server.url, headers={"authorization": f"Bearer {server.key}"}, timeout=30
    ) as client:
        for path in gets:
            for batch in (childless, running, ended):
                run = format_run_id(item_run_id(batch.id, 0))
                url = path.replace("{batch_id}", format_batch_id(batch.id)).replace("{run_id}", run)
                answer = await client.get(re.sub(r"\{\w+\}", "waitpoint_none", url))
                assert answer.status_code < 500, url
        shown = (await client.get(f"/api/v2/batches/{format_batch_id(childless.id)}")).json()
    assert shown["status"] == "PROCESSING"
    assert await read_versions(engine) == before


async def read_versions(engine: Engine) -> dict[str, list[Any]]:
    """Where every row of every table lies, and which transaction wrote it."""
    tables = await fetch_sql(engine, "SELECT tablename FROM pg_tables WHERE schemaname = 'headrace'")
    found: dict[str, list[Any]] = {}
    for table in tables:
        sql = f"SELECT ctid::text, xmin::text, xmax::text FROM headrace.{table['tablename']} ORDER BY ctid"
        found[table["tablename"]] = await fetch_sql(engine, sql)
    assert len(found["batches"]) == 3
    return found


async def test_a_parent_that_can_t_be_counted_fails_the_childs_end_aloud(engine: Engine) -> None:
    """Weakness 5: no error on the way is swallowed, so nothing is taken for written that was rolled back."""
    parent = await submit(engine, make_items(0, 2))
    lease = await register(engine)
    claimed = await claim(engine, lease)
    await fetch_sql(engine, "ALTER TABLE headrace.batches ADD CONSTRAINT broken CHECK (settled < 1)")
    with pytest.raises(asyncpg.CheckViolationError):
        await finish(engine, lease, claimed)
    assert await read_statuses(engine, parent) == ["EXECUTING", "EXECUTING"]
    assert not await fetch_sql(engine, "SELECT 1 FROM headrace.attempts")
    await fetch_sql(engine, "ALTER TABLE headrace.batches DROP CONSTRAINT broken")
    assert await finish(engine, lease, claimed) == set()
    assert (await look(engine, parent)).status == BatchStatus.COMPLETED
    await assert_invariants(engine)


def test_one_rule_ends_every_parent() -> None:
    """Weakness 7: whatever may end a sealed batch asks one function; beside it, only what is unsealed is ABORTED."""
    by_rule: set[str] = set()
    by_abort: set[str] = set()
    for file in (files("headrace.store") / "queries").iterdir():
        text = load_sql(file.name.removesuffix(".sql"))
        for change in re.findall(r"UPDATE headrace\.batches\b.*?(?=\bRETURNING\b|\Z)", text, re.DOTALL):
            if not re.search(r"\bstatus\s*=", change.partition("WHERE")[0]):
                assert "completed_at" not in change.partition("WHERE")[0].replace("processing_completed_at", "")
            elif "settled_batch_status(" in change:
                by_rule.add(file.name)
            else:
                assert re.search(r"SET status = 'ABORTED'", change)
                assert re.search(r"\bstatus = 'PENDING' AND \w+\.sealed_at IS NULL", change)
                by_abort.add(file.name)
    assert {
        "finish_runs.sql",
        "seal_batch.sql",
        "settle_aliases.sql",
        "cancel_runs.sql",
        "recount_batch.sql",
    } <= by_rule
    assert by_abort == {"abort_unsealed_batches.sql", "abort_batch.sql"}


@pytest.mark.one_store(
    "the points are those of one database; a key of another store's has two steps, in test_foreign_keys"
)
async def test_every_statement_of_a_submission_is_a_point_where_it_is_killed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check 3: the list of points in the test of crashes leaves none out, whatever is added to a submission."""
    sent: list[str] = []

    async def note_statements(connection: Any, plan: Plan[Any]) -> Any:
        try:
            statement = next(plan)
            while True:
                sent.append(statement.name)
                statement = plan.send(await connection.fetch(statement.sql, *statement.args))
        except StopIteration as stop:
            return stop.value

    monkeypatch.setattr("headrace.store.store.run_plan_on", note_statements)
    request = CreateBatch(run_count=ITEMS, idempotency_key="batch")
    await batches.submit_batch(engine, 1, request, crash_child.make_items(), request_id="request-1")
    [mark] = [
        mark
        for mark in test_crash_points.test_a_one_shot_batch_is_whole_or_not_there.pytestmark
        if mark.name == "parametrize"
    ]  # pyright: ignore[reportFunctionMemberAccess]
    assert len(sent) > 8
    assert {f"after:{name}" for name in sent} == set(mark.args[1])


async def test_a_parent_is_born_with_all_its_children(engine: Engine) -> None:
    """No look from outside, at any moment, sees a parent without its children, or a child without its parent."""
    seen: set[tuple[int, int]] = set()
    count = (
        "SELECT (SELECT count(*) FROM headrace.batches) AS parents, (SELECT count(*) FROM headrace.runs) AS children"
    )
    submission = asyncio.create_task(submit(engine, make_items(0, 5000)))
    while not submission.done():
        [row] = await fetch_sql(engine, count)
        seen.add((row["parents"], row["children"]))
    parent: UUID = (await submission).id
    [row] = await fetch_sql(engine, count)
    assert (row["parents"], row["children"]) == (1, 5000)
    assert seen <= {(0, 0), (1, 5000)}
    assert (0, 0) in seen
    assert len(await batches.list_batch_run_ids(engine, 1, parent)) == 5000
