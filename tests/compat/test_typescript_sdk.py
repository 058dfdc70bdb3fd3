"""The published TypeScript SDK of the system that headrace is wire-compatible with, on a real server and worker.

``make test`` installs it (tests/compat/package.json) before the tests run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.processes import API_KEY, ServerProcess, make_environment

HERE = Path(__file__).parent


def test_the_published_sdk_drives_python_tasks(database_url: str, tmp_path: Path) -> None:
    server = ServerProcess(database_url, str(tmp_path))
    server.start()
    environment = make_environment(database_url, str(tmp_path))
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
