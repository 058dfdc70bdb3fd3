"""A process that kills itself at a named point of a bulk action over several stores. Run by test_store_bulk_kills.

    python -m tests.chaos.store_bulk_crash_child SETTINGS_JSON OPERATION POINT

OPERATION is ``create``, which asks for the action, or the key of the store that is swept. See crash_child for what a point is.
"""

from __future__ import annotations

import asyncio
import json
import sys

from headrace.engine import bulk_actions, sweeps
from headrace.engine.bulk_actions import BulkKind, BulkOrder
from headrace.engine.engine import Engine
from headrace.engine.outcomes import RunFilter
from headrace.settings import Settings
from tests.chaos.bulk_crash_child import make_parts_small
from tests.chaos.crash_child import arm

REQUEST = "bulk request"


async def create(engine: Engine, task: str) -> bulk_actions.BulkCreated:
    """Asks for replays of a task's runs; asked again, it is the same request."""
    order = BulkOrder(BulkKind.REPLAY, RunFilter(tasks=[task]))
    made = await bulk_actions.create_bulk_action(engine, 1, order, request_id=f"{REQUEST} {task}", fingerprint=b"same")
    assert isinstance(made, bulk_actions.BulkCreated)
    return made


async def main() -> None:
    settings, operation, point = sys.argv[1:]
    make_parts_small()
    sweeps._BULK_SECONDS = 60.0
    engine = await Engine.open(Settings(**json.loads(settings)))
    arm(point)
    what, _, task = operation.partition(":")
    if what == "create":
        await create(engine, task)
    else:
        [swept] = [one for one in engine.stores.all() if one.key == what]
        await sweeps.sweep_once(swept)
    raise SystemExit(f"{point} was never reached by {operation}")


if __name__ == "__main__":
    asyncio.run(main())
