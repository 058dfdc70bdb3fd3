"""A process that copies the control plane to a store once, until it is killed. Run by test_control_deaths.

python -m tests.engine.copy_child SETTINGS_JSON STORE_NAME
"""

from __future__ import annotations

import asyncio
import json
import sys

from headrace.engine.control_copies import copy_control
from headrace.engine.engine import Engine
from headrace.settings import Settings


async def copy(settings: Settings, name: str) -> None:
    home = await Engine.open(settings)
    [other] = [one for one in home.stores.others() if one.name == name]
    await copy_control(home, other)
    await home.close()


if __name__ == "__main__":
    asyncio.run(copy(Settings(**json.loads(sys.argv[1])), sys.argv[2]))
