"""What a local headrace keeps in its data folder, and what it tells its children."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headrace.cli.local import LocalHeadrace, keep_key, lock_folder, make_environment
from headrace.errors import ConfigurationError
from headrace.settings import Settings


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path: Path):
    key = keep_key(tmp_path / "dev_key")
    assert key.startswith("hr_dev_")
    assert len(key) >= 40
    assert keep_key(tmp_path / "dev_key") == key
    assert stat.S_IMODE((tmp_path / "dev_key").stat().st_mode) == 0o600


def test_a_key_file_that_a_kill_left_empty_is_made_anew(tmp_path: Path):
    (tmp_path / "dev_key").touch()
    key = keep_key(tmp_path / "dev_key")
    assert key.startswith("hr_dev_")
    assert stat.S_IMODE((tmp_path / "dev_key").stat().st_mode) == 0o600


def test_children_are_told_exactly_the_settings():
    settings = Settings(lease=3.0, heartbeat=1.0, concurrency=8, api_key="hr_dev_0123456789abcdef", port=1234)
    told = make_environment(settings, {"PATH": "/bin", "HEADRACE_LEASE": "77", "HEADRACE_TASKS": "other.py"})
    assert told["PATH"] == "/bin"
    assert "HEADRACE_TASKS" not in told
    assert Settings.from_environment(told) == settings


def test_a_data_folder_has_one_user_at_a_time(tmp_path: Path):
    settings = Settings(data_dir=str(tmp_path), database_url="postgresql://nobody@127.0.0.1:1/none")
    with (
        lock_folder(tmp_path),
        pytest.raises(ConfigurationError, match=rf"Process {os.getpid()} already runs headrace on .*--data"),
    ):
        LocalHeadrace(settings).__enter__()
    for _ in range(2):  # a start that fails gives the folder back
        with pytest.raises(ConfigurationError, match="can't be reached"):
            LocalHeadrace(settings).__enter__()


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="file/data"):
        LocalHeadrace(Settings(data_dir=str(tmp_path / "file" / "data"))).__enter__()
