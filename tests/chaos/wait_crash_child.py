"""A process that kills itself at a named point of something that waiting consists of. Run by test_wait_crash_points.

    python -m tests.chaos.wait_crash_child SETTINGS_JSON OPERATION POINT ARGUMENTS_JSON

See crash_child for what a point is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

from headrace.engine import batches, cancels, completions, journals, sweeps, tokens
from headrace.engine.engine import Engine
from headrace.engine.journals import (
    ChildBatch,
    ChildRun,
    Deed,
    Fence,
    Following,
    NewToken,
    PointWrite,
    Timer,
    TokenWait,
)
from headrace.engine.outcomes import Finish, Lineage, Packet, StoredItem, WorkerLease
from headrace.ids import format_run_id, mint_batch_id, mint_run_id, mint_token_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from tests.chaos.crash_child import arm

BATCH = 5
KEY = "k"


def make_deed(shape: str, given: dict[str, Any]) -> Deed:
    """What a parent does at its point."""
    match shape:
        case "child":
            return ChildRun(mint_run_id(), "t", Packet(b"1"), RunOptions())
        case "keyed":
            return ChildRun(mint_run_id(), "t", Packet(b"1"), RunOptions(idempotency_key=KEY))
        case "batch":
            keyed = RunOptions(idempotency_key=KEY)
            items = [StoredItem(index, "t", Packet(b"1"), keyed if index < 2 else None) for index in range(BATCH)]
            return ChildBatch(mint_batch_id(), _describe_batch(given), items)
        case "opened":
            return ChildBatch(mint_batch_id(), _describe_batch(given))
        case "progress":
            return Following(UUID(given["batch"]), 0)
        case "timer":
            return Timer(seconds=3600)
        case "new token":
            return NewToken(
                mint_token_id(), lambda token_id, _: Packet(json.dumps(token_id.hex).encode()), None, [], None, None
            )
        case "token":
            return TokenWait(UUID(given["token"]))
        case _:
            raise AssertionError(shape)


def _describe_batch(given: dict[str, Any]) -> CreateBatch:
    return CreateBatch(run_count=BATCH, task_identifiers=["t"], parent_run_id=format_run_id(UUID(given["run"])))


async def operate(engine: Engine, operation: str, given: dict[str, Any]) -> None:
    lease = WorkerLease(given["worker"], 1)
    run_id = UUID(given["run"])
    match operation:
        case "write":
            fence = Fence(lease, run_id, given["attempt"], Lineage(run_id, run_id, 1))
            await journals.write_points(engine, fence, [PointWrite("point", 1, make_deed(given["shape"], given))])
        case "put down":
            await completions.finish_runs(engine, lease, [Finish(run_id, given["attempt"], RunStatus.WAITING)])
        case "finish":
            ended = [Finish(UUID(one), 1, RunStatus.COMPLETED, Packet(b"2")) for one in given["children"]]
            await completions.finish_runs(engine, lease, ended)
        case "complete token":
            await tokens.complete_token(engine, 1, UUID(given["token"]), Packet(b"2"))
        case "seal":
            await batches.end_stream(engine, 1, UUID(given["batch"]))
        case "sweep":
            await sweeps.sweep_once(engine)
        case "cancel":
            await cancels.cancel_run(engine, 1, run_id)
        case _:
            raise AssertionError(operation)


async def main() -> None:
    settings, operation, point, given = sys.argv[1:]
    engine = await Engine.open(Settings(**json.loads(settings)))
    arm(point)
    await operate(engine, operation, json.loads(given))
    raise SystemExit(f"{point} was never reached by {operation}")


if __name__ == "__main__":
    asyncio.run(main())
