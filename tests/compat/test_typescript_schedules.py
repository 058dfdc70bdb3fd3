"""Schedules by the published TypeScript SDK of the system that headrace is wire-compatible with, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.server_fixture import RunningServer

HERE = Path(__file__).parent


def test_the_published_sdk_keeps_schedules(server: RunningServer) -> None:
    driven = subprocess.run(
        ["node", "schedules.mjs"],
        cwd=HERE,
        env={**os.environ, "HEADRACE_API_URL": server.url, "HEADRACE_API_KEY": server.key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert driven.returncode == 0, driven.stderr
    assert json.loads(driven.stdout.splitlines()[-1]) == {
        "made": ["IMPERATIVE", "report", True, "At 02:30 every day", True, "DEVELOPMENT"],
        "again": [True, "0 9 * * 1-5"],
        "shown": ["mine", "nightly", "Europe/Berlin"],
        "changed": ["0 0 1 1 *", 31],  # in Berlin the year begins an hour earlier
        "switched": [False, None, True],
        "list": [2, {"currentPage": 1, "totalPages": 3, "count": 5}, 5],
        "zones": ["UTC", 1],
        "wrong": ["UnprocessableEntityError", 422],
        "gone": True,
        "missing": ["NotFoundError", 404],
    }
