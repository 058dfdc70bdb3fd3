"""What is expected to go wrong on the command line: a sentence on stderr and a code that scripts may rely on."""

from __future__ import annotations

import pytest

from headrace.cli.app import run_command
from headrace.errors import ApiError, BatchTriggerError, ConfigurationError, ConnectionFailedError, RunFailedError


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name in ("DATABASE_URL", "HEADRACE_DATABASE_URL", "HEADRACE_API_KEY", "HEADRACE_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frobnicate"], 2, "frobnicate"),
        (["migrate", "--chek"], 2, "--check"),
        (["server", "--port", "abc"], 2, '"abc"'),
        (["server", "--port", "-1"], 3, "HEADRACE_PORT is -1, but must be 0 or more"),
        (["keys", "revoke"], 2, "KEY_ID"),
        (["keys", "revoke", "x"], 2, '"x"'),
        (["worker"], 2, "TASKS"),
        (["migrate"], 3, "HEADRACE_DATABASE_URL"),
        (["keys", "list"], 3, "HEADRACE_DATABASE_URL"),
        (["keys", "list", "--database-url", "postgresql://nobody@127.0.0.1:1/none"], 3, "can't be reached"),
        (["migrate", "--database-url", "no url at all"], 3, "can't be reached"),
        (["run", "list"], 3, "HEADRACE_API_KEY"),
        (["run", "list", "--api-key", "k", "--api-url", "http://127.0.0.1:1"], 3, "127.0.0.1:1"),
        (["batch", "run", "task", "no-such-file", "--api-key", "k"], 2, "no-such-file can't be read"),
    ],
)
def test_an_expected_error_is_a_sentence_and_a_code(arguments, code, said, capsys):
    assert run_command(arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigurationError("wrong"), 3, "wrong"),
        (ConnectionFailedError("nobody there"), 3, "nobody there"),
        (ApiError(401, "Invalid API key"), 3, "headrace keys create"),
        (ApiError(403, "Unauthorized"), 3, "Unauthorized"),
        (ApiError(404, "Batch not found"), 4, "Batch not found"),
        (ApiError(500, "oh"), 1, "500: oh"),
        (BatchTriggerError("gave up", phase="stream", batch_id="batch_1", status=500), 1, "gave up (batch batch_1)"),
        (BatchTriggerError("gave up", phase="create", status=401), 3, "gave up"),
        (RunFailedError("failed", run_id="run_1", status="FAILED"), 1, "failed"),
        (ConnectionResetError("reset"), 3, "reset"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_command_raises_becomes_a_code(error, code, said, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("headrace.cli.migrate.Settings.from_environment", fail)
    assert run_command(["migrate"]) == code
    assert said in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("headrace.cli.migrate.Settings.from_environment", fail)
    with pytest.raises(ZeroDivisionError):
        run_command(["migrate"])


def test_a_batch_that_could_not_reach_its_server_says_so(capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise BatchTriggerError("gave up", phase="create") from ConnectionFailedError("nobody there")

    monkeypatch.setattr("headrace.cli.migrate.Settings.from_environment", fail)
    assert run_command(["migrate"]) == 3
    assert "gave up" in capsys.readouterr().err
