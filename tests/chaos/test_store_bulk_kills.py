"""SIGKILL of whoever asks for a bulk action over three stores, or carries it out: each run is replayed once, none is left out."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from headrace.engine import bulk_actions, bulk_steps
from headrace.engine.bulk_actions import BulkStatus
from headrace.engine.engine import Engine
from headrace.engine.sweeps import sweep_once
from tests.chaos.bulk_crash_child import make_parts_small
from tests.chaos.store_bulk_crash_child import create
from tests.chaos.test_crash_points import wait_for_connections_to_end
from tests.engine.brittle import trigger_at
from tests.invariants import assert_invariants, fetch_sql
from tests.nursery import run_forked

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
RUNS = 4
"""In each store."""

ASKING = [
    "after:insert_bulk_action",
    "after:insert_bulk_parts",
    "committed:insert_bulk_parts",  # home knows what is to be made, and nothing is
    "committed:find_open_bulk_parts",
    "after:insert_bulk_part",
    "committed:insert_bulk_part",  # one store has its part, of which home has not heard
    "after:note_bulk_part",
    "committed:note_bulk_part",
]
TENDING = ["after:insert_bulk_part", "committed:insert_bulk_part", "after:note_bulk_part", "committed:note_bulk_part"]
"""The same by the sweep, where whoever asked was killed before."""

ENDING = ["after:note_bulk_part", "after:complete_bulk_action", "committed:complete_bulk_action"]
CARRYING = ["after:insert_bulk_members", "after:insert_replays", "after:settle_members", "committed:settle_members"]


@pytest.fixture(autouse=True)
def small_parts() -> Generator[None]:
    kept = bulk_steps._SELECTED, bulk_steps._LOOKED_AT, bulk_steps._DEALT_WITH
    make_parts_small()
    yield
    bulk_steps._SELECTED, bulk_steps._LOOKED_AT, bulk_steps._DEALT_WITH = kept


async def kill_at(fleet: list[Engine], operation: str, point: str) -> None:
    """Another process begins to do it, and is no more when this returns."""
    settings = json.dumps(dataclasses.asdict(fleet[0].settings))
    ended = await run_forked("tests.chaos.store_bulk_crash_child", settings, operation, point)
    assert ended == -signal.SIGKILL, (operation, point)
    for engine in fleet:
        await wait_for_connections_to_end(engine)


async def begin(fleet: list[Engine], task: str) -> None:
    for engine in fleet:
        for _ in range(RUNS):
            await trigger_at(engine, task)


async def finish(fleet: list[Engine], task: str) -> None:
    """The request is sent again, others go on, and then everything is as if nobody had been killed."""
    action_id = (await create(fleet[0], task)).action_id
    for _ in range(20):
        for engine in fleet:
            await sweep_once(engine)
        action = await bulk_actions.find_bulk_action(fleet[0], 1, action_id)
        assert action is not None
        if action.status is not BulkStatus.PENDING:
            break
    else:
        raise AssertionError(action)
    expected = RUNS * len(fleet)
    assert (action.status, action.total, action.succeeded) == (BulkStatus.COMPLETED, expected, expected), task
    for engine in fleet:
        rows = await fetch_sql(
            engine,
            "SELECT r.replayed_from AS id FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id"
            " WHERE l.task = $1 AND r.replayed_from IS NOT NULL",
            task,
        )
        assert len(rows) == len({row["id"] for row in rows}) == RUNS, task
        await assert_invariants(engine)
    made = await fetch_sql(
        fleet[0], "SELECT FROM headrace.bulk_actions WHERE filter ->> 'tasks' LIKE $1", f'%"{task}"%'
    )
    assert len(made) == 1, "and there is one action"


async def test_whoever_asks_for_it_is_killed(fleet: list[Engine]) -> None:
    for number, point in enumerate(ASKING):
        await begin(fleet, f"asked{number}")
        await kill_at(fleet, f"create:asked{number}", point)
        await finish(fleet, f"asked{number}")


async def test_whoever_makes_its_parts_is_killed(fleet: list[Engine]) -> None:
    """One after another, until nothing is left to be made; nobody has seen the request through."""
    for number, point in enumerate(TENDING):
        await begin(fleet, f"made{number}")
        await kill_at(fleet, f"create:made{number}", "committed:insert_bulk_parts")
        await kill_at(fleet, "0", point)
        await finish(fleet, f"made{number}")


async def test_whoever_carries_out_a_part_is_killed(fleet: list[Engine]) -> None:
    for number, point in enumerate(CARRYING):
        await begin(fleet, f"carried{number}")
        await create(fleet[0], f"carried{number}")
        await kill_at(fleet, fleet[1 + number % 2].key, point)
        await finish(fleet, f"carried{number}")


async def test_whoever_ends_it_is_killed(fleet: list[Engine]) -> None:
    for number, point in enumerate(ENDING):
        await begin(fleet, f"ended{number}")
        await create(fleet[0], f"ended{number}")
        for engine in fleet:
            for _ in range(3):
                await sweep_once(engine)
        await kill_at(fleet, "0", point)
        await finish(fleet, f"ended{number}")
