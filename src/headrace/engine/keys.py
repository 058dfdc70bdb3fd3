"""API keys: shown once, stored as a hash, each good for one environment.

A key holds 256 random bits, so a plain SHA-256 is enough: there is nothing to guess that stretching would slow down.
Which environment a key is of is remembered for a second at most (engine/control_cache), which is how long a revoked key may
still be accepted where the hint that it was revoked is lost. All keys are in the home store.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, find_environment, read_environment
from headrace.errors import ConfigurationError

_LONGEST_SECRET: Final = 512


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only time its secret is seen."""

    id: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as it is listed; ``hint`` is the end of its secret."""

    id: int
    name: str
    environment: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None


async def create_key(engine: Engine, environment_slug: str, name: str) -> NewKey:
    """A new key of an environment. Raises ConfigurationError where there is no such environment."""
    secret = f"hr_{environment_slug}_{secrets.token_urlsafe(32)}"
    if await find_environment(engine, environment_slug) is None:
        raise ConfigurationError(f"There is no environment {environment_slug!r}; there are dev, staging and prod.")
    rows = await _insert_key(engine, environment_slug, name, secret)
    return NewKey(rows[0]["id"], secret)


async def ensure_key(engine: Engine, environment_slug: str, secret: str) -> None:
    """Makes ``secret`` a key of an environment unless it is one already. Raises ConfigurationError on a weak one."""
    if not 16 <= len(secret) <= _LONGEST_SECRET:
        raise ConfigurationError(
            "HEADRACE_API_KEY must have 16 to 512 characters: `headrace keys create` makes a good one."
        )
    await _insert_key(engine, environment_slug, "HEADRACE_API_KEY", secret)


async def list_keys(engine: Engine) -> list[KeyView]:
    """All keys, the revoked ones too, in the order in which they were made."""
    return [KeyView(**dict(row)) for row in await engine.home.store.fetch("list_keys")]


async def revoke_key(engine: Engine, key_id: int) -> bool:
    """Revokes a key; False where there is none with that number, or it was revoked before."""
    rows = await engine.home.store.fetch("revoke_key", key_id)
    await _tell_all(engine, rows)
    return bool(rows)


async def find_key_environment(engine: Engine, secret: str) -> Environment | None:
    """The environment that ``secret`` is a live key of, or None."""
    if len(secret) > _LONGEST_SECRET:
        return None
    engine = engine.home
    secret_hash, memory = hash_secret(secret), engine.control
    if known := memory.keys.recall(secret_hash) or memory.strangers.recall(secret_hash):
        return known.value
    moment = memory.epochs.begin()
    rows = await engine.store.fetch("find_key", secret_hash)
    if not rows or not hmac.compare_digest(bytes(rows[0]["secret_hash"]), secret_hash):
        memory.strangers.keep(secret_hash, None, moment)
        return None
    environment = read_environment(rows[0])
    memory.keys.keep(secret_hash, environment, moment, environment.id)
    return environment


def hash_secret(secret: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def _insert_key(engine: Engine, environment_slug: str, name: str, secret: str) -> Sequence[Any]:
    rows = await engine.home.store.fetch("insert_key", environment_slug, name, hash_secret(secret), secret[-4:])
    await _tell_all(engine, rows)
    return rows


async def _tell_all(engine: Engine, rows: Sequence[Any]) -> None:
    for row in rows:
        await engine.home.notices.control_changed(row["environment_id"])
