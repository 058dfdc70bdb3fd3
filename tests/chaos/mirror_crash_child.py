"""A process that kills itself at a named point of something that waits across stores consist of. Run by test_mirror_crash_points.

    python -m tests.chaos.mirror_crash_child SETTINGS_JSON OPERATION POINT ARGUMENTS_JSON

See crash_child for what a point is; it is the first of its name in any store.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

from headrace.engine import completions, journals, sweeps, tokens
from headrace.engine.deeds import Deed, Fence, PointWrite, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Finish, Lineage, WorkerLease
from headrace.engine.relay import relay_outbox
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from tests.chaos.crash_child import arm
from tests.engine.foreign import OUTPUT, keyed_batch, keyed_child


def make_deed(engine: Engine, shape: str, given: dict[str, Any]) -> Deed:
    """What the run that waits does at its point; ``engine`` is that of its store."""
    match shape:
        case "token":
            return TokenWait(UUID(given["target"]))
        case "keyed":
            return keyed_child(engine, given["key"])
        case "batch":
            return keyed_batch(engine, [given["key"], None])
        case _:
            raise AssertionError(shape)


async def operate(home: Engine, operation: str, given: dict[str, Any]) -> None:
    """``operation``, by a process that was given the home store."""
    run_id, target = UUID(given["run"]), UUID(given["target"])
    here, there = home.at(run_id), home.at(target)
    match operation:
        case "write":
            lease = WorkerLease(given["worker"], 1)
            fence = Fence(lease, run_id, given["attempt"], Lineage(run_id, run_id, 1))
            await journals.write_points(here, fence, [PointWrite("point", 1, make_deed(here, given["shape"], given))])
        case "complete":
            await tokens.complete_token(home, 1, target, OUTPUT)
        case "finish":
            lease = WorkerLease(given["worker there"], 1)
            await completions.finish_runs(there, lease, [Finish(target, 1, RunStatus.COMPLETED, OUTPUT)])
        case "relay":
            await relay_outbox(there)
        case "sweep":
            await sweeps.sweep_once(home)
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
