"""The public interface as a strict type checker sees it: wrong payloads fail, right ones are known to the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SNIPPETS = HERE / "typing"


@cache
def check_types() -> list[dict[str, Any]]:
    """What basedpyright, as strict as for the source, has to say of the snippets."""
    checker = Path(sys.executable).with_name("basedpyright")
    found = subprocess.run(
        [checker, "--outputjson", "--project", ROOT / "pyproject.toml", *sorted(SNIPPETS.glob("*.py"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return json.loads(found.stdout)["generalDiagnostics"]


def read_errors(name: str) -> dict[int, str]:
    """Messages by line."""
    return {
        told["range"]["start"]["line"] + 1: told["message"]
        for told in check_types()
        if Path(told["file"]).name == name and told["severity"] == "error"
    }


def test_right_calls_pass_and_their_results_are_known():
    assert read_errors("good.py") == {}


def test_wrong_calls_fail_and_nothing_else_does():
    lines = (SNIPPETS / "bad.py").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if re.search(r"# wrong$", line)}
    errors = read_errors("bad.py")
    assert len(wrong) > 20
    assert {number: lines[number - 1].strip() for number in wrong - errors.keys()} == {}, "these passed"
    assert {number: errors[number] for number in errors.keys() - wrong} == {}


def test_a_wrong_payload_is_named_by_its_type():
    [message] = [
        told
        for line, told in read_errors("bad.py").items()
        if "client.trigger(resize, wrong_payload)" in (SNIPPETS / "bad.py").read_text().splitlines()[line - 1]
    ]
    assert re.search("str.*Image|No overloads", message)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "src" / "headrace" / "py.typed").is_file()
    pytest.importorskip("basedpyright")
