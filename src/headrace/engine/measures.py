"""What is measured in the database rather than counted: asked by ``/metrics`` and ``headrace doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Measured:
    """What waits over all stores, and which of them answered, by name."""

    queues: list[QueueMeasure]
    stores: dict[str, bool]


@dataclass(frozen=True, slots=True)
class QueueMeasure:
    """A queue with something ready: how much (counted to 10,000 a task and store) and the age of its oldest run in seconds."""

    environment: str
    queue: str
    depth: int
    oldest_seconds: float


async def measure_queues(engine: Engine) -> Measured:
    """Every queue that has something ready, over all stores; what is in a store that does not answer is not counted."""
    stores = engine.stores
    gathered = await stores.gather(lambda one: one.store.fetch("measure_queues"))
    found: dict[tuple[str, str], QueueMeasure] = {}
    for row in (row for rows in gathered.answers for row in rows):
        key = (row["environment"], row["queue"])
        other = found.get(key)
        depth, age = (other.depth, other.oldest_seconds) if other else (0, 0.0)
        found[key] = QueueMeasure(*key, depth + row["depth"], max(age, row["age"]))
    return Measured(list(found.values()), {one.name: one.name not in gathered.missing for one in stores.records()})


async def check_database(engine: Engine) -> None:
    """One round trip. Raises what the driver raises where the database does not answer."""
    await engine.store.fetch("check_database")
