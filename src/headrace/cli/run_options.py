"""What may be said of runs on the command line: an option each, the same for one run and for the items of a batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, cast

import msgspec
from cyclopts import Parameter

from headrace.cli.outcome import USAGE, CommandError


def _told(name: str, text: str) -> Parameter:
    return Parameter(help=text, env_var=f"HEADRACE_RUN_{name.upper()}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SharedRunOptions:
    """Options that each run of a batch may have."""

    delay: Annotated[
        str | None, _told("delay", "Not before: a duration such as 1h30m from now, or an ISO 8601 date")
    ] = None
    tags: Annotated[str | None, _told("tags", "Tags, separated by commas")] = None
    queue: Annotated[str | None, _told("queue", "Queue; default: the task's own")] = None
    ttl: Annotated[str | None, _told("ttl", "Expires where it was not started after so long")] = None
    priority: Annotated[float | None, _told("priority", "Goes before what came so many seconds earlier")] = None
    concurrency_key: Annotated[
        str | None, _told("concurrency_key", "Keys of a queue take turns, each with the queue's limit")
    ] = None
    order_key: Annotated[str | None, _told("order_key", "Runs of one key go one at a time, in their order")] = None
    max_attempts: Annotated[int | None, _told("max_attempts", "Most attempts")] = None
    max_duration: Annotated[str | None, _told("max_duration", "Longest that an attempt may take")] = None
    lock_to_version: Annotated[
        str | None, _told("lock_to_version", "Only by workers of this version of the code")
    ] = None
    metadata: Annotated[str | None, _told("metadata", "First metadata, as a JSON object")] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SingleRunOptions(SharedRunOptions):
    """Options that one run may have."""

    idempotency_key: Annotated[
        str | None, _told("idempotency_key", "A second run with the same key and task is the first one")
    ] = None
    idempotency_key_ttl: Annotated[str | None, _told("idempotency_key_ttl", "How long the key holds (30d)")] = None


def list_options(given: SharedRunOptions | None) -> dict[str, Any]:
    """What was given, as the client takes it."""
    if given is None:
        return {}
    said = {one.name: value for one in fields(given) if (value := getattr(given, one.name)) is not None}
    if "lock_to_version" in said:
        said["version"] = said.pop("lock_to_version")
    if "tags" in said:
        said["tags"] = [tag.strip() for tag in cast("str", said["tags"]).split(",") if tag.strip()]
    if "metadata" in said:
        said["metadata"] = read_json_argument("--metadata", said["metadata"])
    return said


def read_json_argument(name: str, text: str) -> Any:
    """A value that was given as JSON. Raises CommandError where it is none."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise CommandError(f"{name} is {text!r}: give it as JSON, {error}", USAGE) from None
