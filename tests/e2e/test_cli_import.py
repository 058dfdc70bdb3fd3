"""Runs of another installation from the command line, and how they are shown over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import execute_sql
from tests.server_fixture import RunningServer

from headrace import Client, Item
from headrace.cli.app import run_command
from headrace.errors import ApiError
from headrace.ids import format_run_id, parse_run_id

CUID = "run_cjld2cjxh0000qzrmn831i7rn"
KSUID = "run_0ujtsYcgvSTl8PAuAdqWYSMnLOv"
NOBODY = "run_cjld2cjxh0000qzrmn831i7rx"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(server: RunningServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on the server's database, and gives its exit code and what it printed."""
    given = {
        "DATABASE_URL": server.settings.database_url,
        "DATA_DIR": server.settings.data_dir,
        "API_URL": server.url,
        "API_KEY": server.key,
        "INGEST_CHUNK_ITEMS": "3",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"HEADRACE_{name}", value)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        code = run_command(arguments)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


def line(run_id: str, **said: Any) -> bytes:
    run = {
        "id": run_id,
        "task": "t",
        "status": "COMPLETED",
        "payload": {"n": 1},
        "output": "done",
        "createdAt": "2018-08-28T01:59:12.101Z",
        "startedAt": "2018-08-28T01:59:13Z",
        "endedAt": "2018-08-28T01:59:15Z",
    }
    return json.dumps({**run, **said}).encode() + b"\n"


def number(n: int) -> str:
    return f"run_cjld2cjxh{n:016}"


def test_imported_runs_over_http(command: Command, server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "runs.ndjson"
    failed = {"status": "FAILED", "output": None, "error": {"name": "ValueError", "message": "no"}}
    file.write_bytes(line(CUID, tags=["old"], idempotencyKey="k") + b"\n" + line(KSUID, **failed))
    code, said, wrong = command("import", str(file))
    assert (code, said.strip(), wrong) == (
        0,
        "2 runs were imported; 0 were there already; 1 keys stand for runs.",
        "",
    )
    code, said, _ = command("import", "-", "--json", stdin=file.read_bytes())
    assert (code, json.loads(said)) == (
        0,
        {"lines": 2, "imported": 0, "known": 2, "keys": 1, "leftOut": 0, "bad": 0, "firstBad": []},
    )

    code, said, _ = command("run", "show", CUID, "--json")
    shown = json.loads(said)
    assert (code, shown["id"], shown["status"], shown["tags"]) == (0, CUID, "COMPLETED", ["old"])
    assert (shown["payload"], shown["output"], shown["attemptCount"]) == ({"n": 1}, "done", 1)
    assert (shown["createdAt"], shown["finishedAt"]) == ("2018-08-28T01:59:12.101Z", "2018-08-28T01:59:15.000Z")
    assert command("run", "show", NOBODY)[0] == 4
    with Client(server.url, api_key=server.key) as client:
        spelt = parse_run_id(CUID)
        assert spelt is not None
        assert client.retrieve_run(format_run_id(spelt))["id"] == CUID  # as logs write it
        assert client.retrieve_run(KSUID)["error"] == {"name": "ValueError", "message": "no"}
        assert [run["id"] for run in client.list_runs(limit=1)["data"]] == [CUID]
        assert [run["id"] for run in client.list_runs(after=CUID)["data"]] == [KSUID]
        assert [run["id"] for run in client.iterate_runs(tag="old")] == [CUID]
        # a key that stands for an imported run
        hit = client.trigger("t", 1, idempotency_key="k")
        assert (hit.id, hit.is_cached) == (CUID, True)
        batch = client.batch_trigger("t", [Item(1, idempotency_key="k")])
        assert client.retrieve_batch(batch.id)["runs"] == [CUID]
        # a replay has an id of ours, and says what it replays, alone and in a list
        made = client.replay_run(CUID)
        assert client.retrieve_run(made.id)["replayedFrom"] == CUID
        assert [run["replayedFrom"] for run in client.list_runs(limit=1)["data"]] == [CUID]
        assert client.cancel_run(CUID) is None
        with pytest.raises(ApiError):
            client.replay_run(NOBODY)


def test_a_bad_line_leaves_its_chunk_out_and_no_other(command: Command, server: RunningServer) -> None:
    content = [line(number(n)) for n in range(8)]
    content[4] = line(number(4), status="EXECUTING")
    content.append(b"x" * 4_000_000 + b"\n")
    code, said, _ = command("import", "-", "--json", stdin=b"".join(content))
    told = json.loads(said)
    [late, long] = told.pop("firstBad")
    assert (code, told) == (1, {"lines": 9, "imported": 3, "known": 0, "keys": 0, "leftOut": 4, "bad": 2})
    assert (late["line"], long["line"]) == (5, 9)
    assert late["reason"].startswith("status is 'EXECUTING', but only runs that have ended can be imported")
    assert long["reason"] == "it is longer than 3145728 bytes (HEADRACE_ITEM_MAX_SIZE)"
    content[4:] = [line(number(4)), *content[5:8]]
    code, said, wrong = command("import", "-", stdin=b"".join(content) + b"nonsense")
    assert (code, said.strip()) == (1, "3 runs were imported; 3 were there already; 0 keys stand for runs.")
    assert "line 9: " in wrong
    assert "1 lines can't be imported, and 2 good ones of the same chunks were left out" in wrong
    found = execute_sql(
        server.settings.database_url, "SELECT options ->> 'foreignId' AS id FROM headrace.runs ORDER BY 1"
    )
    assert [row["id"] for row in found] == [number(n) for n in range(6)]


def test_what_can_not_be_begun(command: Command, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("import", "/nowhere")[0] == 2
    code, _, wrong = command("import", "-", "--environment", "nowhere", stdin=line(CUID))
    assert (code, wrong.strip()) == (4, "error: There is no environment 'nowhere'.")
    code, _, wrong = command("stores", "legacy", "s1")
    assert (code, wrong.strip()) == (4, "error: There is no store 's1', but home.")
    code, said, _ = command("stores", "legacy", "home")
    assert (code, said.strip()) == (0, "Runs are imported to home from now on.")
    assert "active, legacy" in command("stores", "list")[1]
    monkeypatch.setenv("HEADRACE_LEGACY_STORE", "s1")
    code, _, wrong = command("import", "-", stdin=line(CUID))
    assert (code, wrong.strip()) == (
        3,
        "error: there is no store 's1' to import runs to. There are: home.",
    )
