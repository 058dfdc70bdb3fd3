"""The statements under ``queries/``, one a file, loaded by name once.

A statement takes its arguments by position (``$1``). Its comments say what it does and which index serves it; they are
cut off before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar

_COMMENT: Final = re.compile(r"^\s*--.*$\n?", re.MULTILINE)

T = TypeVar("T")


@cache
def load_sql(name: str) -> str:
    """The text of ``queries/<name>.sql`` without its comments.

    ``<name>:back`` is the same list the other way round: what is ordered DESC in it is ordered without.
    """
    file, _, way = name.partition(":")
    text = (files("headrace.store") / "queries" / f"{file}.sql").read_text(encoding="utf-8")
    text = _COMMENT.sub("", text).strip()
    return text.replace(" DESC", "") if way == "back" else text


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and its arguments, to be executed by whoever holds the connection."""

    name: str
    args: Sequence[Any]

    @property
    def sql(self) -> str:
        """Its text."""
        return load_sql(self.name)


Record = Any
"""A row: values by column name, ``row["id"]``, whichever driver it comes from."""

Plan = Generator[Statement, list[Record], T]
"""What one transaction does: it yields statements, is sent their rows, and returns an outcome.

A plan does no I/O, so the same one runs on the store's own connections (``Store.run_plan``) and inside a caller's open
transaction on asyncpg, psycopg or SQLAlchemy, sync or async.
"""


def query(name: str, *args: Any) -> Generator[Statement, list[Record], list[Record]]:
    """Within a plan: ``rows = yield from query("find_run", environment_id, run_id)``."""
    return (yield Statement(name, args))
