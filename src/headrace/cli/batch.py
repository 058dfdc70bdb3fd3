"""``headrace batch``: stream a file as a batch, and look at batches."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar, cast

import msgspec
from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import FAILED, OK, USAGE, CommandError
from headrace.cli.output import err, out, print_fields, print_json
from headrace.cli.run_options import SharedRunOptions, list_options
from headrace.errors import ConfigurationError

T = TypeVar("T")

_SHOWN_EVERY: Final = 50

batch_app: Final = App(name="batch", help="Stream items as a batch; look at batches.")


@batch_app.command
def run(
    task: Annotated[str, Parameter(help="Id of the task that runs them", env_var="HEADRACE_BATCH_TASK")],
    items: Annotated[
        str,
        Parameter(
            help="A file with one JSON payload a line; - is stdin",
            env_var="HEADRACE_BATCH_ITEMS",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    wait: Annotated[
        bool,
        Parameter(
            negative="", help="Wait until all runs have ended; exit code 1 if one failed", env_var="HEADRACE_BATCH_WAIT"
        ),
    ] = False,
    results: Annotated[
        Path | None,
        Parameter(help="File for the results as NDJSON, in order; implies --wait", env_var="HEADRACE_BATCH_RESULTS"),
    ] = None,
    batch_key: Annotated[
        str | None,
        Parameter(help="A second batch with the same key is the first one", env_var="HEADRACE_BATCH_KEY"),
    ] = None,
    batch_key_ttl: Annotated[
        str | None, Parameter(help="How long the key holds (30d)", env_var="HEADRACE_BATCH_KEY_TTL")
    ] = None,
    options: SharedRunOptions | None = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Stream items, one run each.

    The file is read as it is sent, so its size does not matter; an interrupted connection is resumed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        client = stack.enter_context(open_client(api_url, api_key))
        source = sys.stdin.buffer if items == "-" else stack.enter_context(_open_items(items))
        sink = stack.enter_context(_open_results(results)) if results else None
        progress = stack.enter_context(Progress(*columns, console=err, disable=not err.is_terminal))
        payloads = _show(progress, "streamed", None, _read_payloads(source, items))
        try:
            handle = client.batch_trigger(
                task, payloads, batch_key=batch_key, batch_key_ttl=batch_key_ttl, **list_options(options)
            )
        except ConfigurationError as error:
            raise CommandError(str(error), USAGE) from None
        succeeded = failed = 0
        if wait or results:
            for outcome in _show(progress, "finished", handle.run_count, handle.results()):
                succeeded += outcome.ok
                failed += not outcome.ok
                if sink:
                    sink.write(msgspec.json.encode(_describe_outcome(outcome)) + b"\n")
    summary: dict[str, Any] = {"id": handle.id, "runCount": handle.run_count}
    if batch_key is not None:
        summary["isCached"] = handle.is_cached
    if wait or results:
        summary |= {"succeeded": succeeded, "failed": failed}
    if json:
        print_json(summary)
    else:
        print_fields(summary)
    return FAILED if failed else OK


@batch_app.command
def show(
    batch_id: Annotated[str, Parameter(help="Id of the batch")],
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Show a batch: its status, how far it is, and which items could not become a run."""
    with open_client(api_url, api_key) as client, told_when_missing(f"batch {batch_id}"):
        batch: dict[str, Any] = client.retrieve_batch(batch_id)
    if json:
        print_json(batch)
        return OK
    progress = batch["progress"]
    print_fields(
        {
            "id": batch["id"],
            "status": batch["status"],
            "items": batch["runCount"] if batch.get("runCount") is not None else "not known yet",
            "accepted": progress["accepted"],
            "ended": progress["settled"],
            "succeeded": progress["succeeded"],
            "failed": progress["failed"],
            "created": batch["createdAt"],
            "error": cast("dict[str, Any]", batch.get("error") or {}).get("message"),
        }
    )
    for error in batch["processing"]["errors"]:
        out.print(f"item {error['index']}: {error['error']}", markup=False)
    return OK


def _open_items(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise CommandError(
            f"{name} can't be read: {error.strerror}. Give a file with one JSON payload a line, or - for stdin.", USAGE
        ) from None


def _open_results(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}. Nothing was sent.", USAGE) from None


def _show(progress: Progress, what: str, total: int | None, values: Iterable[T]) -> Generator[T]:
    """The values, with a bar that shows how many have passed: now and then, because drawing takes longer than they do."""
    bar = progress.add_task(what, total=total)
    number = 0
    for number, value in enumerate(values, 1):
        yield value
        if number % _SHOWN_EVERY == 0:
            progress.update(bar, completed=number)
    progress.update(bar, completed=number, total=number)


def _read_payloads(source: BinaryIO, name: str) -> Generator[msgspec.Raw]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise CommandError(
                f"{name}, line {number} is no JSON: {error}. The batch stays unsealed and is aborted later.", USAGE
            ) from None
        yield msgspec.Raw(line.strip())  # as it stands: no number is rounded on its way


def _describe_outcome(outcome: Any) -> dict[str, Any]:
    known = {"index": outcome.index, "ok": outcome.ok, "id": outcome.run_id}
    return known | ({"output": outcome.value} if outcome.ok else {"status": outcome.status, "error": outcome.error})
