"""``headrace import``: runs of another installation that have ended. Talks to the database itself."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from cyclopts import Parameter
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from headrace.cli.connection import use_engine
from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import FAILED, NOT_FOUND, OK, UNREACHABLE, USAGE, CommandError
from headrace.cli.output import err, out, print_json
from headrace.engine import imports
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, find_environment
from headrace.engine.imports import EndedRun
from headrace.payloads import PayloadStoreError
from headrace.settings import Settings

_SHOWN: Final = 100


@dataclass(slots=True)
class _Tally:
    """What became of the lines of a file."""

    lines: int = 0
    new: int = 0
    known: int = 0
    keys: int = 0
    left_out: int = 0
    """Good lines of chunks that have a bad one."""
    bad: int = 0
    first_bad: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])


@dataclass(slots=True)
class _Chunk:
    """Lines that are stored by one transaction, or not at all."""

    runs: list[EndedRun] = field(default_factory=list[EndedRun])
    bad: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    lines: int = 0
    size: int = 0


def import_(
    file: Annotated[
        str,
        Parameter(
            help="A file with one ended run a line, as JSON; - is stdin",
            env_var="HEADRACE_IMPORT_FILE",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    environment: Annotated[str, Parameter(help="dev, staging or prod")] = "dev",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Import runs of another installation that have ended, under the ids that they have there.

    They go to the store that `headrace stores legacy` names, or to home. Repeating it makes nothing twice. A line that can't be
    used is told with its number, and nothing of its chunk (1000 lines or 1 MiB) is stored; exit code 1.
    """
    with ExitStack() as stack:
        source = sys.stdin.buffer if file == "-" else stack.enter_context(_open(file))
        tally = use_engine(database_url, lambda engine: _import(engine, environment, source))
    if json:
        print_json(
            {
                "lines": tally.lines,
                "imported": tally.new,
                "known": tally.known,
                "keys": tally.keys,
                "leftOut": tally.left_out,
                "bad": tally.bad,
                "firstBad": [{"line": number, "reason": reason} for number, reason in tally.first_bad],
            }
        )
        return FAILED if tally.bad else OK
    out.print(f"{tally.new} runs were imported; {tally.known} were there already; {tally.keys} keys stand for runs.")
    for number, reason in tally.first_bad:
        err.print(f"line {number}: {reason}", markup=False)
    if tally.bad:
        err.print(
            f"{tally.bad} lines can't be imported, and {tally.left_out} good ones of the same chunks were left out with them. "
            "Mend them and import the file again."
        )
    return FAILED if tally.bad else OK


async def _import(engine: Engine, slug: str, source: BinaryIO) -> _Tally:
    environment = await find_environment(engine, slug)
    if environment is None:
        raise CommandError(f"There is no environment {slug!r}.", NOT_FOUND)
    tally = _Tally()
    columns = (TextColumn("{task.completed} lines"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=None)
        async for _ in _store(engine, environment, source, tally):
            bar.update(task, completed=tally.lines)
    return tally


async def _store(engine: Engine, environment: Environment, source: BinaryIO, tally: _Tally) -> AsyncGenerator[None]:
    begun = False
    for chunk in _read_chunks(source, engine.settings):
        tally.lines += chunk.lines
        if chunk.bad:
            tally.bad += len(chunk.bad)
            tally.left_out += len(chunk.runs)
            tally.first_bad += chunk.bad[: _SHOWN - len(tally.first_bad)]
            continue
        if not begun:
            await imports.begin_import(engine)
            begun = True
        try:
            stored = await imports.import_runs(engine, environment, chunk.runs)
        except PayloadStoreError as error:
            raise CommandError(
                f"{error} Import the file again: what is there is not made twice.", UNREACHABLE
            ) from None
        tally.new += stored.new
        tally.known += stored.known
        tally.keys += stored.keys
        yield


def _read_chunks(source: BinaryIO, settings: Settings) -> Generator[_Chunk]:
    chunk = _Chunk()
    for number, line in _read_lines(source, settings.item_max_size):
        chunk.lines += 1
        chunk.size += len(line or b"")
        try:
            if line is None:
                raise ValueError(f"it is longer than {settings.item_max_size} bytes (HEADRACE_ITEM_MAX_SIZE)")  # noqa: TRY301 - as a bad line's
            chunk.runs.append(imports.read_ended_run(line, settings))
        except ValueError as error:
            chunk.bad.append((number, str(error)))
        if chunk.lines >= settings.ingest_chunk_items or chunk.size >= settings.ingest_chunk_bytes:
            yield chunk
            chunk = _Chunk()
    if chunk.lines:
        yield chunk


def _read_lines(source: BinaryIO, most: int) -> Generator[tuple[int, bytes | None]]:
    """Lines by their numbers, but for blank ones; None for one that is too long, of which no more than that is held."""
    number = 0
    while line := source.readline(most + 1):
        number += 1
        if len(line) > most and not line.endswith(b"\n"):
            while (more := source.readline(most)) and not more.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line


def _open(name: str) -> Any:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise CommandError(
            f"{name} can't be read: {error.strerror}. Give a file with one ended run a line, or - for stdin.", USAGE
        ) from None
