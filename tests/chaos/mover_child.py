"""A process that moves trees of a fleet to and fro until it is killed, which it does not expect. Run by test_stores.

python -m tests.chaos.mover_child SETTINGS_JSON SEED
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys

from headrace.engine import moves
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.store.store import DATABASE_ERRORS
from tests.invariants import fetch_sql

SOME = """
    SELECT id FROM (
        SELECT id FROM headrace.runs UNION ALL SELECT id FROM headrace.batches UNION ALL SELECT id FROM headrace.tokens
    ) AS things ORDER BY random() LIMIT 1"""


async def main() -> None:
    settings, seed = sys.argv[1:]
    chance = random.Random(int(seed))
    while True:
        try:
            home = await Engine.open(Settings(**json.loads(settings)))
            break
        except (*DATABASE_ERRORS, ConfigurationError):  # home is away
            await asyncio.sleep(0.1)
    os.write(1, b"ready\n")
    while True:
        source, target = chance.choice(home.stores.all()), chance.choice(home.stores.all())
        try:
            for row in await fetch_sql(source, SOME):
                await moves.move_tree(home, row["id"], target.name)
            await home.refresh_stores()
        except (*DATABASE_ERRORS, ConfigurationError):  # a store is away, or takes nothing more
            await asyncio.sleep(0.1)
        await asyncio.sleep(chance.random() * 0.05)


if __name__ == "__main__":
    asyncio.run(main())
