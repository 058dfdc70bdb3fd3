"""A process that triggers with idempotency keys, in an order of its own, until it is killed. Run by test_idempotency_kills.

    python trigger_child.py SETTINGS_JSON SEED KEYS ROUNDS

Each answer is a line on stdout: the key, the run, and whether it was there before.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from headrace.engine import batches, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, Packet, RunCreated, RunExists, StoredItem
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.settings import Settings

AT_ONCE = 4


async def trigger_one(engine: Engine, key: str) -> list[tuple[str, str, bool]]:
    made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key=key))
    assert isinstance(made, RunCreated | RunExists), made
    return [(key, str(made.run_id), isinstance(made, RunExists))]


async def trigger_batch(engine: Engine, keys: list[str]) -> list[tuple[str, str, bool]]:
    items = [StoredItem(index, "t", Packet(b"1"), RunOptions(idempotency_key=key)) for index, key in enumerate(keys)]
    made = await batches.submit_batch(engine, 1, CreateBatch(run_count=len(items)), items)
    assert isinstance(made, BatchCreated), made
    async with engine.store.connect() as connection:
        rows = await connection.fetch(
            "SELECT batch_index, run_id, true AS cached FROM headrace.batch_aliases WHERE batch_id = $1"
            " UNION ALL SELECT batch_index, id, false FROM headrace.runs WHERE batch_id = $1",
            made.batch.id,
        )
    assert len(rows) == len(items)
    return [(keys[int(row["batch_index"])], str(row["run_id"]), bool(row["cached"])) for row in rows]


async def main(settings: Settings, seed: int, keys: int, rounds: int) -> None:
    dice = random.Random(seed)
    names = [f"key-{number}" for number in range(keys)] * rounds
    dice.shuffle(names)
    engine = await Engine.open(settings)

    async def work(part: list[str]) -> None:
        while part:
            if dice.random() < 0.5:
                told = await trigger_one(engine, part.pop())
            else:
                told = await trigger_batch(engine, [part.pop() for _ in range(min(5, len(part)))])
            for line in told:
                sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    try:
        await asyncio.gather(*(work(names[start::AT_ONCE]) for start in range(AT_ONCE)))
    finally:
        await engine.close()


if __name__ == "__main__":
    given: dict[str, Any] = json.loads(sys.argv[1])
    asyncio.run(main(Settings(**given), *(int(text) for text in sys.argv[2:5])))
