"""``headrace run metadata`` and ``headrace run tag``, and the blocking client, on a real server."""

from __future__ import annotations

import json

import pytest
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, Client


@pytest.fixture
def env(server: RunningServer) -> dict[str, str]:
    """What a user's shell says of headrace, with a server that answers to it."""
    return clean_environment(api_url=server.url, api_key=server.key)


@pytest.fixture
def run_id(server: RunningServer) -> str:
    with Client(server.url, api_key=server.key) as client:
        return client.trigger("t", 1, metadata={"n": 1}).id


def test_metadata_is_shown_and_changed(env: dict[str, str], run_id: str) -> None:
    shown = run_headrace("run", "metadata", run_id, "--json", env=env)
    assert (shown.returncode, json.loads(shown.stdout)) == (0, {"n": 1})
    changed = run_headrace(
        "run", "metadata", run_id, "--set", '{"stage": "checked", "old": 1}', "--increment", '{"n": 2}', "--append",
        '{"log": "a"}', "--delete", "old", "--json", env=env,
    )  # fmt: skip
    assert (changed.returncode, json.loads(changed.stdout)) == (0, {"n": 3, "log": ["a"], "stage": "checked"})
    shown = run_headrace("run", "metadata", run_id, env=env)
    assert shown.returncode == 0
    for line in ('"checked"', '["a"]', "3"):
        assert line in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--set", "[1]"), 2, "--set takes a JSON object, and was given '[1]'"),
        (("--increment", "{"), 2, "--increment takes a JSON object"),
        (("--append", '{"n": 1}'), 2, "which is no list"),
    ],
)
def test_what_can_not_be_changed_is_said(
    env: dict[str, str], run_id: str, arguments: tuple[str, ...], code: int, told: str
) -> None:
    answer = run_headrace("run", "metadata", run_id, *arguments, env=env)
    assert (answer.returncode, answer.stdout) == (code, "")
    assert told in " ".join(answer.stderr.split())
    assert json.loads(run_headrace("run", "metadata", run_id, "--json", env=env).stdout) == {"n": 1}


def test_tags_are_added_and_runs_found_by_them(env: dict[str, str], run_id: str) -> None:
    tagged = run_headrace("run", "tag", run_id, "a", "b", "--json", env=env)
    assert (tagged.returncode, json.loads(tagged.stdout)) == (0, {"id": run_id, "tags": ["a", "b"]})
    listed = run_headrace("run", "list", "--tag", "b", "--json", env=env)
    assert [run["id"] for run in json.loads(listed.stdout)["data"]] == [run_id]
    assert run_headrace("run", "tag", run_id, env=env).returncode == 2
    many = run_headrace("run", "tag", run_id, *(f"t{number}" for number in range(9)), env=env)
    assert (many.returncode, "Runs can only have 10 tags" in " ".join(many.stderr.split())) == (2, True)
    for command in (("metadata", "run_nonesuch"), ("tag", "run_nonesuch", "a")):
        assert run_headrace("run", *command, env=env).returncode == 4


def test_the_blocking_client_does_the_same(server: RunningServer, run_id: str) -> None:
    with Client(server.url, api_key=server.key) as client:
        assert client.update_metadata(run_id, {"a": 1}, increment={"n": 1}) == {"a": 1, "n": 2}
        assert client.retrieve_metadata(run_id) == {"a": 1, "n": 2}
        client.add_tags(run_id, "x")
        assert client.retrieve_run(run_id)["tags"] == ["x"]
        with pytest.raises(ApiError, match="404"):
            client.retrieve_metadata("run_nonesuch")
