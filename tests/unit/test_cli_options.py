"""Every option has a twin in the environment, every command speaks JSON, and the reference names them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from headrace.cli.app import app

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def list_commands(group: App, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        if any(not sub.startswith("-") for sub in command):
            yield from list_commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(list_commands(app))


def list_options(command: App) -> list[str]:
    names = [argument.name for argument in command.assemble_argument_collection(parse_docstring=True)]
    return [name for name in names if name.startswith("--")]


def show_help(*path: str) -> str:
    command = [sys.executable, "-m", "headrace", *path, "--help"]
    environment = {**os.environ, "COLUMNS": "300"}  # an option a line
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_the_commands_are_those_that_are_documented():
    assert {" ".join(path) for path in COMMANDS} == {
        "dev",
        "server",
        "worker",
        "migrate",
        "batch run",
        "batch show",
        "run trigger",
        "run show",
        "run cancel",
        "run reschedule",
        "run replay",
        "run reset-key",
        "run tag",
        "run metadata",
        "run list",
        "bulk cancel",
        "bulk replay",
        "bulk show",
        "bulk abort",
        "bulk list",
        "token list",
        "token create",
        "token complete",
        "token show",
        "schedule list",
        "schedule show",
        "schedule create",
        "schedule update",
        "schedule activate",
        "schedule deactivate",
        "schedule delete",
        "keys create",
        "keys list",
        "keys revoke",
        "queue list",
        "queue show",
        "queue pause",
        "queue resume",
        "queue limit",
        "queue reset",
        "version list",
        "version show",
        "version promote",
        "environment list",
        "environment ttl",
        "environment show",
        "environment pause",
        "environment resume",
        "environment limit",
        "stores list",
        "stores add",
        "stores weight",
        "stores drain",
        "stores move",
        "stores remove",
        "stores check",
        "stores legacy",
        "import",
        "bench",
        "demo",
        "doctor",
    }
    assert [path for path in COMMANDS if f"headrace {' '.join(path)}" not in REFERENCE] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_json_and_help_for_each_option(path):
    options = list_options(COMMANDS[path])
    assert "--json" in options
    # a * stands before what has to be given, and blanks before the rest then
    shown = [re.sub(r"^│[* ]+--", "│ --", line) for line in show_help(*path).splitlines()]
    lines = {line.split()[1]: line for line in shown if line.startswith("│ --")}
    assert set(options) <= set(lines)
    for name in options:
        told = lines[name].partition("  ")[2].strip()
        assert "[env var: HEADRACE_" in told, f"{name} has no twin in the environment"
        assert not told.startswith("["), f"{name} says nothing of itself"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_reference_names_every_option(path):
    missing = [name for name in list_options(COMMANDS[path]) if f"`{name}`" not in REFERENCE]
    assert [name for name in missing if name != "--reload"] == []


def test_exit_codes_stand_in_the_help():
    shown = show_help()
    assert [code for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130 ") if f" {code}" not in shown] == []
