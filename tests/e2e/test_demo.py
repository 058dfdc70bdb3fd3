"""The demo, under fire, as `make demo` runs it: the batch survives, and what it prints is true."""

from __future__ import annotations

import ast
import json
import sysconfig
from pathlib import Path

import httpx2
import pytest
from tests.e2e.commands import clean_environment, run_headrace, running_headrace

LIBRARY = Path(sysconfig.get_path("stdlib"))


def count_files() -> int:
    return sum("site-packages" not in path.relative_to(LIBRARY).parts for path in LIBRARY.rglob("*.py"))


def parses(path: Path) -> bool:
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return False
    return True


def test_under_fire_every_file_is_counted_once(tmp_path: Path):
    ended = run_headrace("demo", "--kill", "--exit", "--json", env=clean_environment(), cwd=tmp_path, timeout=400)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["files"] == count_files()
    assert report["counted"] + len(report["failed"]) == report["files"]
    assert not any(parses(LIBRARY / path) for path in report["failed"])
    assert [check for check in report["checks"] if not check["held"]] == []
    assert len(report["checks"]) == 9
    assert "cut the client's connection in mid-stream (1x" in report["events"][0]
    assert "SIGKILLed the worker" in report["events"][1]
    assert report["events"][2].endswith("were taken up by another")
    scores = [one["depth"] * one["longest"] for one in report["mostComplex"]]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert list(tmp_path.iterdir()) == []  # what it needed it put elsewhere, and took away
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(report["apiUrl"])


def test_without_exit_it_stays_up_until_it_is_interrupted():
    with running_headrace("demo", "--json", env=clean_environment()) as demo:
        report = json.loads(demo.await_line("batchId", seconds=400))
        assert len(report["checks"]) == 8
        demo.await_line("stays up on")
        headers = {"authorization": f"Bearer {report['apiKey']}"}
        batch = httpx2.get(f"{report['apiUrl']}/api/v2/batches/{report['batchId']}", headers=headers).json()
        assert (batch["status"], batch["runCount"]) == ("COMPLETED", report["files"])
        assert batch["progress"]["failed"] == len(report["failed"])
        assert demo.end() == 0
        assert not any("Traceback" in line for line in demo.stderr)
