"""A process that kills itself at a named point of a sweep that carries out bulk actions. Run by test_bulk_kills.

    python -m tests.chaos.bulk_crash_child SETTINGS_JSON POINT

See crash_child for what a point is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from headrace.engine import bulk_steps, sweeps
from headrace.engine.engine import Engine
from headrace.settings import Settings
from tests.chaos.crash_child import arm

SELECTED, LOOKED_AT, DEALT_WITH = 4, 6, 3


def make_parts_small(module: Any = bulk_steps) -> None:
    module._SELECTED, module._LOOKED_AT, module._DEALT_WITH = SELECTED, LOOKED_AT, DEALT_WITH


async def main() -> None:
    settings, point = sys.argv[1:]
    make_parts_small()
    sweeps._BULK_SECONDS = 60.0
    engine = await Engine.open(Settings(**json.loads(settings)))
    arm(point)
    await sweeps.sweep_once(engine)
    raise SystemExit(f"{point} was never reached")


if __name__ == "__main__":
    asyncio.run(main())
