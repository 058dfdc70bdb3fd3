"""Runs that are triggered from the command line, with each of their options."""

from __future__ import annotations

import json

from tests.e2e.commands import run_headrace
from tests.e2e.test_cli_batch import env

__all__ = ["env"]


def test_a_run_is_triggered_waited_for_and_its_code_says_how_it_ended(env):
    done = run_headrace("run", "trigger", "half", "8", "--wait", "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) | {"id": ""} == {"id": "", "ok": True, "output": 4}
    failed = run_headrace("run", "trigger", "half", "7", "--wait", "--max-attempts", "1", env=env)
    assert failed.returncode == 1
    assert "FAILED" in failed.stdout
    assert "ValueError: 7 is odd" in failed.stdout


def test_each_option_reaches_the_run(env):
    made = run_headrace(
        "run", "trigger", "half", "8", "--delay", "1h", "--tags", "a, b", "--queue", "q", "--ttl", "2h", "--priority", "3",
        "--concurrency-key", "k", "--max-attempts", "5", "--max-duration", "10s", "--lock-to-version", "v1",
        "--metadata", '{"n": 1}', "--idempotency-key", "once", "--json", env=env,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    run_id = json.loads(made.stdout)["id"]
    run = json.loads(run_headrace("run", "show", run_id, "--json", env=env).stdout)
    assert run["tags"] == ["a", "b"]
    assert run["queue"] == "q"
    assert run["ttl"] == "7200s"
    assert run["metadata"] == {"n": 1}
    assert "delayedUntil" in run
    again = run_headrace("run", "trigger", "half", "8", "--json", env=env | {"HEADRACE_RUN_IDEMPOTENCY_KEY": "once"})
    assert json.loads(again.stdout) == {"id": run_id, "isCached": True}


def test_wrong_options_are_told_and_nothing_is_triggered(env):
    for given, told in [
        (("--delay", "soon"), "delay"),
        (("--metadata", "{"), "--metadata"),
        (("--order-key", "a", "--concurrency-key", "b"), "not both"),
        (("--priority", "1e12"), "priority"),
    ]:
        refused = run_headrace("run", "trigger", "half", "8", *given, env=env)
        assert refused.returncode == 2, (given, refused.stderr)
        assert told in refused.stderr
    assert json.loads(run_headrace("run", "list", "--json", env=env).stdout)["data"] == []


def test_items_of_a_batch_may_share_options(env, tmp_path):
    (tmp_path / "items.ndjson").write_text("2\n4\n", encoding="utf-8")
    done = run_headrace(
        "batch",
        "run",
        "half",
        str(tmp_path / "items.ndjson"),
        "--tags",
        "x",
        "--order-key",
        "k",
        "--wait",
        "--json",
        env=env,
    )
    assert (done.returncode, done.stderr) == (0, "")
    listed = json.loads(run_headrace("run", "list", "--tag", "x", "--json", env=env).stdout)["data"]
    assert len(listed) == 2
