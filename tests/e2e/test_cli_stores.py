"""Stores from the command line: added, weighed, drained, removed, and looked at."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import execute_sql, with_database
from tests.e2e.commands import clean_environment, run_headrace

from headrace.cli.app import run_command
from headrace.cli.local import LocalHeadrace
from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated
from headrace.errors import ConfigurationError
from headrace.ids import format_run_id, mint_run_id, store_of
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from headrace.store.migrate import find_missing_migrations, list_migrations, migrate_database
from headrace.store.places import describe_place

_numbers = itertools.count()

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def make_url(old_postgres: str) -> Generator[Callable[..., str]]:
    """A function that makes a database on PostgreSQL 15, empty unless it says otherwise, and gives its URL."""
    made: list[str] = []

    def make(*, migrated: bool = False) -> str:
        name = f"stored_{next(_numbers)}"
        execute_sql(old_postgres, f"CREATE DATABASE {name}")
        made.append(name)
        url = with_database(old_postgres, name)
        if migrated:
            asyncio.run(migrate_database(url))
        return url

    yield make
    for name in made:
        execute_sql(old_postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def command(database_url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on home's database and gives its exit code and what it printed. Stores open at once."""
    for name, value in {"DATABASE_URL": database_url, "STORE_GRACE": "0", "STORE_PATIENCE": "10"}.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)
    monkeypatch.delenv("HEADRACE_STORES", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command(arguments)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


def tell(command: Command, *arguments: str, code: int = 0) -> Any:
    """What a command says as JSON."""
    found, said, wrong = command(*arguments, "--json")
    assert found == code, (said, wrong)
    return json.loads(said)


def test_one_database_is_one_store(command: Command, database_url: str) -> None:
    assert tell(command, "stores", "list") == [
        {
            "name": "home", "key": "0", "place": describe_place(database_url), "state": "active", "weight": 1.0,
            "takesRoots": True, "opensIn": 0.0, "legacy": False, "openRuns": 0, "counted": 100_000,
            "failure": None,
        }
    ]  # fmt: skip
    code, said, wrong = command("stores", "check")
    assert (code, wrong) == (0, "")
    assert said.splitlines()[1].split()[-1] == "well"


def test_a_database_is_migrated_added_and_given_roots(command: Command, make_url: Callable[..., str]) -> None:
    url = make_url()
    code, _, wrong = command("stores", "add", "s1", url)
    assert code == 3
    assert "stores add NAME URL --migrate" in wrong
    code, said, wrong = command("stores", "add", "s1", url, "--migrate", "--weight", "3")
    assert (code, wrong) == (0, "")
    assert (
        said == f"Store s1 is {describe_place(url)}, key 1. New roots go there in 0 s, when every process knows it.\n"
    )
    assert execute_sql(url, "SELECT key, name FROM headrace.identity")[0][:] == ("1", "s1")
    assert tell(command, "stores", "add", "s1", url)["added"] is False
    listed = command("stores", "list")[1].splitlines()
    assert [line.split()[0] for line in listed] == ["name", "home", "s1"]
    assert [word for line in listed for word in line.split() if word.endswith("%")] == ["25%", "75%"]
    assert "gets 50% of new roots" in command("stores", "weight", "s1", "1")[1]
    assert "gets none of new roots" in command("stores", "weight", "s1", "0")[1]


def test_what_can_be_no_store_is_refused_in_words(
    command: Command, make_url: Callable[..., str], database_url: str, old_postgres: str
) -> None:
    url = make_url(migrated=True)
    assert command("stores", "add", "s1", url)[0] == 0
    used = make_url(migrated=True)
    execute_sql(
        used, "INSERT INTO headrace.api_keys (environment_id, name, secret_hash, hint) VALUES (1, 'n', '\\x00', 'h')"
    )
    refusals = {
        ("s2", url): (3, "is the store 's1' of this installation already"),
        ("s2", database_url): (3, "is the store 'home' of this installation already"),
        ("s2", used): (3, "holds API keys already"),
        ("s2", "postgresql://app:sekret@127.0.0.1:1/runs"): (3, "'s2' (127.0.0.1:1/runs) can't be reached"),
        ("s2", "postgresql://app:sek/ret@db1/runs"): (3, "its URL can't be read"),
        ("s2", "mysql://db1/runs"): (2, "must be postgresql://"),
        ("home", make_url()): (2, "not be home"),
        ("S2", make_url()): (2, "'S2'"),
        ("s1", make_url(migrated=True)): (3, "never been made a store"),
    }
    for (name, given), (code, said) in refusals.items():
        found, out, wrong = command("stores", "add", name, given)
        assert (found, out, said in wrong) == (code, "", True), (name, given, wrong)
        assert "sek" not in wrong
    strange = make_url()
    execute_sql(strange, "CREATE SCHEMA headrace")
    code, _, wrong = command("stores", "add", "s2", strange, "--migrate")
    assert (code, "a schema named headrace that headrace did not make" in wrong) == (3, True)
    assert [one["name"] for one in tell(command, "stores", "list")] == ["home", "s1"]


def test_a_wrong_database_in_a_stores_place_is_not_migrated(command: Command, make_url: Callable[..., str]) -> None:
    assert command("stores", "add", "s1", make_url(migrated=True))[0] == 0
    other = make_url()
    code, _, wrong = command("stores", "add", "s1", other, "--migrate")
    assert (code, "leads to the database that was added as 's1'" in wrong) == (3, True)
    assert len(asyncio.run(find_missing_migrations(other))) == len(list_migrations())


def test_a_store_is_given_another_url(command: Command, make_url: Callable[..., str], database_url: str) -> None:
    """As when a database has moved to another host or has another password: it is the same store."""
    url = make_url()
    assert command("stores", "add", "s1", url, "--migrate")[0] == 0
    assert "was there already" in command("stores", "add", "s1", url + "&application_name=moved")[1]
    [row] = execute_sql(database_url, "SELECT url FROM headrace.stores WHERE name = 's1'")
    assert row["url"].endswith("application_name=moved")


def test_a_url_need_not_be_in_the_registry(
    command: Command, make_url: Callable[..., str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(migrated=True)
    code, _, wrong = command("stores", "add", "s1", url, "--no-keep-url")
    assert (code, "HEADRACE_STORES=s1=" in wrong) == (0, True)
    assert [row["url"] for row in execute_sql(database_url, "SELECT url FROM headrace.stores")] == [None, None]
    assert "no URL is known" in tell(command, "stores", "list")[1]["failure"]
    monkeypatch.setenv("HEADRACE_STORES", f"s1={url}")
    assert tell(command, "stores", "list")[1]["failure"] is None


def test_a_line_of_configuration_makes_a_store(
    command: Command, make_url: Callable[..., str], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url()
    monkeypatch.setenv("HEADRACE_STORES", f"s1={url}")
    code, _, wrong = command("stores", "list")
    assert (code, "store 's1'" in wrong, "Run `headrace migrate`" in wrong) == (0, True, True)
    [problem] = tell(command, "stores", "check", code=1)["problems"]
    assert (problem["store"], problem["kind"]) == ("s1", "schema")
    with pytest.raises(ConfigurationError, match=r"store 's1'.*Run `headrace migrate`"):
        start_process(Settings(database_url=database_url, stores=f"s1={url}"))
    assert [*tell(command, "migrate", "--check", code=1)["stores"]] == ["s1"]
    assert command("migrate")[0] == 0
    assert tell(command, "stores", "check")["problems"] == []
    start_process(Settings(database_url=database_url, stores=f"s1={url}"))
    assert [(one["name"], one["key"]) for one in tell(command, "stores", "list")] == [("home", "0"), ("s1", "1")]
    assert [row["url"] for row in execute_sql(database_url, "SELECT url FROM headrace.stores")] == [None, None]


def test_headrace_dev_makes_the_tables_of_stores_too(
    make_url: Callable[..., str], database_url: str, tmp_path: Path
) -> None:
    url = make_url()
    with LocalHeadrace(Settings(database_url=database_url, stores=f"s1={url}", data_dir=str(tmp_path))):
        assert asyncio.run(find_missing_migrations(url)) == []


def test_a_line_of_configuration_changes_nobody_elses_database(
    command: Command, make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = {"old": make_url(migrated=True), "mine": make_url(migrated=True), "away": "postgresql://a:sek@127.0.0.1:1/x"}
    execute_sql(urls["old"], "DELETE FROM public.headrace_migrations WHERE version > 5")
    execute_sql(urls["mine"], "SELECT headrace.become_store('4', 'theirs', gen_random_uuid())")
    monkeypatch.setenv("HEADRACE_STORES", ",".join(f"{name}={url}" for name, url in urls.items()))
    code, said, wrong = command("migrate")
    assert (code, "store" in said) == (3, False)
    for text in ("of an older version, and was left alone", "is the store 'theirs' already", "can't be asked"):
        assert text in wrong
    assert "sek" not in wrong
    assert len(asyncio.run(find_missing_migrations(urls["old"]))) > 1


def test_a_weight_is_checked_and_given_to_a_store_that_is_there(command: Command, make_url: Callable[..., str]) -> None:
    url = make_url()
    assert command("stores", "add", "s1", url, "--migrate", "--weight", "-1")[0] == 2
    assert command("stores", "add", "s1", url, "--migrate", "--weight", "3")[0] == 0
    assert tell(command, "stores", "add", "s1", url)["weight"] == 3
    assert tell(command, "stores", "add", "s1", url, "--weight", "2")["weight"] == 2


def start_process(settings: Settings) -> None:
    """As servers and workers do."""

    async def run() -> None:
        await (await Engine.open(settings, listen=True)).close()

    asyncio.run(run())


def test_a_store_is_drained_emptied_and_removed(
    command: Command, make_url: Callable[..., str], database_url: str
) -> None:
    url = make_url(migrated=True)
    assert command("stores", "add", "s1", url)[0] == 0
    assert command("stores", "remove", "s1")[0] == 1  # it takes roots still
    assert "home can't be removed" in command("stores", "remove", "home")[2]
    trigger_at(database_url, "1")
    code, said, _ = command("stores", "drain", "s1")
    assert (code, said) == (0, "Store s1 gets no new roots; 1 of its runs are open.\n")
    assert store_of(trigger(database_url)) == "0"
    code, _, wrong = command("stores", "remove", "s1")
    assert code == 1
    assert "still owns 1 runs. Move what it owns first" in wrong
    assert "gets 50% of new roots" in command("stores", "drain", "s1", "--undo")[1]
    assert tell(command, "stores", "drain", "s1")["state"] == "draining"
    execute_sql(url, "DELETE FROM headrace.runs")
    assert tell(command, "stores", "drain", "s1", "--wait")["openRuns"] == 0
    assert tell(command, "stores", "remove", "s1") == {"name": "s1", "state": "removed"}
    assert command("stores", "remove", "s1")[0] == 0  # nothing happens
    with pytest.raises(Exception, match="runs_removed"):
        trigger_here(url, "1")
    assert "was the name of a store that was removed" in command("stores", "add", "s1", make_url(migrated=True))[2]
    assert "of this installation already" in command("stores", "add", "s2", url)[2]
    assert command("stores", "add", "s2", make_url(migrated=True))[0] == 0
    assert [(one["name"], one["key"]) for one in tell(command, "stores", "list")][1:] == [("s1", "1"), ("s2", "2")]


def test_trees_are_moved(command: Command, make_url: Callable[..., str], database_url: str) -> None:
    assert command("stores", "add", "s1", make_url(migrated=True))[0] == 0
    assert command("stores", "weight", "home", "0")[0] == 0
    ids = [format_run_id(trigger(database_url)) for _ in range(3)]
    assert {run_id[-2] for run_id in ids} == {"1"}
    assert command("stores", "move", "--root", ids[0], "--to", "home")[:2] == (0, "1 trees were moved to home.\n")
    assert tell(command, "stores", "move", "--root", ids[0], "--to", "home")["moved"] == 0  # it is there
    assert tell(command, "stores", "move", "--older-than", "1h", "--to", "home")["moved"] == 0
    assert [one["openRuns"] for one in tell(command, "stores", "list")] == [1, 2]
    assert command("stores", "drain", "s1")[0] == 0
    assert tell(command, "stores", "move", "--all-from", "s1", "--to", "home") == {
        "to": "home", "moved": 2, "heldUp": 0, "first": []
    }  # fmt: skip
    assert command("stores", "remove", "s1")[0] == 0
    assert [one.get("openRuns") for one in tell(command, "stores", "list")] == [3, None]
    refusals = {
        ("--root", ids[0], "--to", "s1"): (4, "There is no store 's1'"),
        ("--all-from", "s9", "--to", "home"): (4, "There is no store 's9'"),
        ("--all-from", "home", "--to", "home"): (2, "name another store"),
        ("--root", "run_x", "--to", "home"): (2, "'run_x' is the id of no run, batch or token"),
        ("--root", format_run_id(mint_run_id()), "--to", "home"): (4, "in any store"),
        ("--to", "home"): (2, "Say what to move"),
        ("--root", ids[0], "--all-from", "s1", "--to", "home"): (2, "Say what to move"),
        ("--older-than", "long", "--to", "home"): (2, "--older-than"),
    }
    for arguments, (code, said) in refusals.items():
        found, _, wrong = command("stores", "move", *arguments)
        assert (found, said in wrong) == (code, True), (arguments, wrong)


def test_what_can_not_go_yet_is_named_and_keeps_its_store(
    command: Command, make_url: Callable[..., str], database_url: str
) -> None:
    urls = [make_url(migrated=True), make_url(migrated=True)]
    for number, url in enumerate(urls, 1):
        assert command("stores", "add", f"s{number}", url)[0] == 0
    for name in ("home", "s2"):
        assert command("stores", "weight", name, "0")[0] == 0
    trigger(database_url)
    execute_sql(urls[0], "/* forced */ UPDATE headrace.runs SET status = 'EXECUTING', attempt = 1, worker_id = 1")
    moved = tell(command, "stores", "move", "--all-from", "s1", "--to", "s2")
    assert (moved["moved"], moved["heldUp"]) == (0, 1)
    assert (moved["first"][0]["from"], "executing" in moved["first"][0]["why"]) == ("s1", True)
    assert "can't go yet" in command("stores", "move", "--all-from", "s1", "--to", "s2")[1]
    assert command("stores", "drain", "s2")[0] == 0
    code, _, wrong = command("stores", "remove", "s2")
    assert (code, "1 trees of other stores are being moved to s2" in wrong) == (1, True)
    trigger_here(urls[1], "2")  # it is open again: nothing of it is refused


def test_a_removal_waits_for_who_writes_and_then_sees_it(command: Command, make_url: Callable[..., str]) -> None:
    """A process that has not heard that the store is drained is about to commit a run there."""
    url = make_url(migrated=True)
    assert command("stores", "add", "s1", url)[0] == 0
    assert command("stores", "drain", "s1")[0] == 0
    began, told = threading.Event(), threading.Event()

    async def write() -> None:
        import asyncpg  # noqa: PLC0415

        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute(INSERT, mint_run_id("1"))
            began.set()
            await asyncio.to_thread(told.wait, 20)
        await connection.close()

    writer = threading.Thread(target=lambda: asyncio.run(write()))
    writer.start()
    assert began.wait(20)
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'headrace.runs'::regclass"
    teller = threading.Thread(target=lambda: _when(lambda: execute_sql(url, waits)[0][0] == 1, told))
    teller.start()
    code, _, wrong = command("stores", "remove", "s1")
    writer.join()
    teller.join()
    assert (code, "still owns 1 runs" in wrong) == (1, True)
    assert tell(command, "stores", "list")[1]["state"] == "draining"


def _when(condition: Callable[[], bool], event: threading.Event) -> None:
    while not condition():
        pass
    event.set()


def test_what_is_wrong_is_found_and_told_everywhere(
    command: Command, make_url: Callable[..., str], database_url: str
) -> None:
    urls = [make_url(migrated=True), make_url(migrated=True)]
    for number, url in enumerate(urls, 1):
        assert command("stores", "add", f"s{number}", url)[0] == 0
    assert tell(command, "stores", "check")["problems"] == []
    execute_sql(database_url, "UPDATE headrace.stores SET url = $1 WHERE name = 's2'", urls[0])
    code, said, _ = command("stores", "check")
    assert code == 1
    assert "are one and the same database" in said
    assert [line.split()[-1] for line in said.splitlines()[1:4]] == ["well", "well", "refused"]
    found = tell(command, "stores", "check", code=1)
    assert {(one["store"], one["kind"]) for one in found["problems"]} == {("s2", "identity"), ("s2", "same-database")}
    findings = tell(command, "doctor", code=1)
    stores = [(one["check"], one["state"]) for one in findings if one["check"].startswith("store ")]
    assert stores == [("store s2", "fail"), ("store s2", "fail"), ("store s1", "ok")]


def test_one_store_down_hides_no_other(command: Command, make_url: Callable[..., str], database_url: str) -> None:
    assert command("stores", "add", "s1", make_url(migrated=True))[0] == 0
    execute_sql(
        database_url, "UPDATE headrace.stores SET url = 'postgresql://a:sekret@127.0.0.1:1/x' WHERE name = 's1'"
    )
    code, said, _ = command("stores", "list")
    assert code == 0
    assert "Connect call failed" in said
    assert "sekret" not in said
    assert tell(command, "stores", "list")[1]["failure"]
    assert command("stores", "check")[0] == 1
    code, _, wrong = command("stores", "move", "--all-from", "s1", "--to", "home")
    assert (code, "Moving from s1 to home broke off" in wrong, "sekret" in wrong) == (3, True, False)
    code, _, wrong = command("stores", "move", "--root", format_run_id(mint_run_id("1")), "--to", "home")
    assert (code, "to home broke off" in wrong) == (3, True)
    assert command("stores", "remove", "s1")[0] == 1
    assert command("stores", "drain", "s1")[0] == 0
    assert command("stores", "remove", "s1")[0] == 3


def test_migrate_brings_all_stores_to_one_schema(
    command: Command, make_url: Callable[..., str], database_url: str
) -> None:
    url = make_url(migrated=True)
    assert command("stores", "add", "s1", url)[0] == 0
    last = list_migrations()[-1]
    execute_sql(url, "DELETE FROM public.headrace_migrations WHERE version = $1", last.version)
    name = f"{last.version:04d}_{last.name}"
    assert tell(command, "migrate", "--check", code=1) == {"missing": [], "stores": {"s1": [name]}, "failed": {}}
    assert f"store s1: missing: {name}" in command("migrate", "--check")[1]
    execute_sql(url, "INSERT INTO public.headrace_migrations VALUES ($1, $2, $3)", last.version, last.name, last.sha256)
    assert command("migrate")[0] == 0
    execute_sql(url, "UPDATE headrace.identity SET key = '5'")
    code, _, wrong = command("migrate")
    assert (code, "is not that store, and was left alone" in wrong) == (3, True)
    execute_sql(
        database_url, "UPDATE headrace.stores SET url = 'postgresql://a:sekret@127.0.0.1:1/x' WHERE name = 's1'"
    )
    code, said, wrong = command("migrate")
    assert (code, "Nothing to do" in said, "can't be asked" in wrong, "sekret" in wrong) == (3, True, True, False)


def test_what_is_asked_wrongly_has_its_exit_code(command: Command) -> None:
    for arguments in (("weight", "s9", "1"), ("drain", "s9"), ("remove", "s9")):
        code, _, wrong = command("stores", *arguments)
        assert (code, "There is no store 's9'" in wrong) == (4, True)
    assert command("stores", "weight", "home", "-1")[0] == 2
    assert command("stores", "weight", "home", "heavy")[0] == 2
    assert command("stores", "drain", "home")[2] == "No store takes new roots now: they go to home.\n"


def test_it_is_a_command_like_others(database_url: str) -> None:
    listed = run_headrace("stores", "list", env=clean_environment(database_url=database_url))
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.split()[:3] == ["name", "key", "place"]
    assert (
        run_headrace("stores", "list", env=clean_environment(database_url="postgresql://127.0.0.1:1/x")).returncode == 3
    )


INSERT = """
INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at)
VALUES (1, 1, $1, 'QUEUED', now(), now(), now())
"""


def trigger_here(url: str, key: str) -> None:
    execute_sql(url, INSERT, mint_run_id(key))


def trigger_at(database_url: str, key: str) -> None:
    """Triggers until a run is in the store with this key; the others are forgotten."""
    while store_of(trigger(database_url)) != key:
        execute_sql(database_url, "DELETE FROM headrace.runs")


def trigger(database_url: str) -> Any:
    async def run() -> Any:
        engine = await Engine.open(Settings(database_url=database_url, store_grace=0))
        try:
            made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions())
            assert isinstance(made, RunCreated)
            return made.run_id
        finally:
            await engine.close()

    return asyncio.run(run())
