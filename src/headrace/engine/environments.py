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
    """The environment named ``slug``, or None."""
    rows = await engine.store.fetch("find_environment", slug)
    return read_environment(rows[0]) if rows else None


async def list_environments(engine: Engine) -> list[Environment]:
    """All environments, the oldest first."""
    return [read_environment(row) for row in await engine.store.fetch("list_environments")]


def read_environment(row: Any) -> Environment:
    """An environment from a row."""
    return Environment(row["id"], row["slug"], bytes(row["signing_secret"]))
