"""SIGKILL of the process that carries out a bulk action: each run is dealt with once, whenever that is.

Which statements there are is not listed here: an action is carried out once unharmed, and what that sent is where the next one
is killed.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Generator
from pathlib import Path
from uuid import UUID

import pytest

from headrace.engine import bulk_actions, bulk_steps, runs, sweeps
from headrace.engine.bulk_actions import BulkCreated, BulkKind, BulkOrder, BulkStatus
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, RunFilter
from headrace.protocol.options import RunOptions
from tests.chaos.bulk_crash_child import make_parts_small
from tests.chaos.test_crash_points import wait_for_connections_to_end
from tests.engine.held import HeldStore, Hold
from tests.invariants import assert_invariants, fetch_sql
from tests.nursery import run_forked

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
RUNS = 10


@pytest.fixture(autouse=True)
def small_parts() -> Generator[None]:
    kept = bulk_steps._SELECTED, bulk_steps._LOOKED_AT, bulk_steps._DEALT_WITH
    make_parts_small()
    yield
    bulk_steps._SELECTED, bulk_steps._LOOKED_AT, bulk_steps._DEALT_WITH = kept


async def begin(engine: Engine, kind: BulkKind) -> tuple[UUID, set[UUID]]:
    """An action for runs of a task of its own, and these runs."""
    task = f"t{len(await fetch_sql(engine, 'SELECT FROM headrace.bulk_actions'))}"
    members: set[UUID] = set()
    for _ in range(RUNS):
        made = await runs.trigger_run(engine, 1, task, Packet(b"1"), RunOptions())
        assert isinstance(made, RunCreated)
        members.add(made.run_id)
    made = await bulk_actions.create_bulk_action(engine, 1, BulkOrder(kind, RunFilter(tasks=[task])))
    assert isinstance(made, BulkCreated)
    return made.action_id, members


async def finish(engine: Engine, action_id: UUID, kind: BulkKind, members: set[UUID]) -> None:
    """Another process goes on, and then everything is as if nobody had been killed."""
    for _ in range(20):
        await sweeps.sweep_once(engine)
        action = await bulk_actions.find_bulk_action(engine, 1, action_id)
        assert action is not None
        if action.status is BulkStatus.COMPLETED:
            break
    else:
        raise AssertionError(action)
    assert (action.total, action.succeeded, action.failed) == (RUNS, RUNS, 0)
    if kind is BulkKind.REPLAY:
        rows = await fetch_sql(
            engine, "SELECT replayed_from AS id FROM headrace.runs WHERE replayed_from = ANY($1)", list(members)
        )
    else:
        rows = await fetch_sql(
            engine, "SELECT id FROM headrace.runs WHERE id = ANY($1) AND status = 'CANCELED'", list(members)
        )
    assert sorted(row["id"] for row in rows) == sorted(members)
    counted = await fetch_sql(
        engine,
        "SELECT FROM headrace.bulk_members WHERE action_id = $1 AND succeeded AND result_id IS NOT NULL",
        action_id,
    )
    assert len(counted) == RUNS
    await assert_invariants(engine)


async def list_statements(engine: Engine, kind: BulkKind) -> list[str]:
    """What carrying out an action sends, in the order in which each is sent first."""
    action_id, members = await begin(engine, kind)
    store = await HeldStore.open(engine.settings)
    assert isinstance(store, HeldStore)
    store.hold, store.sent = Hold(""), []
    try:
        await finish(dataclasses.replace(engine, store=store), action_id, kind, members)
        first = store.sent.index("find_pending_bulk_actions")
        return [name for name in dict.fromkeys(store.sent[first:]) if name not in ("elect_sweeper", "close_lanes")]
    finally:
        await store.close()


async def kill_at(engine: Engine, point: str) -> None:
    """Another process begins to sweep, and is no more when this returns."""
    settings = json.dumps(dataclasses.asdict(engine.settings))
    ended = await run_forked("tests.chaos.bulk_crash_child", settings, point)
    assert ended == -signal.SIGKILL, point
    await wait_for_connections_to_end(engine)


@pytest.mark.parametrize("kind", list(BulkKind))
async def test_whoever_carries_it_out_is_killed_after_any_statement(engine: Engine, kind: BulkKind) -> None:
    statements = await list_statements(engine, kind)
    assert {"lock_bulk_action", "list_runs", "insert_bulk_members", "settle_members"} <= set(statements)
    assert ("insert_replays" if kind is BulkKind.REPLAY else "cancel_runs") in statements
    own = [name for name in statements if name not in ("lock_versions", "close_version_lanes", "find_canceling")]
    points = [f"after:{name}" for name in own if kind is BulkKind.REPLAY or name in ("cancel_runs", "settle_members")]
    for point in [*points, "committed:insert_bulk_members", "committed:settle_members"]:
        action_id, members = await begin(engine, kind)
        await kill_at(engine, point)
        await finish(engine, action_id, kind, members)


async def test_who_goes_on_is_killed_again_and_again(engine: Engine) -> None:
    """Each lives for one part."""
    action_id, members = await begin(engine, BulkKind.REPLAY)
    for done in range(1, 4):
        await kill_at(engine, "committed:settle_members")
        action = await bulk_actions.find_bulk_action(engine, 1, action_id)
        assert action is not None
        assert action.succeeded == 3 * done
    await finish(engine, action_id, BulkKind.REPLAY, members)
