"""Several databases used as one system: what is refused before anything is lost, and in which words."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import uuid
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headrace.engine.engine import Engine
from headrace.engine.registry import add_store
from headrace.errors import ConfigurationError
from headrace.settings import Settings
from headrace.store.checks import (
    Examined,
    NamedStore,
    StoreFacts,
    WrongStoreError,
    examine_stores,
    expect_store,
    find_same_database,
    judge_clocks,
    judge_facts,
)
from headrace.store.migrate import migrate_database
from headrace.store.places import describe_failure, describe_place
from headrace.store.store import UnreachableError
from tests.conftest import execute_sql, with_database
from tests.pgbouncer import running_pgbouncer
from tests.postgres_15 import OldPostgres, running_old_postgres

pytestmark = pytest.mark.anyio

_numbers = itertools.count()


@pytest.fixture
def make_database(old_postgres: str) -> Generator[Callable[..., str]]:
    """A function that makes a database on PostgreSQL 15, migrated unless it says otherwise, and gives its URL."""
    made: list[str] = []

    def make(*, migrated: bool = True, options: str = "") -> str:
        name = f"checked_{next(_numbers)}"
        execute_sql(old_postgres, f"CREATE DATABASE {name} {options}")
        made.append(name)
        url = with_database(old_postgres, name)
        if migrated:
            asyncio.run(migrate_database(url))
        return url

    yield make
    for name in made:
        execute_sql(old_postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store_url(make_database: Callable[..., str]) -> str:
    """A migrated database on PostgreSQL 15; home's is on 18."""
    return make_database()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, store_grace=0.0, store_patience=10.0, sweep_interval=60.0)


@pytest.fixture
async def fleet(settings: Settings, store_url: str) -> AsyncGenerator[Fleet]:
    """Home and the store s1."""
    engine = await Engine.open(settings)
    try:
        await add_store(engine, "s1", store_url)
        yield Fleet(settings, engine.fleet, store_url)
    finally:
        await engine.close()


class Fleet:
    """An installation with the stores home and s1, and what the checks say of it when it is named so or so."""

    def __init__(self, settings: Settings, fleet: uuid.UUID, url: str) -> None:
        self.settings = settings
        self.id = fleet
        self.home = NamedStore("home", settings.database_url, "0")
        self.s1 = NamedStore("s1", url, "1")

    async def examine(self, *stores: NamedStore, **given: Any) -> Examined:
        return await examine_stores(stores or (self.home, self.s1), fleet=self.id, **{"patience": 10.0, **given})

    async def find(self, *stores: NamedStore, **given: Any) -> list[tuple[str, str, str]]:
        """Store, kind and weight of every problem."""
        return [(one.store, one.kind, one.weight) for one in (await self.examine(*stores, **given)).problems]


async def test_two_majors_side_by_side_have_nothing_wrong(fleet: Fleet) -> None:
    found = await fleet.examine()
    assert found.problems == []
    assert [facts.version_number // 10_000 for facts in found.facts] == [18, 15]
    assert [facts.identity.key for facts in found.facts if facts.identity] == ["0", "1"]
    assert None not in {facts.system for facts in found.facts}


async def test_two_names_of_one_database_are_refused(fleet: Fleet) -> None:
    twin = NamedStore("s2", fleet.s1.url + "&application_name=another", "2")
    problems = [one for one in (await fleet.examine(fleet.home, fleet.s1, twin)).refused if one.kind == "same-database"]
    assert [one.store for one in problems] == ["s2"]
    for text in ("'s1'", "'s2'", describe_place(fleet.s1.url), "a database of its own"):
        assert text in str(problems[0])
    home_again = replace(fleet.home, name="s3", key="3")
    assert ("s3", "same-database", "refuse") in await fleet.find(fleet.home, home_again)


async def test_they_are_refused_too_where_nobody_may_ask_for_the_cluster(fleet: Fleet) -> None:
    """As on a managed service: no superuser, and no right to the one number that would tell."""
    role = f"checker_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(fleet.s1.url)
    try:
        await connection.execute(
            f"CREATE ROLE {role} LOGIN; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;"
            f"GRANT USAGE ON SCHEMA headrace TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA headrace, public TO {role}"
        )
        asked = NamedStore("s1", fleet.s1.url.replace("postgres@", f"{role}@"), "1")
        found = await fleet.examine(fleet.home, asked)
        assert (found.problems, found.facts[1].system) == ([], None)
        assert await fleet.find(fleet.home, fleet.s1, replace(asked, name="s2")) == [("s2", "same-database", "refuse")]
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def test_a_restored_copy_is_another_database_though_all_its_names_are_the_same() -> None:
    with (
        running_old_postgres() as one,
        tempfile.TemporaryDirectory(prefix="hr-15-", ignore_cleanup_errors=True) as folder,
    ):
        one.stop()
        copy = Path(folder)
        shutil.copystat(Path(one.folder), copy)
        shutil.copytree(one.folder / "data", copy / "data", copy_function=_copy_owned)
        _copy_owners(one.folder, copy)
        other = OldPostgres(copy)
        try:
            connections = [await asyncpg.connect(server.start()) for server in (one, other)]
            systems = {await one.fetchval("SELECT system_identifier FROM pg_control_system()") for one in connections}
            assert len(systems) == 1
            assert not await find_same_database(*connections)
            connections.append(await asyncpg.connect(one.url))
            assert await find_same_database(connections[0], connections[2])
            for connection in connections:
                await connection.close()
        finally:
            other.stop()


def _copy_owned(source: str, target: str) -> str:
    return shutil.copy2(source, target)


def _copy_owners(source: Path, target: Path) -> None:
    owner = source.stat()
    for path in [target, *target.rglob("*")]:
        shutil.chown(path, owner.st_uid, owner.st_gid)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("DELETE FROM public.headrace_migrations WHERE version = (SELECT max(version) FROM public.headrace_migrations)",
         "lacks migrations"),
        ("INSERT INTO public.headrace_migrations VALUES (9999, 'later', 'x')", "Install the headrace that"),
        ("UPDATE public.headrace_migrations SET sha256 = 'other' WHERE version = 3", "start with a fresh one"),
    ],
    ids=["older", "newer", "other"],
)  # fmt: skip
async def test_another_schema_is_refused(fleet: Fleet, change: str, said: str) -> None:
    await execute(fleet.s1.url, change)
    [problem] = (await fleet.examine()).problems
    assert (problem.store, problem.kind, problem.weight) == ("s1", "schema", "refuse")
    assert said in problem.said
    assert ("`headrace migrate`" in problem.todo) == (said == "lacks migrations")


async def test_an_empty_database_in_a_stores_place_is_refused(fleet: Fleet, old_postgres: str) -> None:
    [problem] = (await fleet.examine(fleet.home, replace(fleet.s1, url=old_postgres))).problems
    assert (problem.kind, problem.weight) == ("schema", "refuse")
    assert "leads to the database that was added as 's1'" in problem.todo


@pytest.mark.parametrize(
    ("statement", "kind", "said"),
    [
        ("SELECT headrace.become_store('7', 's7', fleet) FROM headrace.identity", "identity", "says that it is the store 's7'"),
        ("SELECT headrace.become_store('1', 's1', gen_random_uuid())", "fleet", "of another installation"),
        ("SELECT headrace.become_store('0', 'home', gen_random_uuid())", "identity", "never been made a store"),
        ("DELETE FROM headrace.identity", "identity", "does not say which store it is"),
    ],
    ids=["another key", "another fleet", "never added", "no row"],
)  # fmt: skip
async def test_another_store_in_a_stores_place_is_refused(fleet: Fleet, statement: str, kind: str, said: str) -> None:
    await execute(fleet.s1.url, statement)
    [problem] = (await fleet.examine()).problems
    assert (problem.store, problem.kind, problem.weight) == ("s1", kind, "refuse")
    assert said in problem.said


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("default_transaction_read_only = on", "read-only"),
        ("default_transaction_isolation = 'serializable'", "isolation"),
        ("statement_timeout = '4s'", "timeout"),
    ],
)
async def test_settings_of_a_database_that_would_lose_sweeps_are_refused(fleet: Fleet, setting: str, kind: str) -> None:
    database = describe_place(fleet.s1.url).rpartition("/")[2]
    await execute(fleet.s1.url, f"ALTER DATABASE {database} SET {setting}")
    assert await fleet.find() == [("s1", kind, "refuse")]


async def test_other_faults_of_a_server_are_named() -> None:
    well = StoreFacts("s1", "db1/runs", "1", version_number=150_020, version="15.20")
    faults = {
        "version": {"version_number": 140_010, "version": "14.10"},
        "encoding": {"encoding": "SQL_ASCII"},
        "pooler": {"pooled": True},
        "connections": {"max_connections": 9},
    }
    for kind, change in faults.items():
        found = judge_facts(replace(well, schema_fault="-", **change), fleet=uuid.uuid4(), pooler="none", pool_size=10)
        problem = next(iter(found))
        assert (problem.kind, problem.weight) == (kind, "warn" if kind == "connections" else "refuse")
        assert problem.todo
    late = judge_clocks(
        [replace(well, skew=0.1), replace(well, name="s2", skew=2.0), replace(well, name="s3", skew=-3.0)]
    )
    assert [(one.store, one.weight) for one in late] == [("s3", "warn")]


async def test_a_store_that_is_away_is_told_of_and_refuses_nobody(fleet: Fleet, settings: Settings) -> None:
    away = NamedStore("s2", "postgresql://app:sekret@127.0.0.1:1/runs", "2")
    found = await fleet.examine(fleet.home, fleet.s1, away)
    [problem] = found.problems
    assert (problem.store, problem.kind, problem.weight) == ("s2", "unreachable", "warn")
    assert "127.0.0.1:1/runs" in problem.said
    assert "sekret" not in repr(found)


async def test_a_store_that_is_frozen_holds_a_start_up_no_longer_than_it_may(fleet: Fleet) -> None:
    with running_old_postgres() as server:
        server.freeze()
        try:
            async with asyncio.timeout(30):
                assert await fleet.find(fleet.home, NamedStore("s2", server.url, "2"), patience=0.3) == [
                    ("s2", "unreachable", "warn")
                ]
        finally:
            server.thaw()


@pytest.fixture
def pooled_url(store_url: str, tmp_path: Path) -> Generator[str]:
    """The database of s1, through a pooler."""
    with running_pgbouncer(store_url, tmp_path / "pgbouncer") as url:
        yield url


async def test_hints_that_nobody_would_hear_are_refused(fleet: Fleet, pooled_url: str) -> None:
    pooled = replace(fleet.s1, url=pooled_url)
    assert await fleet.find(fleet.home, pooled) == [("s1", "pooler", "refuse")]
    assert await fleet.find(fleet.home, pooled, pooler="transaction") == []  # nobody listens, all are polled
    heard = replace(fleet.home, listen_url=fleet.home.url)
    assert await fleet.find(heard, pooled, pooler="transaction") == [("s1", "listen", "refuse")]
    assert await fleet.find(heard, replace(pooled, listen_url=fleet.s1.url), pooler="transaction") == []
    deaf = replace(pooled, listen_url=pooled_url)
    assert await fleet.find(heard, deaf, pooler="transaction") == [("s1", "listen", "refuse")]
    elsewhere = replace(pooled, listen_url=fleet.home.url)
    assert await fleet.find(heard, elsewhere, pooler="transaction") == [("s1", "listen", "refuse")]
    away = replace(pooled, listen_url="postgresql://127.0.0.1:1/runs")
    assert await fleet.find(heard, away, pooler="transaction") == [("s1", "listen", "warn")]


async def test_a_process_that_serves_does_not_start_with_what_is_refused_and_a_command_does(fleet: Fleet) -> None:
    swapped = replace(fleet.settings, stores=f"s1={fleet.home.url}")
    with pytest.raises(ConfigurationError, match=r"(?s)one and the same database.*headrace stores check"):
        await Engine.open(swapped, listen=True)
    command = await Engine.open(swapped)
    try:
        answers = await command.stores.gather(lambda engine: engine.store.fetch("read_identity"))
        assert ([row["key"] for [row] in answers.answers], answers.missing) == (["0"], ["s1"])
    finally:
        await command.close()


async def test_a_store_that_was_away_at_the_start_is_looked_at_when_it_comes(fleet: Fleet, old_postgres: str) -> None:
    """It comes back as another database, which no statement must reach, and then as what it was."""
    name = describe_place(fleet.s1.url).rpartition("/")[2]
    server = await asyncpg.connect(old_postgres)
    rename = "ALTER DATABASE {} RENAME TO {}"
    engine = None
    try:
        await server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        await server.execute(rename.format(name, "put_aside"))
        engine = await Engine.open(replace(fleet.settings, stores=f"s1={fleet.s1.url}"), listen=True)
        [_, other] = engine.stores.all()
        with pytest.raises(UnreachableError, match="does not exist"):
            await other.store.fetch("read_identity")
        await server.execute(f"CREATE DATABASE {name}")
        with pytest.raises(WrongStoreError, match="'s1' is no store of headrace"):
            await other.store.fetch("read_identity")
        await migrate_database(fleet.s1.url)
        with pytest.raises(WrongStoreError, match="'s1' is another store"):
            await other.store.fetch("read_identity")
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.execute(rename.format("put_aside", name))
        [row] = await other.store.fetch("read_identity")
        assert row["key"] == "1"
    finally:
        if engine is not None:
            await engine.close()
        await server.close()


async def test_only_the_first_connection_to_a_store_asks_for_its_schema(fleet: Fleet) -> None:
    """Processes of the old version go on while a newer one's migration comes; new ones of the old version don't start."""
    url = fleet.s1.url
    connect = expect_store("s1", url, "1", fleet.id)
    first = await connect(url)
    await first.execute("INSERT INTO public.headrace_migrations VALUES (9999, 'later', 'x')")
    await first.close()
    await (await connect(url)).close()
    with pytest.raises(WrongStoreError, match="version 9999"):
        await expect_store("s1", url, "1", fleet.id)(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [("", "no URL is known for store 's1'"), ("postgresql://app:sek/ret@db1/x", "its URL can't be read")],
)
async def test_a_store_whose_url_is_of_no_use_is_away_and_no_more(fleet: Fleet, url: str, said: str) -> None:
    await execute(fleet.home.url, f"UPDATE headrace.stores SET url = '{url}' WHERE key = '1'")
    engine = await Engine.open(fleet.settings)
    try:
        answers = await engine.stores.gather(lambda one: one.store.fetch("read_identity"))
        assert (len(answers.answers), answers.missing) == (1, ["s1"])
        with pytest.raises(WrongStoreError, match=said):
            await engine.stores.all()[1].store.fetch("read_identity")
    finally:
        await engine.close()
    if not url:
        with pytest.raises(ConfigurationError, match="Set HEADRACE_STORES=s1=postgresql://"):
            await Engine.open(fleet.settings, listen=True)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://app:sekret@db1.example:6432/runs?sslmode=require", "db1.example:6432/runs"),
        ("postgresql://app:sek@ret@db1/runs", "db1/runs"),
        ("postgresql://app@/runs?host=/run/postgresql&password=sekret", "/run/postgresql/runs"),
        ("postgresql://h1:1,h2:2/runs", "h1:1,h2:2/runs"),
        ("postgresql://app:sek/ret@db1/runs", "a URL that can't be read"),
        ("postgresql://app:sek#ret@db1/runs", "a URL that can't be read"),
        ("postgresql://app:sek?ret@db1/runs", "a URL that can't be read"),
        ("sekret", "a URL that can't be read"),
    ],
)
def test_a_place_is_told_without_its_password(url: str, place: str) -> None:
    assert describe_place(url) == place
    with pytest.raises((OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError)) as refused:
        asyncio.run(asyncpg.connect(url, timeout=0.5))
    assert "sek" not in describe_failure(refused.value, url)


def test_what_a_server_says_is_told_without_the_password() -> None:
    error = asyncpg.InvalidPasswordError('password "s%40crt" of s@crt was wrong')
    assert describe_failure(error, "postgresql://app:s%40crt@db1/runs") == 'password "***" of *** was wrong'


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
