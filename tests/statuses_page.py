"""The tables of docs/reference/statuses.md, written from the table of transitions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from headrace.protocol.statuses import TERMINAL_BATCH_STATUSES, TERMINAL_RUN_STATUSES
from headrace.protocol.transitions import (
    BATCH_STATUSES,
    BATCH_TRANSITIONS,
    RUN_STATUSES,
    RUN_TRANSITIONS,
    TOKEN_STATUSES,
    TOKEN_TRANSITIONS,
    Transition,
)

_TABLES: Final = {
    "runs": (RUN_STATUSES, TERMINAL_RUN_STATUSES, RUN_TRANSITIONS),
    "batches": (BATCH_STATUSES, TERMINAL_BATCH_STATUSES, BATCH_TRANSITIONS),
    "tokens": (TOKEN_STATUSES, ("COMPLETED", "TIMED_OUT"), TOKEN_TRANSITIONS),
}


def write_tables(page: str) -> str:
    """The page with its tables as they are now: each between ``<!-- NAME -->`` and ``<!-- end -->``."""
    for name, (statuses, ended, transitions) in _TABLES.items():
        page = _put(page, name, _format_statuses(statuses, ended))
        page = _put(page, f"moves of {name}", _format_transitions(transitions))
    return page


def _put(page: str, name: str, table: str) -> str:
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    assert len(place.findall(page)) == 1, f"the page has no place for: {name}"
    return place.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", page)


def _format_statuses(statuses: Mapping[Any, str], ended: Collection[str]) -> str:
    rows = "".join(f"| `{name}` | {told} | {'yes' if name in ended else ''} |\n" for name, told in statuses.items())
    return f"| Status | Meaning | Ended |\n|---|---|---|\n{rows}"


def _format_transitions(transitions: Collection[Transition]) -> str:
    rows = "".join(
        f"| {_code(one.sources) or '(new)'} | {_code(one.targets)} | {one.cause} | {_code(one.statements)} |\n"
        for one in transitions
    )
    return f"| From | To | What moves it | Statements |\n|---|---|---|---|\n{rows}"


def _code(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
