"""API keys: shown once, stored as a hash, each good for one environment.

A key holds 256 random bits, so a plain SHA-256 is enough: there is nothing to guess that stretching would slow down.
Found keys are remembered for a second at most, which is how long a revoked key may still be accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

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
    rows = await engine.store.fetch("insert_key", environment_slug, name, hash_secret(secret), secret[-4:])
    return NewKey(rows[0]["id"], secret)


async def ensure_key(engine: Engine, environment_slug: str, secret: str) -> None:
    """Makes ``secret`` a key of an environment unless it is one already. Raises ConfigurationError on a weak one."""
    if not 16 <= len(secret) <= _LONGEST_SECRET:
        raise ConfigurationError(
            "HEADRACE_API_KEY must have 16 to 512 characters: `headrace keys create` makes a good one."
        )
    await engine.store.fetch("insert_key", environment_slug, "HEADRACE_API_KEY", hash_secret(secret), secret[-4:])


async def list_keys(engine: Engine) -> list[KeyView]:
    """All keys, the revoked ones too, in the order in which they were made."""
    return [KeyView(**dict(row)) for row in await engine.store.fetch("list_keys")]


async def revoke_key(engine: Engine, key_id: int) -> bool:
    """Revokes a key; False where there is none with that number, or it was revoked before."""
    return bool(await engine.store.fetch("revoke_key", key_id))


async def find_key_environment(engine: Engine, secret: str) -> Environment | None:
    """The environment that ``secret`` is a live key of, or None."""
    if len(secret) > _LONGEST_SECRET:
        return None
    secret_hash = hash_secret(secret)
    if known := engine.keys.recall(secret_hash):
        return known
    rows = await engine.store.fetch("find_key", secret_hash)
    if not rows or not hmac.compare_digest(bytes(rows[0]["secret_hash"]), secret_hash):
        return None
    environment = read_environment(rows[0])
    engine.keys.keep(secret_hash, environment)
    return environment


def hash_secret(secret: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
