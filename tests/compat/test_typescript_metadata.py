"""Metadata and tags by the published TypeScript SDK of the system that headrace is wire-compatible with, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.server_fixture import RunningServer

HERE = Path(__file__).parent


def test_the_published_sdk_changes_metadata_and_adds_tags(server: RunningServer) -> None:
    driven = subprocess.run(
        ["node", "metadata.mjs"],
        cwd=HERE,
        env={**os.environ, "HEADRACE_API_URL": server.url, "HEADRACE_API_KEY": server.key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert driven.returncode == 0, driven.stderr
    assert json.loads(driven.stdout.splitlines()[-1]) == {
        "before": {"n": 1, "log": ["a"]},
        "changed": {"n": 3, "log": ["a", "b"], "stage": {"name": "x"}, "own parent": True},
        "refused": ["UnprocessableEntityError", 422],
        "whole": {"all": "new"},
        "tagged": "Successfully set 1 new tags.",
        "many": ["UnprocessableEntityError", 422],
        "run": [{"all": "new"}, ["first", "second"]],
        "found": [True],
        "missing": ["NotFoundError", 404],
    }
