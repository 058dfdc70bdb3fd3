"""A process that kills itself at a named point of an operation. Run by test_crash_points.

    python crash_child.py SETTINGS_JSON OPERATION POINT ARGUMENT

A point is ``before:<statement>``, ``after:<statement>`` (executed, not committed) or ``committed:<statement>`` (the
transaction that held it is committed, nobody has been told). The statements are the store's own; what is wrapped is the
function that sends them, in this process only. The kill is SIGKILL: no handler, no clean-up, the connection just ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any
from uuid import UUID

from headrace.engine import batches, claims, completions, runs, sweeps, workers
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Finish, Packet, StoredItem, WorkerLease
from headrace.ids import item_run_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from headrace.store import store as store_module
from headrace.store.statements import Plan

ITEMS = 20
KEYED = 3


def make_items() -> list[StoredItem]:
    keyed = RunOptions(idempotency_key="one for all")
    return [StoredItem(i, "t", Packet(b"1"), keyed if i < KEYED else None) for i in range(ITEMS)]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    when, _, name = point.partition(":")
    sent: list[str] = []
    run_plan, fetch = store_module.Store.run_plan, store_module.Store.fetch

    async def run_plan_on(connection: Any, plan: Plan[Any]) -> Any:
        try:
            statement = next(plan)
            while True:
                if when == "before" and statement.name == name:
                    die()
                rows = await connection.fetch(statement.sql, *statement.args)
                sent.append(statement.name)
                if when == "after" and statement.name == name:
                    die()
                statement = plan.send(rows)
        except StopIteration as stop:
            return stop.value

    async def committed_plan(self: Any, plan: Plan[Any]) -> Any:
        value = await run_plan(self, plan)
        if when == "committed" and name in sent:
            die()
        return value

    async def committed_fetch(self: Any, statement: str, *args: Any) -> Any:
        if when == "before" and statement == name:
            die()
        rows = await fetch(self, statement, *args)
        if when == "committed" and statement == name:
            die()
        return rows

    store_module.run_plan_on = run_plan_on
    store_module.Store.run_plan = committed_plan
    store_module.Store.fetch = committed_fetch


async def operate(engine: Engine, operation: str, argument: str) -> None:
    match operation:
        case "create":
            await batches.create_batch(engine, 1, CreateBatch(run_count=ITEMS), request_id=argument)
        case "submit":
            request = CreateBatch(run_count=ITEMS, idempotency_key="batch")
            await batches.submit_batch(engine, 1, request, make_items(), request_id=argument)
        case "trigger":
            options = RunOptions(idempotency_key="once")
            await runs.trigger_run(engine, 1, "t", Packet(b"1"), options, request_id=argument)
        case "store":
            batch = await batches.find_batch(engine, 1, UUID(argument))
            assert batch is not None
            await batches.store_chunk(engine, 1, batch, make_items())
        case "seal":
            await batches.end_stream(engine, 1, UUID(argument))
        case "claim":
            lease = WorkerLease(int(argument), 1)
            await claims.claim_runs(engine, lease, tasks=["t"], limit=ITEMS)
        case "finish":
            worker, _, batch_id = argument.partition(":")
            lease = WorkerLease(int(worker), 1)
            ended = [
                Finish(item_run_id(UUID(batch_id), i), 1, RunStatus.COMPLETED, Packet(b"2"))
                for i in range(KEYED - 1, ITEMS)
            ]
            ended.append(Finish(item_run_id(UUID(batch_id), 0), 1, RunStatus.COMPLETED, Packet(b"2")))
            await completions.finish_runs(engine, lease, ended)
        case "sweep":
            await sweeps.sweep_once(engine)
        case "retire":
            await workers.retire_worker(engine, WorkerLease(int(argument), 1))
        case _:
            raise AssertionError(operation)


async def main() -> None:
    settings, operation, point, argument = sys.argv[1:]
    engine = await Engine.open(Settings(**json.loads(settings)))
    arm(point)
    await operate(engine, operation, argument)
    raise SystemExit(f"{point} was never reached by {operation}")


if __name__ == "__main__":
    asyncio.run(main())
