"""A process that kills itself at a named point of a move, or of the sweep that takes one on. Run by test_move_kills.

    python -m tests.chaos.move_crash_child SETTINGS_JSON OPERATION POINT ARGUMENT

See crash_child for what a point is. A move sends statements on connections that it holds, too: these are met as well.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

from headrace.engine import arrivals, moves, runs
from headrace.engine.engine import Engine
from headrace.settings import Settings
from headrace.store import store as store_module
from tests.chaos.crash_child import arm


async def operate(engine: Engine, operation: str, value: UUID) -> None:
    """What is killed."""
    match operation:
        case "move":
            await moves.move_tree(engine, value, "s2")
        case "sweep":
            await moves.carry_on_moves(engine.stores.all()[1])
        case "read":
            await runs.find_run(engine, 1, value)
        case _:
            raise AssertionError(operation)


async def main() -> None:
    settings, operation, point, argument = sys.argv[1:]
    engine = await Engine.open(Settings(**json.loads(settings)))
    arm(point)
    run_plan_on: Any = store_module.run_plan_on
    arrivals.run_plan_on = run_plan_on
    await operate(engine, operation, UUID(argument))
    raise SystemExit(f"{point} was never reached by {operation}")


if __name__ == "__main__":
    asyncio.run(main())
