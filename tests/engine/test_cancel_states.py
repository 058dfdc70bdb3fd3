"""A cancel, whatever the run does at the time. Waiting runs and those that clean up are in worker/."""

from __future__ import annotations

from typing import Any, Final

import pytest

from headrace.engine import cancels, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from tests.engine.helpers import claim, finish, register
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

STATES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "queued": ({}, "QUEUED"),
    "queued with a concurrency key": ({"concurrency_key": "k"}, "QUEUED"),
    "queued with an order key": ({"order_key": "k"}, "QUEUED"),
    "delayed": ({"delay": "1h"}, "DELAYED"),
    "pending version": ({"lock_to_version": "v9"}, "PENDING_VERSION"),
    "executing": ({}, "EXECUTING"),
    "executing with a concurrency key": ({"concurrency_key": "k"}, "EXECUTING"),
    "executing with an order key": ({"order_key": "k"}, "EXECUTING"),
    "to be tried again": ({}, "QUEUED"),
}


@pytest.mark.parametrize("state", STATES)
async def test_whatever_a_run_does_it_is_canceled_at_once_and_for_good(engine: Engine, state: str) -> None:
    options, reads_as = STATES[state]
    if "order_key" in options:  # its run is at home
        engine = engine.home
    lease = await register(engine)
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(**options, idempotency_key="once"))
    assert isinstance(made, RunCreated)
    claimed = await claim(engine, lease) if state.startswith(("executing", "to be")) else []
    if state == "to be tried again":
        assert not await finish(engine, lease, claimed, "FAILED", retry_in=3600)
    assert await read_status(engine, made) == reads_as

    await cancels.cancel_run(engine, 1, made.run_id)
    await cancels.cancel_run(engine, 1, made.run_id)

    assert await read_status(engine, made) == "CANCELED"
    if reads_as == "EXECUTING":  # what its worker says comes too late, whichever of both it is
        assert await finish(engine, lease, claimed) == {made.run_id}
        assert await finish(engine, lease, claimed, "FAILED", retry_in=0) == {made.run_id}
    await fetch_sql(engine, "UPDATE headrace.runs SET ready_at = now() - interval '1 day'")
    assert await claim(engine, lease) == []
    assert await read_status(engine, made) == "CANCELED"
    held = await fetch_sql(engine.home, "SELECT target_id FROM headrace.idempotency_keys WHERE scope = 'task:t'")
    assert [row["target_id"] for row in held] == [made.run_id]  # a cancel keeps the key
    await assert_invariants(engine)


async def read_status(engine: Engine, made: RunCreated) -> RunStatus:
    found = await runs.find_run(engine, 1, made.run_id)
    assert found is not None
    return found.status
