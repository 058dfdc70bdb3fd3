"""What commands print: tables and sentences for people, one JSON value a command for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 400


def _make_console(*, stderr: bool) -> Console:
    # a file or a program has no width: nothing is folded for it
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else _WIDE)


out: Final = _make_console(stderr=False)
err: Final = _make_console(stderr=True)


def print_json(value: Any) -> None:
    """``value`` on stdout, as one line of JSON."""
    print_text(msgspec.json.encode(value).decode("utf-8") + "\n")


def print_text(text: str) -> None:
    """Text for programs on stdout: exactly as it is, at once, whatever is on the other end."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows as a table without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    out.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one a line; what is None is left out."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value is not None:
            out.print(f"{name:<{width}}  {value}", markup=False)


def print_next_page(page: Mapping[str, Any]) -> None:
    """The option that gives the page after this one of a list, where there is one."""
    if cursor := page["pagination"].get("next"):
        print_fields({"more": f"--after {cursor}"})


def print_warnings(page: Mapping[str, Any]) -> None:
    """What a list says is missing in it, to stderr."""
    for text in page.get("warnings", ()):
        err.print(f"warning: {text}", markup=False)


def describe_error(error: Mapping[str, Any] | None) -> str:
    """A run's error in one line: its name and the first line of its message."""
    found = error or {}
    message = str(found.get("message") or found.get("raw") or "").partition("\n")[0]
    return f"{found.get('name') or found.get('code') or found.get('type') or 'unknown'}: {message}"


def format_value(value: Any) -> str | None:
    """A payload or result as JSON; None where there is none."""
    return None if value is None else msgspec.json.encode(value).decode("utf-8")
