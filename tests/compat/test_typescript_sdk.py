"""The published TypeScript SDK of the system that headrace is wire-compatible with, on a real server and worker.

``make test`` installs it (tests/compat/package.json) before the tests run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import execute_sql
from tests.processes import API_KEY, ServerProcess, make_environment

HERE = Path(__file__).parent
STORES = ["home", "s1", "s2"]


@pytest.mark.parametrize("stores", [1, 3])
def test_the_published_sdk_drives_python_tasks(
    database_url: str, tmp_path: Path, stores: int, request: pytest.FixtureRequest
) -> None:
    others: dict[str, str] = request.getfixturevalue("more_stores") if stores > 1 else {}
    extra = {"HEADRACE_STORES": ",".join(f"{name}={url}" for name, url in others.items()), "HEADRACE_STORE_GRACE": "0"}
    if others:
        execute_sql(database_url, "UPDATE headrace.stores SET weight = 0")
    server = ServerProcess(database_url, str(tmp_path), extra)
    server.start()
    environment = make_environment(database_url, str(tmp_path), extra)
    worker = subprocess.Popen([sys.executable, "-m", "headrace", "worker", str(HERE / "tasks.py")], env=environment)
    try:
        driven = subprocess.run(
            ["node", "drive.mjs"],
            cwd=HERE,
            env={**os.environ, "HEADRACE_API_URL": server.url, "HEADRACE_API_KEY": API_KEY},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        worker.terminate()
        worker.wait(30)
        server.stop()
    assert driven.returncode == 0, driven.stderr
    assert json.loads(driven.stdout.splitlines()[-1]) == {
        "run": ["COMPLETED", {"a": 1}, True, ["from-ts"]],
        "batch": [250, "string", "COMPLETED", 250, {"i": 249}],
        "stream": ["COMPLETED", 20, "text 3"],
        "failed": ["FAILED", True, "Abort", "made to fail"],
        "key": [True, True],
        "list": [[True], 273],
        "missing": "NotFoundError 404",
        "token": ["WAITING", ["approval", "ts"], True, True],
        "tokenUrl": [True, True],
        "tokenKey": [True, True, False, "token-once"],
        "completed": ["COMPLETED", {"status": "approved", "at": [1, 2]}, None, True],
        "callback": [200, "COMPLETED", {"by": "webhook"}],
        "publicToken": ["COMPLETED", None],
        "timedOut": ["WaitpointTimeoutError", True, None],
        "tokens": [2, 4, True],
        "filtered": [True, True, True, 0],
        "missingToken": "NotFoundError 404",
    }
    found = {name: list_owners(url) for name, url in {"home": database_url, **others}.items()}
    if stores > 1:
        assert found.pop("home") == [], "home weighs nothing here"
        assert [*filter(None, found.values())] != []
    assert [keys for name, keys in found.items() if keys not in ([], [STORES.index(name)])] == []


def list_owners(url: str) -> list[int]:
    """Which stores the runs in a database say that they are of."""
    rows = execute_sql(url, "SELECT DISTINCT get_byte(uuid_send(id), 15) AS owner FROM headrace.runs")
    return [row["owner"] for row in rows]
