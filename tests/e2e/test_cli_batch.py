"""Batches and runs from the command line, on a real server and worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.conftest import execute_sql
from tests.e2e.commands import clean_environment, run_headrace, running_headrace
from tests.processes import API_KEY, wait_until

TASKS = """
from headrace import Retry, task

@task(id="half", retry=Retry(max_attempts=2, min_delay=0))
def halve(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2
"""


@pytest.fixture
def env(database_url: str, tmp_path: Path) -> Generator[dict[str, str]]:
    """What a user's shell says of headrace, with a server and a worker that answer to it."""
    (tmp_path / "tasks.py").write_text(TASKS, encoding="utf-8")
    env = clean_environment(
        database_url=database_url,
        data_dir=str(tmp_path / "data"),
        api_key=API_KEY,
        poll_interval="0.1",
        sweep_interval="0.1",
        log_level="error",
    )
    with (
        running_headrace("server", "--port", "0", "--json", env=env) as server,
        running_headrace("worker", str(tmp_path / "tasks.py"), env=env) as worker,
    ):
        url = json.loads(server.await_line("http://"))["url"]
        worker.await_line("headrace works on")
        yield clean_environment(api_url=url, api_key=API_KEY)


def test_a_file_is_streamed_its_results_written_in_order_and_the_code_says_that_one_failed(env, tmp_path: Path):
    numbers = [*range(0, 400, 2), 7, 500]
    (tmp_path / "items.ndjson").write_text("".join(f"{number}\n\n" for number in numbers), encoding="utf-8")
    ended = run_headrace(
        "batch", "run", "half", "items.ndjson", "--results", "out.ndjson", "--json", env=env, cwd=tmp_path
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    summary = json.loads(ended.stdout)
    assert {**summary, "id": ""} == {"id": "", "runCount": 202, "succeeded": 201, "failed": 1}
    results = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text(encoding="utf-8").splitlines()]
    assert [result["index"] for result in results] == [*range(202)]
    assert [result["output"] for result in results if result["ok"]] == [n // 2 for n in numbers if n != 7]
    failed = results[200]
    assert (failed["status"], failed["error"]["name"], failed["error"]["message"]) == (
        "FAILED",
        "ValueError",
        "7 is odd",
    )

    shown = run_headrace("batch", "show", summary["id"], env=env)
    assert shown.returncode == 0
    for line in ("status     COMPLETED", "items      202", "succeeded  201", "failed     1"):
        assert line in shown.stdout, shown.stdout
    assert json.loads(run_headrace("batch", "show", summary["id"], "--json", env=env).stdout)["runCount"] == 202

    run = run_headrace("run", "show", failed["id"], env=env)
    assert run.returncode == 0
    assert "payload   7" in run.stdout
    assert "error     ValueError: 7 is odd" in run.stdout
    assert "attempt  2 FAILED ValueError: 7 is odd" in run.stdout
    assert json.loads(run_headrace("run", "show", failed["id"], "--json", env=env).stdout)["attemptCount"] == 2

    listed = run_headrace("run", "list", "--status", "FAILED", "--batch", summary["id"], "--json", env=env)
    assert [found["id"] for found in json.loads(listed.stdout)["data"]] == [failed["id"]]
    pages = run_headrace("run", "list", "--limit", "2", "--task", "half", env=env).stdout
    assert "run_" in pages
    assert "--after run_" in pages


def test_stdin_is_read_as_it_comes_and_numbers_stay_as_they_stand(env, database_url: str):
    ended = run_headrace(
        "batch", "run", "echo-nobody", "-", "--json", env=env, stdin='{"n": 1.10}\n12345678901234567890\n'
    )
    assert ended.returncode == 0, ended.stderr
    payloads = execute_sql(database_url, "SELECT payload FROM headrace.runs WHERE batch_index IS NOT NULL ORDER BY id")
    assert [bytes(row[0]) for row in payloads] == [b'{"n": 1.10}', b"12345678901234567890"]


def test_a_line_that_is_no_json_is_named_and_leaves_the_batch_unsealed(env, database_url: str):
    ended = run_headrace("batch", "run", "half", "-", env=env, stdin="2\n{no json\n")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: -, line 2 is no JSON")
    assert execute_sql(database_url, "SELECT status, sealed_at FROM headrace.batches")[0] == ("PENDING", None)


def test_an_empty_file_is_no_batch(env):
    ended = run_headrace("batch", "run", "half", "-", env=env)
    assert ended.returncode == 1
    assert "at least one item" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("batch", "show", "batch_nonsense"), 4, "There is no batch batch_nonsense"),
        (("run", "show", "run_nonsense"), 4, "There is no run run_nonsense"),
        (("run", "list", "--api-key", "hr_dev_wrong_key_wrong_key"), 3, "headrace keys create"),
        (("run", "list", "--status", "HAPPY"), 2, "but must be of: PENDING_VERSION"),
        (("run", "list", "--limit", "1000"), 2, "from 1 to 100"),
        (("batch", "run", "half", "-", "--results", "no/such/folder"), 2, "no/such/folder can't be written"),
    ],
)
def test_what_is_wrong_is_said_with_a_code(env, arguments, code, said):
    ended = run_headrace(*arguments, env=env, stdin="2\n")
    assert (ended.returncode, ended.stdout) == (code, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_interrupt_ends_a_wait_with_its_code(env, tmp_path: Path, database_url: str):
    (tmp_path / "items.ndjson").write_text("1\n", encoding="utf-8")
    with running_headrace("batch", "run", "nobody-does-this", str(tmp_path / "items.ndjson"), "--wait", env=env) as run:
        wait_until(
            lambda: execute_sql(database_url, "SELECT count(*) FROM headrace.runs")[0][0] == 1, "the run is there"
        )
        started = time.monotonic()
        assert run.end() == 130
        assert time.monotonic() - started < 30
        assert run.stderr == ["interrupted"]


def test_output_that_nobody_reads_any_more_is_no_error(env, tmp_path: Path):
    command = f"{sys.executable} -m headrace migrate --sql | head -n 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
