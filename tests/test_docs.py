"""The documentation says what is there: its links lead somewhere, the tests that it names exist, its tables are complete.

``python -m tests.test_docs --write`` writes docs/reference/settings.md and cli.md, and the tables of statuses.md, anew.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from cyclopts import App

from headrace import Task, metadata, wait
from headrace.protocol.statuses import BatchStatus, RunStatus
from headrace.protocol.tokens import TokenStatus
from headrace.settings import PREFIX, Setting, Settings
from tests.statuses_page import write_tables

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "docs" / "reference" / "settings.md"
COMMANDS = ROOT / "docs" / "reference" / "cli.md"
STATUSES = ROOT / "docs" / "reference" / "statuses.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "tests").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`((?:[\w.-]+/)*test_\w+\.py)::(\w+)`")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

_SETTINGS_HEAD = """\
# Settings

<!-- Written from headrace.settings by: python -m tests.test_docs --write -->

Every setting is a variable of the environment. Options of commands go before it: `--port 80` before `HEADRACE_PORT`. Sizes
are bytes; times are seconds, or durations such as `30s`, `5m`, `1h30m`, `2d`. A value that can't work is refused at the
start, with a sentence that names the variable.

Without `HEADRACE_DATABASE_URL`, `DATABASE_URL` is used. `HEADRACE_LEASE` has to be at least twice `HEADRACE_HEARTBEAT`.

| Variable | Default | Allowed | Meaning |
|---|---|---|---|
"""
_COMMANDS_HEAD = """\
# Commands

<!-- Written from headrace.cli by: python -m tests.test_docs --write -->

`headrace COMMAND --help` says the same on the spot. Every option has a twin in the environment; an option goes before its
variable, a variable before the default. With `--json` a command prints one JSON value on stdout. What is meant for people
only, progress bars and errors, goes to stderr.

## Exit codes

| Code | Meaning |
|---|---|
| 0 | it worked |
| 1 | the work failed: a run of the batch failed, a check found something, a floor was missed |
| 2 | wrong usage |
| 3 | configuration, or nothing could be reached, or the key was refused; of `worker` also: runs were cut off and given back |
| 4 | not found |
| 130 | interrupted |

They are kept: scripts may rely on them.
"""
_SIZES = {"offload_threshold", "item_max_size", "body_max_size", "ingest_chunk_bytes"}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the tree, and a heading in it where it names one."""
    broken: list[str] = []
    for _, target in list_links(page):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        if not found.exists() or (anchor and anchor not in list_anchors(found)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_tests_that_are_named_exist(page: Path) -> None:
    """``[`test_x`](path)`` and ```folder/test_file.py::test_x```, the latter from tests/ on."""
    named = [
        ((page.parent / target).resolve(), text.strip("`"))
        for text, target in list_links(page)
        if text.startswith("`test_")
    ]
    named += [(ROOT / "tests" / file, name) for file, name in NAMED_TEST.findall(read_prose(page))]
    missing = [f"{file.name}::{name}" for file, name in named if not file.is_file() or name not in list_tests(file)]
    assert missing == []


def test_every_promise_names_tests_that_hold_it() -> None:
    """That the tests are there is the test above; here, that no row of the page of guarantees goes without."""
    rows: list[str] = []
    text = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    for section in text.split("\n## ")[1:]:
        rows += re.findall(r"^\| (?!Promise \|)(?!-)(.+) \|$", section, re.MULTILINE)
    assert len(rows) > 40
    without = [row for row in rows if not re.search(r"\[`test_\w+`\]\(", row) and "assert_invariants" not in row]
    assert without == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_examples_in_python_are_python(page: Path) -> None:
    """They compile, and what they import from headrace is there."""
    absent: list[str] = []
    for example in PYTHON.findall(page.read_text(encoding="utf-8")):
        tree = ast.parse(example)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "headrace":
                module = __import__(str(node.module), fromlist=["_"])
                absent += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
    assert absent == []


def test_the_page_of_settings_is_what_the_settings_are() -> None:
    assert SETTINGS.read_text(encoding="utf-8") == format_settings(), "run: python -m tests.test_docs --write"


def test_the_page_of_commands_is_what_the_commands_are() -> None:
    assert COMMANDS.read_text(encoding="utf-8") == format_commands(), "run: python -m tests.test_docs --write"


def test_the_page_of_waiting_has_every_name() -> None:
    """Whatever a run's code can ask for, and every error and setting of it, stands on its page."""
    text = (ROOT / "docs" / "reference" / "durable.md").read_text(encoding="utf-8")
    asked = [f"Task.{name}" for name in vars(Task) if "trigger" in name]
    asked += [f"{module.__name__}.{name}" for module in (wait, metadata) for name in list_public_functions(module)]
    names = [name.replace("headrace.durable.waits", "wait").replace("headrace.durable.", "") for name in asked]
    names += [
        "step(name",
        "NotInRunError",
        "NondeterminismError",
        "LimitError",
        "WaitTimeout",
        "StepFailedError",
        "Abort",
    ]
    names += [f"HEADRACE_{name.upper()}" for name in ("wait_linger", "max_points", "max_depth", "version")]
    assert [name for name in names if name not in text] == []
    assert len(names) > 20


def test_the_page_of_statuses_has_every_status() -> None:
    text = (ROOT / "docs" / "reference" / "statuses.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))
    assert rows == {str(status) for status in (*RunStatus, *BatchStatus, *TokenStatus)}


def test_the_page_of_statuses_is_what_the_table_of_transitions_is() -> None:
    text = STATUSES.read_text(encoding="utf-8")
    assert text == write_tables(text), "run: python -m tests.test_docs --write"


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / target).resolve() for _, target in list_links(index)}
    pages = {page for page in PAGES if (ROOT / "docs") in page.parents and page != index}
    assert pages - named == set()


def test_the_checklist_has_every_item_once() -> None:
    text = (ROOT / "tests" / "CHECKLIST.md").read_text(encoding="utf-8")
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert rows == [*range(1, 54), *range(103, 113)]


def test_the_checklist_has_every_item_of_the_study_of_the_engine() -> None:
    text = (ROOT / "tests" / "CHECKLIST.md").read_text(encoding="utf-8")
    counts = {"D2.2": 20, "C3.1": 14, "D3.1": 23, "D3.2": 10, "D4": 12, "A4.3": 17, "D2.1": 30}
    wanted = [f"{part}-{number}" for part, count in counts.items() for number in range(1, count + 1)]
    assert re.findall(r"^\| ([ACD]\d(?:\.\d)?-\d+) \|", text, re.MULTILINE) == wanted


def test_every_part_of_a_runs_whole_life_names_tests_that_hold_it() -> None:
    text = (ROOT / "tests" / "CHECKLIST.md").read_text(encoding="utf-8").partition("# A run's whole life")[2]
    rows = re.findall(r"^\| (?!Part|Item|What|-)(.+) \|$", text.partition("## Its own tests")[0], re.MULTILINE)
    assert len(rows) == 20
    assert [row for row in rows if "::test_" not in row] == []


def test_every_part_of_many_databases_names_tests_that_hold_it() -> None:
    text = (ROOT / "tests" / "CHECKLIST.md").read_text(encoding="utf-8").partition("# Many databases, one system")[2]
    rows = re.findall(r"^\| (?!What|Item|-)(.+) \|$", text, re.MULTILINE)
    bare = [row.partition(" | ")[0] for row in rows if "::test_" not in row]
    assert bare == ["a writer reads what it wrote", "the suite of the engine with one store and with three", "D2.1-29"]
    assert len(rows) == 71


def test_the_checklist_names_the_tests_that_name_it() -> None:
    """A test whose docstring says ``Checklist N`` stands in row N."""
    text = (ROOT / "tests" / "CHECKLIST.md").read_text(encoding="utf-8")
    rows = {int(number): row for number, row in re.findall(r"^\| (\d+) \|(.*)$", text, re.MULTILINE)}
    absent: list[str] = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, told in list_docstrings(file).items():
            for numbers in re.findall(r"Checklist ((?:\d+(?:, | and )?)+)", told):
                for number in map(int, re.findall(r"\d+", numbers)):
                    named = f"`{file.relative_to(ROOT / 'tests').as_posix()}::{name}`"
                    if number in rows and named not in rows[number]:
                        absent.append(f"{number}: {named}")
    assert absent == []


def format_settings() -> str:
    """The page of reference that follows from ``headrace.settings``."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_describe_default(name, default)} | {_describe_limits(kind, setting)} | {setting.meaning} |"
        for name, kind, setting, default in _list_settings()
    ]
    return _SETTINGS_HEAD + "\n".join(rows) + "\n"


def format_commands() -> str:
    """The page of reference that follows from ``headrace.cli``."""
    from headrace.cli.app import app  # noqa: PLC0415 - loads every command

    return _COMMANDS_HEAD + "".join(_format_command(path, command) for path, command in _list_commands(app))


def list_links(page: Path) -> list[tuple[str, str]]:
    return LINK.findall(read_prose(page))


@cache
def read_prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def list_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", read_prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def list_public_functions(module: ModuleType) -> list[str]:
    """The functions that a module defines for its users."""
    found = inspect.getmembers(module, inspect.isfunction)
    return [name for name, function in found if not name.startswith("_") and function.__module__ == module.__name__]


def list_tests(file: Path) -> set[str]:
    return set(list_docstrings(file))


@cache
def list_docstrings(file: Path) -> dict[str, str]:
    """Every function of a file by name, with its docstring."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name: ast.get_docstring(node) or "" for node in functions}


def _list_settings() -> Iterator[tuple[str, type, Setting, object]]:
    defaults = Settings()
    for name, hint in get_type_hints(Settings, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, setting = get_args(hint)
            yield name, kind, setting, getattr(defaults, name)


def _describe_default(name: str, value: object) -> str:
    if value == "":
        return ""
    if isinstance(value, float):
        return f"`{_spell_seconds(value)}`"
    if name in _SIZES and isinstance(value, int):
        return f"`{value}` ({value // 2**20} MiB)" if value >= 2**20 else f"`{value}` ({value // 1024} KiB)"
    return f"`{value}`"


def _describe_limits(kind: type, setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.at_least is None:
        return ""
    least = _spell_seconds(setting.at_least) if kind is float else f"{setting.at_least:g}"
    return f"{least} or more"


def _spell_seconds(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _list_commands(app: App, path: tuple[str, ...] = ("headrace",)) -> Iterator[tuple[tuple[str, ...], App]]:
    names = [name for name in app if not name.startswith("-")]
    for name in names:
        yield from _list_commands(app[name], (*path, name))
    if not names:
        yield path, app


def _format_command(path: tuple[str, ...], command: App) -> str:
    arguments: list[Any] = list(command.assemble_argument_collection(parse_docstring=True))
    names = [*path, *(argument.names[0] for argument in arguments if not argument.names[0].startswith("-"))]
    told = inspect.getdoc(command.default_command) or command.help
    rows = "".join(
        f"| {_code(argument.names)} | {_code(_list_variables(argument))} | {argument.parameter.help or ''} |\n"
        for argument in arguments
    )
    return f"\n## {' '.join(names)}\n\n{told}\n\n| Option | Variable | Meaning |\n|---|---|---|\n{rows}"


def _list_variables(argument: Any) -> tuple[str, ...]:
    return argument.parameter.env_var or (PREFIX + argument.names[0].lstrip("-").replace("-", "_").upper(),)


def _code(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python -m tests.test_docs --write")
    SETTINGS.write_text(format_settings(), encoding="utf-8")
    COMMANDS.write_text(format_commands(), encoding="utf-8")
    STATUSES.write_text(write_tables(STATUSES.read_text(encoding="utf-8")), encoding="utf-8")
