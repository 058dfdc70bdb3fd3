"""Environments: dev, staging, prod. Nothing of one is seen from another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headrace.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment; ``signing_secret`` signs its public tokens and is never shown."""

    id: int
    slug: str
    signing_secret: bytes = field(repr=False)


async def find_environment(engine: Engine, slug: str) -> Environment | None:
    """The environment named ``slug``, or None. What was read within the last second need not be read again."""
    engine = engine.home
    memory = engine.control
    if known := memory.environments.recall(slug):
        return known.value
    moment = memory.epochs.begin()
    rows = await engine.store.fetch("find_environment", slug)
    found = read_environment(rows[0]) if rows else None
    memory.environments.keep(slug, found, moment, found.id if found else None)
    return found


async def find_environment_here(engine: Engine, slug: str) -> Environment | None:
    """The environment named ``slug`` as this engine's own store knows it, or None: for workers, that need no home to go on."""
    rows = await engine.store.fetch("find_environment", slug)
    return read_environment(rows[0]) if rows else None


async def list_environments(engine: Engine) -> list[Environment]:
    """All environments, the oldest first. What was read within the last second need not be read again."""
    engine = engine.home
    memory = engine.control
    if (known := memory.every.recall("")) and known.value is not None:
        return known.value
    moment = memory.epochs.begin()
    found = [read_environment(row) for row in await engine.store.fetch("list_environments")]
    memory.every.keep("", found, moment)
    return found


def read_environment(row: Any) -> Environment:
    """An environment from a row."""
    return Environment(row["id"], row["slug"], bytes(row["signing_secret"]))
