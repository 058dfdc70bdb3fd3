"""Logs: records of the standard library's logging, whoever has set up what; nothing is printed to stdout."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.logs import list_lines

from headrace.logs import get_logger

# structlog's own default prints to stdout. In a program that uses headrace that spoils what it writes there, and
# print() in one thread while another one replaces sys.stdout, as pytest does, is a crash on Python 3.11: it took the
# whole test session down once (2026-11-21).
UNSET = """
from headrace.logs import get_logger
log = get_logger("headrace.part")
log.info("a line", message="a field that logging keeps for itself", name="another")
log.warning("a warning")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("it failed")
"""


def test_a_program_that_sets_up_no_logs_finds_nothing_on_stdout() -> None:
    ended = subprocess.run([sys.executable, "-c", UNSET], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout == ""
    assert "a warning" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr
    assert "a line" not in ended.stderr  # the standard library's default: warnings and what is worse


def test_a_line_carries_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        get_logger("headrace.part").info("a line", message="one", name="two")
    [line] = list_lines(caplog)
    assert (line["event"], line["message"], line["name"], line["level"]) == ("a line", "one", "two", "info")
    assert line["logger"] == "headrace.part"
