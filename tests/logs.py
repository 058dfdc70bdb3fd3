"""The lines that headrace logged in a test."""

from __future__ import annotations

from typing import Any

import pytest


def list_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Each line of headrace's own, with its fields."""
    return [record.msg for record in caplog.records if isinstance(record.msg, dict)]
