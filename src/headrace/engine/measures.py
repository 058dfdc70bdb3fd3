"""What is measured in the database rather than counted: asked by ``/metrics`` and ``headrace doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class QueueMeasure:
    """A queue with something ready: how much (counted to 10,000 a task) and the age of its oldest run in seconds."""

    environment: str
    queue: str
    depth: int
    oldest_seconds: float


async def measure_queues(engine: Engine) -> list[QueueMeasure]:
    """Every queue that has something ready."""
    rows = await engine.store.fetch("measure_queues")
    return [QueueMeasure(row["environment"], row["queue"], row["depth"], row["age"]) for row in rows]


async def check_database(engine: Engine) -> None:
    """One round trip. Raises what the driver raises where the database does not answer."""
    await engine.store.fetch("check_database")
