"""``headrace doctor``: what is wrong with this installation, in plain words, and what to do about it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, Literal

import asyncpg
import httpx2

from headrace.cli.options import ApiUrl, DatabaseUrl, Json
from headrace.cli.outcome import FAILED, OK
from headrace.cli.output import out, print_json, print_table
from headrace.engine.registry import name_new_stores, name_stores, read_registry
from headrace.errors import ConfigurationError
from headrace.payloads import Payloads, PayloadStoreError
from headrace.settings import Settings
from headrace.store.checks import Examined, examine_stores
from headrace.store.embedded import has_embedded
from headrace.store.migrate import find_missing_migrations
from headrace.store.statements import load_sql
from headrace.store.store import DATABASE_ERRORS

OLDEST_PYTHON: Final = (3, 11)
OLDEST_POSTGRES: Final = 150_000
LONG_TRANSACTION: Final = 300.0
"""Seconds after which an open transaction is worth a word."""

MANY_DEAD: Final = 100_000
SKEW: Final = 2.0
_TIMEOUT: Final = 5.0
_OF_HOME: Final = frozenset({"listen", "pooler", "isolation", "encoding", "timeout", "same-database"})

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: how it went, what was seen, and what to do where it did not go well."""

    check: str
    state: State
    seen: str
    todo: str = ""


def doctor(
    *,
    json: Json = False,
    database_url: DatabaseUrl = None,
    api_url: ApiUrl = None,
) -> int:
    """Look at this installation and say what is wrong with it. Exit code 1 where a check fails; a warning is none."""
    findings = asyncio.run(examine(Settings.from_environment(database_url=database_url, api_url=api_url)))
    counts = {state: sum(finding.state == state for finding in findings) for state in ("warn", "fail")}
    if json:
        print_json(findings)
    else:
        print_table(["check", "", "seen"], [[found.check, found.state, _describe(found)] for found in findings])
        out.print(f"{counts['fail']} failed, {counts['warn']} to look at" if any(counts.values()) else "All is well.")
    return FAILED if counts["fail"] else OK


async def examine(settings: Settings) -> list[Finding]:
    """All checks, each whatever came of the others."""
    return [
        judge_python(sys.version_info[:2]),
        judge_embedded(installed=has_embedded(), needed=not settings.database_url),
        await _examine_payloads(settings),
        *await _examine_database(settings),
        *await _examine_stores(settings),
        await _examine_server(settings),
    ]


def judge_python(version: tuple[int, ...]) -> Finding:
    """Whether this Python is new enough."""
    seen = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        return Finding("python", "fail", seen, "Use Python 3.11 or newer.")
    return Finding("python", "ok", seen)


def judge_embedded(*, installed: bool, needed: bool) -> Finding:
    """Whether ``headrace dev`` could start a database."""
    if installed:
        return Finding("embedded PostgreSQL", "ok", "installed")
    if not needed:
        return Finding("embedded PostgreSQL", "ok", "not installed; not needed, a database is named")
    return Finding("embedded PostgreSQL", "warn", "not installed", "Install headrace[embedded] to use `headrace dev`.")


def judge_server(facts: Any, here: float) -> Generator[Finding]:
    """What the row of ``examine_database`` tells; ``here`` is this machine's clock when it was asked."""
    if facts["version_number"] < OLDEST_POSTGRES:
        yield Finding("database", "fail", f"PostgreSQL {facts['version']}", "Use PostgreSQL 15 or newer.")
    elif facts["read_only"]:
        yield Finding("database", "fail", "a read-only standby", "Name the primary in HEADRACE_DATABASE_URL.")
    else:
        yield Finding("database", "ok", f"PostgreSQL {facts['version']}")
    if facts["durable"]:
        yield Finding("durability", "ok", "fsync and full_page_writes are on")
    else:
        yield Finding(
            "durability",
            "fail",
            "fsync or full_page_writes is off",
            "Turn both on: without them a crash of the machine loses what was promised.",
        )
    skew = abs(facts["clock"] - here)
    if skew < SKEW:
        yield Finding("clock", "ok", f"{skew:.1f} s from the database's")
    else:
        yield Finding(
            "clock",
            "warn",
            f"{skew:.1f} s from the database's",
            "Synchronise it: dates in options and logs are off by that much (leases are not: they go by the database's).",
        )
    if facts["autovacuum"]:
        yield Finding("autovacuum", "ok", "on")
    else:
        yield Finding("autovacuum", "fail", "off", "Turn it on: without it every claim gets slower and slower.")
    age = facts["oldest_transaction"]
    if age < LONG_TRANSACTION:
        yield Finding("oldest transaction", "ok", f"{age:.0f} s")
    else:
        yield Finding(
            "oldest transaction",
            "warn",
            f"{age:.0f} s",
            "End it (see pg_stat_activity, pg_prepared_xacts): while it is open no dead row can be cleaned up.",
        )
    if facts["idle_slots"]:
        yield Finding(
            "replication slots",
            "warn",
            f"{facts['idle_slots']} that nobody reads from",
            "Drop them: they keep dead rows and the log from being cleaned up.",
        )


def judge_schema(facts: Any) -> Generator[Finding]:
    """What the row of ``examine_schema`` tells."""
    dead, live = facts["dead_rows"], facts["live_rows"]
    if dead < MANY_DEAD or dead < live:
        yield Finding("dead rows", "ok", f"{dead} beside {live} live ones")
    else:
        yield Finding(
            "dead rows",
            "warn",
            f"{dead} beside {live} live ones",
            "Autovacuum falls behind: look for a long transaction, or let it work harder.",
        )
    if facts["workers"]:
        yield Finding("workers", "ok", f"{facts['workers']} alive")
    else:
        yield Finding("workers", "warn", "none alive", "Start one with `headrace worker`: nothing runs until then.")
    if facts["keys"]:
        yield Finding("keys", "ok", f"{facts['keys']} live")
    else:
        yield Finding("keys", "warn", "none", "Make one with `headrace keys create`.")


async def _examine_payloads(settings: Settings) -> Finding:
    where = settings.payload_store or f"{settings.data_dir}/payloads"
    try:
        payloads = Payloads.open(settings)
        path = await payloads.put("doctor", b"the doctor was here")
        try:
            await payloads.get("doctor", path)
        finally:
            await payloads.delete(path)
    except (ConfigurationError, PayloadStoreError) as error:
        return Finding(
            "payload store", "fail", str(error), "Make it writable, or name another with HEADRACE_PAYLOAD_STORE."
        )
    return Finding("payload store", "ok", f"{where} can be written and read")


async def _examine_database(settings: Settings) -> list[Finding]:
    if not settings.database_url:
        todo = "Set HEADRACE_DATABASE_URL, or use `headrace dev`, which starts its own."
        return [Finding("database", "fail", "none is named", todo)]
    try:
        connection: Any = await asyncpg.connect(settings.database_url, timeout=_TIMEOUT, statement_cache_size=0)
    except (*DATABASE_ERRORS, ValueError) as error:
        todo = "Check that it runs and that host, port, user, password and name in HEADRACE_DATABASE_URL are right."
        return [Finding("database", "fail", f"can't be reached: {error or type(error).__name__}", todo)]
    try:
        asked = time.time()
        facts = await connection.fetchrow(load_sql("examine_database"))
        findings = list(judge_server(facts, (asked + time.time()) / 2))
        if facts["version_number"] >= OLDEST_POSTGRES:
            findings += await _examine_schema(connection, settings)
    except DATABASE_ERRORS as error:
        return [Finding("database", "fail", f"broke off: {error or type(error).__name__}", "Look at its log.")]
    finally:
        await connection.close()
    return findings


async def _examine_schema(connection: Any, settings: Settings) -> list[Finding]:
    try:
        missing = await find_missing_migrations(settings.database_url)
    except ConfigurationError as error:
        return [Finding("schema", "fail", str(error))]
    if missing:
        return [Finding("schema", "fail", f"{len(missing)} migration(s) missing", "Run `headrace migrate`.")]
    facts = await connection.fetchrow(load_sql("examine_schema"))
    return [Finding("schema", "ok", "up to date"), *judge_schema(facts)]


async def _examine_stores(settings: Settings) -> list[Finding]:
    """What the other stores are like, and what is wrong with them together. Home by itself was looked at before."""
    try:
        records = await read_registry(settings) if settings.database_url else []
    except (*DATABASE_ERRORS, ConfigurationError):
        return []  # home is away, which is said already
    if not records:
        return []
    named = [
        *name_stores([one for one in records if one.state != "removed"], settings),
        *name_new_stores(records, settings),
    ]
    examined = await examine_stores(named, pooler=settings.pooler, pool_size=settings.pool_size, patience=_TIMEOUT)
    return [*judge_stores(examined)]


def judge_stores(examined: Examined) -> Generator[Finding]:
    """What the checks of all stores tell, of home only what is not told of a database by itself."""
    home = examined.facts[0].name
    for problem in examined.problems:
        if problem.store != home or problem.kind in _OF_HOME:
            grave = problem.weight == "refuse" or problem.kind == "unreachable"
            yield Finding(f"store {problem.store}", "fail" if grave else "warn", problem.said, problem.todo)
    bad = {problem.store for problem in examined.problems}
    for facts in examined.facts[1:]:
        if facts.name not in bad:
            yield Finding(f"store {facts.name}", "ok", f"PostgreSQL {facts.version} at {facts.place}")


async def _examine_server(settings: Settings) -> Finding:
    try:
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{settings.api_url}/readyz", timeout=_TIMEOUT)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return Finding(
            "server",
            "warn",
            f"{settings.api_url} does not answer: {error or type(error).__name__}",
            "Start `headrace server`, or set HEADRACE_API_URL.",
        )
    if answer.status_code != 200:
        return Finding("server", "fail", f"{settings.api_url} is not ready: {answer.text[:200]}", "Look at its log.")
    return Finding("server", "ok", f"{settings.api_url} is ready")


def _describe(finding: Finding) -> str:
    return f"{finding.seen}\n{finding.todo}" if finding.todo else finding.seen
