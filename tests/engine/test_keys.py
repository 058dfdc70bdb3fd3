"""Keys are shown once and stored hashed; a revoked one is refused within a second."""

from __future__ import annotations

import asyncio
import time

import pytest

from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio


async def test_a_key_is_found_by_its_secret_which_is_nowhere_stored(engine: Engine) -> None:
    """Invariant 11."""
    made = await keys.create_key(engine, "staging", "ci")
    found = await keys.find_key_environment(engine, made.secret)
    assert found is not None
    assert found.slug == "staging"
    [row] = await fetch_sql(engine.home, "SELECT to_jsonb(k)::text AS text, secret_hash FROM headrace.api_keys AS k")
    body = made.secret.removeprefix("hr_staging_")
    assert body not in row["text"]
    assert body.encode() not in bytes(row["secret_hash"])
    assert made.secret not in repr(made)
    assert made.secret not in repr(await keys.list_keys(engine))


@pytest.mark.parametrize("secret", ["", "hr_dev_wrong", "\0", "x" * 10_000, "\ud800"])
async def test_what_is_no_key_finds_nothing(engine: Engine, secret: str) -> None:
    await keys.create_key(engine, "dev", "one")
    assert await keys.find_key_environment(engine, secret) is None


async def test_a_revoked_key_is_refused_within_a_second(engine: Engine) -> None:
    made = await keys.create_key(engine, "dev", "one")
    assert await keys.find_key_environment(engine, made.secret)
    assert await keys.revoke_key(engine, made.id)
    assert not await keys.revoke_key(engine, made.id)
    revoked = time.monotonic()
    looked = revoked
    while await keys.find_key_environment(engine, made.secret):
        assert looked < revoked + 1.0  # when it began to look: what it remembers then is older than the key's end
        await asyncio.sleep(0.02)
        looked = time.monotonic()


async def test_the_key_of_the_first_start_is_made_once_and_may_not_be_weak(engine: Engine) -> None:
    await keys.ensure_key(engine, "dev", "a-good-long-secret")
    await keys.ensure_key(engine, "dev", "a-good-long-secret")
    assert len(await keys.list_keys(engine)) == 1
    with pytest.raises(ConfigurationError, match="16 to 512"):
        await keys.ensure_key(engine, "dev", "short")


async def test_a_key_of_no_environment_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="no environment"):
        await keys.create_key(engine, "nowhere", "one")
