"""Queues and environments from the command line, on a real server."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import Client, Queue


@pytest.fixture
def env(server: RunningServer) -> dict[str, str]:
    """What a user's shell says of headrace, with a server that answers to it, and its database."""
    known = clean_environment(api_url=server.url, api_key=server.key)
    return known | {"HEADRACE_DATABASE_URL": server.settings.database_url}


@pytest.fixture
def client(server: RunningServer) -> Generator[Client]:
    with Client(server.url, api_key=server.key) as opened:
        opened.declare_queue(Queue("gpu", concurrency_limit=4, rate_limit=(10, "1m"), rate_by_key=True))
        opened.trigger("resize", {"n": 1})
        yield opened


def test_queues_are_listed_and_shown(env: dict[str, str], client: Client) -> None:
    listed = run_headrace("queue", "list", env=env)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[0] for line in listed.stdout.splitlines()[-2:]] == ["gpu", "task/resize"]
    first = json.loads(run_headrace("queue", "list", "--limit", "1", "--json", env=env).stdout)
    assert first["pagination"] == {"currentPage": 1, "totalPages": 2, "count": 2}
    assert "--page 2" in run_headrace("queue", "list", "--limit", "1", env=env).stdout
    shown = run_headrace("queue", "show", "gpu", env=env)
    assert shown.returncode == 0
    for text in ("gpu", "10 in 60s a key", "open", "4"):
        assert text in shown.stdout
    assert json.loads(run_headrace("queue", "show", "task/resize", "--json", env=env).stdout)["queued"] == 1


def test_a_queue_is_paused_limited_and_reset(env: dict[str, str], client: Client) -> None:
    assert (
        run_headrace("queue", "pause", "gpu", env=env).stdout == "Queue gpu is paused; 0 of its runs execute still.\n"
    )
    assert client.retrieve_queue("gpu")["paused"]
    assert run_headrace("queue", "resume", "gpu", env=env).returncode == 0
    assert not client.retrieve_queue("gpu")["paused"]
    assert run_headrace("queue", "limit", "gpu", "1", env=env).stdout == "Queue gpu may execute 1 at once.\n"
    assert "limit set over" in run_headrace("queue", "list", env=env).stdout
    assert run_headrace("queue", "reset", "gpu", env=env).stdout == "Queue gpu may execute 4 at once.\n"


def test_what_goes_wrong_has_its_exit_code(env: dict[str, str], client: Client) -> None:
    missing = run_headrace("queue", "pause", "nothing", env=env)
    assert (missing.returncode, "There is no queue nothing" in missing.stderr) == (4, True)
    wrong = run_headrace("queue", "limit", "gpu", "many", env=env)
    assert (wrong.returncode, "not 'many'" in wrong.stderr) == (2, True)
    refused = run_headrace("queue", "limit", "gpu", "50%", env=env)
    assert (refused.returncode, "the environment has none" in refused.stderr) == (2, True)
    assert run_headrace("queue", "reset", "gpu", env=env).returncode == 2
    unknown = run_headrace("environment", "pause", "moon", env=env)
    assert (unknown.returncode, "There is no environment 'moon', but dev" in unknown.stderr) == (4, True)
    assert run_headrace("environment", "limit", "dev", "-3", env=env).returncode == 2
    assert run_headrace("environment", "limit", "dev", "200000", env=env).returncode == 2


def test_an_environment_is_paused_and_limited(env: dict[str, str], client: Client) -> None:
    limited = run_headrace("environment", "limit", "dev", "7", "--json", env=env)
    assert json.loads(limited.stdout) == {
        "environment": "dev", "paused": False, "concurrencyLimit": 7, "running": 0, "queued": 1
    }  # fmt: skip
    assert "paused" in run_headrace("environment", "pause", "dev", env=env).stdout
    assert client.retrieve_environment()["paused"]
    assert "open" in run_headrace("environment", "resume", "dev", env=env).stdout
    assert run_headrace("environment", "limit", "dev", "none", env=env).returncode == 0
    assert client.retrieve_environment()["concurrencyLimit"] is None
    assert "any number" in run_headrace("environment", "show", "dev", env=env).stdout
