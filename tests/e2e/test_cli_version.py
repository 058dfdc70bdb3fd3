"""Versions from the command line and from both clients, on a real server."""

from __future__ import annotations

import json

import anyio
import pytest
from tests.conftest import execute_sql
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, Client, ConfigurationError

VERSIONS = (
    """INSERT INTO headrace.versions (environment_id, version, first_seen_at, last_seen_at, promoted_at)
    VALUES (1, '1.0', now(), now(), now()), (1, '1.1', now(), now(), NULL)""",
    """INSERT INTO headrace.version_tasks (version_id, task, first_seen_at)
    SELECT v.id, 'resize', now() FROM headrace.versions AS v""",
    """INSERT INTO headrace.tasks (environment_id, id, queue, max_attempts, registered_at, current_version)
    VALUES (1, 'resize', 'task/resize', 3, now(), '1.0')""",
)


@pytest.fixture
def env(server: RunningServer) -> dict[str, str]:
    """What a user's shell says of headrace, with a server that answers to it, and workers of two versions once came."""
    for statement in VERSIONS:
        execute_sql(server.settings.database_url, statement)
    return clean_environment(api_url=server.url, api_key=server.key)


def test_versions_are_listed_shown_and_promoted(env: dict[str, str]) -> None:
    listed = run_headrace("version", "list", env=env)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["version", "1.1", "1.0"]
    assert "1 of 1 tasks" in listed.stdout.splitlines()[2]
    page = json.loads(run_headrace("version", "list", "--limit", "1", "--json", env=env).stdout)
    rest = run_headrace("version", "list", "--after", page["pagination"]["next"], "--json", env=env)
    assert [one["version"] for one in [*page["data"], *json.loads(rest.stdout)["data"]]] == ["1.1", "1.0"]
    promoted = run_headrace("version", "promote", "1.1", env=env)
    assert (promoted.returncode, promoted.stdout) == (0, "1.1 takes the new runs of: resize\n")
    shown = run_headrace("version", "show", env=env)
    assert "1.1" in shown.stdout
    assert json.loads(run_headrace("version", "show", "1.0", "--json", env=env).stdout)["currentTasks"] == []
    back = run_headrace("version", "promote", "--json", env=env | {"HEADRACE_VERSION_NAME": "1.0"})
    assert json.loads(back.stdout)["tasks"] == ["resize"]


def test_a_run_shows_its_version(env: dict[str, str]) -> None:
    with Client(env["HEADRACE_API_URL"], api_key=env["HEADRACE_API_KEY"]) as client:
        run_id = client.trigger("resize", version="7").id
    shown = run_headrace("run", "show", run_id, env=env)
    assert [line.split() for line in shown.stdout.splitlines() if line.startswith(("status", "version"))] == [
        ["status", "PENDING_VERSION"],
        ["version", "7"],
    ]
    listed = run_headrace("run", "list", "--status", "PENDING_VERSION", "--json", env=env)
    assert [run["id"] for run in json.loads(listed.stdout)["data"]] == [run_id]


def test_what_is_not_there_and_what_can_t_be(env: dict[str, str]) -> None:
    for arguments, code, told in (
        (("promote", "9"), 4, "There is no version '9'"),
        (("show", "9"), 4, "There is no version '9'"),
        (("promote", "a/b"), 2, "'a/b'"),
        (("show", "a/b"), 2, "'a/b'"),
        (("list", "--limit", "0"), 2, "page[size]"),
    ):
        done = run_headrace("version", *arguments, env=env)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert told in done.stderr


def test_both_clients(env: dict[str, str]) -> None:
    url, key = env["HEADRACE_API_URL"], env["HEADRACE_API_KEY"]
    with Client(url, api_key=key) as client:
        assert client.promote_version("1.1")["tasks"] == ["resize"]
        assert client.retrieve_version()["version"] == "1.1"
        assert len(client.list_versions(limit=1)["data"]) == 1
        with pytest.raises(ConfigurationError, match="'a/b'"):
            client.promote_version("a/b")
        with pytest.raises(ApiError):
            client.retrieve_version("9")
        with pytest.raises(ConfigurationError, match="lockToVersion is 'a b'"):
            client.trigger("resize", version="a b")
        assert client.retrieve_run(client.trigger("resize", version="7").id)["status"] == "PENDING_VERSION"

    async def use() -> None:
        async with AsyncClient(url, api_key=key) as client:
            assert (await client.promote_version("1.0"))["version"] == "1.0"
            assert (await client.retrieve_version("1.0"))["isCurrent"] is True
            assert [one["version"] for one in (await client.list_versions())["data"]] == ["1.1", "1.0"]

    anyio.run(use)
