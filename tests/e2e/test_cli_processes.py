"""Server, worker, migrations, keys, the doctor and `dev`, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.conftest import execute_sql, with_database
from tests.e2e.commands import clean_environment, run_headrace, running_headrace
from tests.processes import API_KEY, find_port, wait_until

from headrace.store.migrate import format_migrations, list_migrations

TASKS = """
from headrace import task

@task
def double(number: int) -> int:
    return number * {factor}
"""
QUICK = {"lease": "1.5", "heartbeat": "0.3", "poll_interval": "0.1", "sweep_interval": "0.1", "log_level": "error"}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "tasks.py"
    path.parent.mkdir()
    path.write_text(TASKS.format(factor=2), encoding="utf-8")
    return path


@pytest.fixture
def bare_url(postgres: str) -> Generator[str]:
    """An empty database: no schema."""
    name = f"bare_{os.urandom(4).hex()}"
    execute_sql(postgres, f"CREATE DATABASE {name}")
    yield with_database(postgres, name)
    execute_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def trigger(url: str, key: str, payload: object) -> str:
    answer = httpx2.post(
        f"{url}/api/v1/tasks/double/trigger", headers={"authorization": f"Bearer {key}"}, json={"payload": payload}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def await_output(url: str, key: str, run_id: str) -> object:
    answer = httpx2.get(
        f"{url}/api/v1/runs/{run_id}/result?wait=30", headers={"authorization": f"Bearer {key}"}, timeout=40
    )
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["output"])


def test_migrations_are_checked_printed_applied_and_applied_once(bare_url: str):
    env = clean_environment(database_url=bare_url)
    assert run_headrace("migrate", "--sql", env=env).stdout == format_migrations()
    checked = run_headrace("migrate", "--check", env=env)
    names = [f"{migration.version:04d}_{migration.name}" for migration in list_migrations()]
    assert names[:2] == ["0001_foundation", "0002_waits"]
    assert (checked.returncode, checked.stdout) == (1, f"missing: {', '.join(names)}\n")
    assert json.loads(run_headrace("migrate", "--check", "--json", env=env).stdout) == {"missing": names}
    assert run_headrace("keys", "list", env=env).returncode == 3
    applied = run_headrace("migrate", "--json", env=env)
    assert (applied.returncode, json.loads(applied.stdout)) == (0, {"applied": names})
    again = run_headrace("migrate", env=env)
    assert (again.returncode, again.stdout) == (0, "Nothing to do: the schema is up to date.\n")
    assert run_headrace("migrate", "--check", env=env).returncode == 0


def test_keys_are_shown_once_listed_by_their_end_and_revoked(database_url: str):
    env = clean_environment(database_url=database_url)
    plain = run_headrace("keys", "create", "for the shop", env=env)
    secret = plain.stdout.strip()
    assert secret.startswith("hr_dev_")
    made = json.loads(run_headrace("keys", "create", "--environment", "prod", "--json", env=env).stdout)
    assert made["secret"].startswith("hr_prod_")
    listed = run_headrace("keys", "list", "--json", env=env).stdout
    keys = {key["name"]: key for key in json.loads(listed)}
    assert keys["for the shop"]["endsIn"] == secret[-4:]
    assert keys["unnamed"]["environment"] == "prod"
    assert secret not in listed + run_headrace("keys", "list", env=env).stdout
    assert (
        execute_sql(database_url, "SELECT count(*) FROM headrace.api_keys AS k WHERE k::text LIKE $1", f"%{secret}%")[
            0
        ][0]
        == 0
    )
    revoked = run_headrace("keys", "revoke", str(made["id"]), "--json", env=env)
    assert (revoked.returncode, json.loads(revoked.stdout)) == (0, {"id": made["id"], "revoked": True})
    again = run_headrace("keys", "revoke", str(made["id"]), env=env)
    assert again.returncode == 4
    assert "headrace keys list" in again.stderr
    elsewhere = run_headrace("keys", "create", "--environment", "moon", env=env)
    assert elsewhere.returncode == 3
    assert "dev, staging and prod" in elsewhere.stderr


def test_a_server_and_a_worker_apart_run_something_and_drain(database_url: str, tasks: Path, tmp_path: Path):
    env = clean_environment(database_url=database_url, data_dir=str(tmp_path / "data"), api_key=API_KEY, **QUICK)
    with (
        running_headrace("server", "--port", "0", "--json", env=env) as server,
        running_headrace(
            "worker", str(tasks), "--concurrency", "2", "--queues", "task/double,other", env=env
        ) as worker,
    ):
        url = json.loads(server.await_line("http://"))["url"]
        worker.await_line("headrace works on")
        assert await_output(url, API_KEY, trigger(url, API_KEY, 21)) == 42
        assert worker.end(signal.SIGTERM) == 0
        assert server.end(signal.SIGTERM) == 0


def test_a_worker_that_cannot_start_says_why(database_url: str, tmp_path: Path):
    env = clean_environment(database_url=database_url, data_dir=str(tmp_path))
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n", encoding="utf-8")
    (tmp_path / "empty.py").write_text("", encoding="utf-8")
    for name, said in (
        ("absent.py", "no file"),
        ("broken.py", "no_such_module_anywhere"),
        ("empty.py", "no task"),
        ("no_such_module", "no module"),
    ):
        ended = run_headrace("worker", name, env=env, cwd=tmp_path)
        assert ended.returncode == 3, ended
        assert ended.stderr.startswith("error: "), ended
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_server_whose_port_is_taken_says_so(database_url: str, tmp_path: Path):
    env = clean_environment(database_url=database_url, data_dir=str(tmp_path), port=str(find_port()))
    with running_headrace("server", env=env) as first:
        first.await_line("headrace serves on")
        second = run_headrace("server", env=env)
        assert second.returncode == 3
        assert "can't listen" in second.stderr


@pytest.fixture
def make_durable(postgres: str) -> Generator[Callable[[str], None]]:
    """Makes the tests' PostgreSQL, which saves itself the trouble, write through to the disk until the test is over."""

    def set_durable(url: str, value: str = "on") -> None:
        for setting in ("fsync", "full_page_writes"):
            execute_sql(url, f"ALTER SYSTEM SET {setting} = {value}")
        execute_sql(url, "SELECT pg_reload_conf()")
        shown = "SELECT current_setting('fsync') || current_setting('full_page_writes')"
        wait_until(lambda: execute_sql(url, shown)[0][0] == 2 * value, f"fsync is {value}")

    yield set_durable
    set_durable(postgres, "off")


def test_the_doctor_finds_what_is_missing_and_then_nothing(
    database_url: str, make_durable: Callable[[str], None], bare_url: str, tasks: Path, tmp_path: Path
):
    def examine(**given: str) -> tuple[int, dict[str, str]]:
        ended = run_headrace("doctor", "--json", env=clean_environment(data_dir=str(tmp_path), **QUICK, **given))
        assert ended.stderr == ""
        return ended.returncode, {finding["check"]: finding["state"] for finding in json.loads(ended.stdout)}

    code, states = examine()
    assert (code, states["database"]) == (1, "fail")
    code, states = examine(database_url="postgresql://nobody@127.0.0.1:1/none")
    assert (code, states["database"]) == (1, "fail")
    code, states = examine(database_url=bare_url)
    assert (code, states["database"], states["schema"]) == (1, "ok", "fail")
    (tmp_path / "file").touch()
    code, states = examine(
        database_url=database_url, payload_store=str(tmp_path / "file"), api_url="http://127.0.0.1:1"
    )
    assert (code, states["payload store"]) == (1, "fail")
    assert {states[name] for name in ("server", "workers", "keys")} == {"warn"}

    env = clean_environment(database_url=database_url, data_dir=str(tmp_path), api_key=API_KEY, **QUICK)
    with (
        running_headrace("server", "--port", "0", "--json", env=env) as server,
        running_headrace("worker", str(tasks), env=env) as worker,
    ):
        url = json.loads(server.await_line("http://"))["url"]
        worker.await_line("headrace works on")
        code, states = examine(database_url=database_url, api_url=url)
        assert (code, {name for name, state in states.items() if state != "ok"}) == (1, {"durability"}), states
        make_durable(database_url)
        code, states = examine(database_url=database_url, api_url=url)
        assert (code, set(states.values())) == (0, {"ok"}), states
        plain = run_headrace("doctor", env=env | {"HEADRACE_API_URL": url})
        assert plain.stdout.endswith("All is well.\n")


def test_dev_runs_everything_reloads_mends_and_stops_at_one_interrupt(tasks: Path, tmp_path: Path):
    data = tmp_path / "data"
    env = clean_environment(**QUICK)
    with running_headrace("dev", str(tasks), "--data", str(data), "--port", "0", "--json", env=env) as dev:
        told = json.loads(dev.await_line("apiUrl"))
        url, key = told["apiUrl"], told["apiKey"]
        assert (data / "dev_key").read_text(encoding="ascii").strip() == key
        assert await_output(url, key, trigger(url, key, 21)) == 42

        tasks.write_text(TASKS.format(factor=3), encoding="utf-8")
        dev.await_line("changed: tasks.py")
        assert await_output(url, key, trigger(url, key, 21)) == 63

        tasks.write_text("this is no Python", encoding="utf-8")
        dev.await_line("the worker ended with exit code 3")
        run_id = trigger(url, key, 21)
        tasks.write_text(TASKS.format(factor=4), encoding="utf-8")
        assert await_output(url, key, run_id) == 84

        worker = find_child(dev.process.pid, "worker")
        os.kill(worker, signal.SIGKILL)
        dev.await_line("the worker was killed by SIGKILL")
        assert await_output(url, key, trigger(url, key, 1)) == 4

        second = run_headrace("dev", str(tasks), "--data", str(data), "--port", "0", env=env)
        assert second.returncode == 3
        assert f"Process {dev.process.pid} already runs headrace" in second.stderr
        assert await_output(url, key, trigger(url, key, 2)) == 8  # and did the first no harm

        assert dev.end(signal.SIGINT) == 130
        assert not any("Traceback" in line for line in dev.stderr), dev.stderr
    assert not (data / "postgres" / "postmaster.pid").exists()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/healthz")


def test_a_killed_dev_leaves_no_child_and_the_next_one_goes_on(tasks: Path, tmp_path: Path):
    arguments = (
        "dev",
        str(tasks),
        "--data",
        str(tmp_path / "data"),
        "--port",
        str(find_port()),
        "--no-reload",
        "--json",
    )
    env = clean_environment(**QUICK)
    with running_headrace(*arguments, env=env) as dev:
        told = json.loads(dev.await_line("apiUrl"))
        children = [find_child(dev.process.pid, name) for name in ("server", "worker")]
        run_id = trigger(told["apiUrl"], told["apiKey"], 21)
        assert dev.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the children are gone")
    with running_headrace(*arguments, env=env) as dev:
        again = json.loads(dev.await_line("apiUrl"))
        assert again == told  # the same key, the same port, the same database
        assert await_output(again["apiUrl"], again["apiKey"], run_id) == 42
        assert dev.end(signal.SIGTERM) == 130


def test_dev_uses_the_database_that_is_named(database_url: str, tasks: Path, tmp_path: Path):
    env = clean_environment(database_url=database_url, **QUICK)
    with running_headrace("dev", str(tasks), "--data", str(tmp_path / "data"), "--port", "0", "--json", env=env) as dev:
        told = json.loads(dev.await_line("apiUrl"))
        assert told["databaseUrl"] == database_url
        assert await_output(told["apiUrl"], told["apiKey"], trigger(told["apiUrl"], told["apiKey"], 5)) == 10
    assert not (tmp_path / "data" / "postgres").exists()


def find_child(pid: int, name: str) -> int:
    """The process id of the child of ``pid`` whose command is ``name``."""

    for child in psutil.Process(pid).children():
        if name in child.cmdline():
            return child.pid
    raise AssertionError(f"no {name} among {psutil.Process(pid).children()}")
