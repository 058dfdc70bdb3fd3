"""Metadata and tags from inside of runs: in order, once each, by many workers, through kills and replays."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import tokens
from headrace.engine.engine import Engine
from headrace.engine.listings import list_runs
from headrace.engine.metadata import update_metadata
from headrace.engine.outcomes import Packet, RunFilter
from headrace.protocol.metadata import DeleteKey, SetKey, UpdateMetadata
from headrace.settings import Settings
from headrace.tasks import Task
from tests.invariants import assert_invariants, fetch_sql
from tests.worker import metadata_jobs as jobs
from tests.worker.helpers import await_end, execute, look, read_output, trigger, worker_process
from tests.worker.test_cancel_trees import living
from tests.worker.test_worker_deaths import sweeping

pytestmark = pytest.mark.anyio

JOBS = str(Path(jobs.__file__))
LINGERS = pytest.mark.parametrize("linger", [0.0, 30.0], ids=["put-down", "kept"])


@pytest.mark.parametrize("task", [jobs.every, jobs.every_in_thread, jobs.every_in_process])
async def test_each_change_is_there_when_it_returns_in_the_order_in_which_they_were_made(
    engine: Engine, task: Task[Any, Any]
) -> None:
    async with living(engine, task):
        run = await execute(engine, task)
    shown = {"stage": "begun", "files": [{"name": "a", "size": 3}], "n": 4, "log": ["b"], "root": True}
    assert read_output(run) == {"own": shown, "root": shown}
    assert run.metadata == shown
    await assert_invariants(engine)


async def test_a_tree_over_two_workers_reports_to_parents_and_root_and_nothing_is_lost(
    engine: Engine, settings: Settings
) -> None:
    narrow = replace(settings, concurrency=3)
    async with worker_process(narrow, JOBS), worker_process(narrow, JOBS):
        top = await trigger(engine, jobs.tree, 4)
        run = await await_end(engine, top)
    shown = read_output(run)
    assert shown["done"] == 40
    assert {f"leaf {number}" for number in range(40)} == shown.keys() - {"done"}
    assert len({shown[f"leaf {number}"] for number in range(40)}) == 2, "both workers took part"
    branches = await fetch_sql(engine, "SELECT id, metadata->'done' = '10' AS done FROM headrace.runs WHERE depth = 1")
    assert [row["done"] for row in branches] == [True] * 4
    logs = [read_output(await look(engine, row["id"]))["log"] for row in branches]
    assert sorted(sorted(log) for log in logs) == [list(range(first, first + 10)) for first in range(0, 40, 10)]
    await assert_invariants(engine)


async def test_what_is_counted_while_workers_are_killed_is_counted_once(engine: Engine, settings: Settings) -> None:
    times = 40
    async with sweeping(engine):
        top = await trigger(engine, jobs.counting_parent, times)
        for mark in (5, 12, 20):
            async with worker_process(settings, JOBS, HEADRACE_VERSION="one") as worker:
                await _until_counted(engine, top, mark)
                worker.signal(signal.SIGKILL)
                await worker.wait()
        async with worker_process(settings, JOBS, HEADRACE_VERSION="one"):
            run = await await_end(engine, top)
    assert read_output(run) == {"n": times, "log": list(range(times))}
    [child] = await fetch_sql(engine, "SELECT id, rescues FROM headrace.runs WHERE parent_run_id = $1", top)
    assert child["rescues"] == 3
    counted = await look(engine, child["id"])
    assert read_output(counted) == {"n": times, "last": times - 1}
    assert counted.tags == ["t0", "t1", "t2", "t3", "t4"]
    await assert_invariants(engine)


@LINGERS
async def test_what_was_refused_is_refused_again_in_a_replay_whatever_is_there_by_then(
    engine: Engine, linger: float
) -> None:
    """Else the code would go another way than its journal."""
    async with living(engine, jobs.refused, wait_linger=linger):
        run_id = await trigger(engine, jobs.refused, "gate", tags=["own"])
        [row] = await _until_rows(engine, "SELECT id FROM headrace.tokens WHERE idempotency_key = 'gate'")
        await _until_rows(engine, "SELECT FROM headrace.journal WHERE kind = 'token' AND pending")
        await update_metadata(engine, 1, run_id, UpdateMetadata(operations=[DeleteKey("name"), SetKey("kept", 1)]))
        token = row["id"]
        await tokens.complete_token(engine, 1, token, Packet(b"1"))
        run = await await_end(engine, run_id)
    told = read_output(run)
    assert [text.partition(":")[0] for text in told[:3]] == [
        "metadata.increment('name')",
        "metadata.append('name')",
        "metadata.remove('name')",
    ]
    assert "Runs can only have 10 tags, you're trying to set 12" in told[3]
    assert (run.metadata, run.tags) == ({"ready": False, "kept": 1}, ["own"])


@LINGERS
async def test_tags_are_added_once_found_at_once_and_inherited(engine: Engine, linger: float) -> None:
    async with living(engine, jobs.tagger, jobs.tagged_child, wait_linger=linger):
        run = await execute(engine, jobs.tagger, 0.3, tags=["given"])
    assert read_output(run) == [
        ["given", "big", "small"],
        ["big", "given", "small"],
        ["given", "big", "small", "late"],
    ]
    assert run.tags == ["given", "big", "small", "late"]
    for tag, count in (("big", 2), ("late", 1), ("given", 2), ("none", 0)):
        page = await list_runs(engine, 1, RunFilter(tags=[tag]))
        assert len(page.runs) == count, tag


async def test_a_new_attempt_counts_nothing_again(engine: Engine, tmp_path: Path) -> None:
    async with living(engine, jobs.failing):
        run = await execute(engine, jobs.failing, str(tmp_path / "tries"))
    assert run.attempt == 3
    assert read_output(run) == {"tries that came here": 1, "log": ["once"]}


async def test_in_a_step_only_what_is_no_point_may_be_changed(engine: Engine) -> None:
    async with living(engine, jobs.not_in_step):
        run = await execute(engine, jobs.not_in_step)
    told = read_output(run)
    assert [text.partition(" can't be used inside of a step")[0] for text in told] == [
        "NotInRunError metadata.parent.set()",
        "NotInRunError tags.add()",
        "NotInRunError metadata.remove()",
    ]
    assert run.metadata == {"in a step": 1}


async def _until_counted(engine: Engine, run_id: Any, mark: int) -> None:
    sql = "SELECT FROM headrace.runs WHERE id = $1 AND (metadata->'n')::integer >= $2"
    await _until_rows(engine, sql, run_id, mark)


async def _until_rows(engine: Engine, sql: str, *args: Any) -> list[Any]:
    async with asyncio.timeout(30):
        while not (rows := await fetch_sql(engine, sql, *args)):
            await asyncio.sleep(0.01)
    return rows
