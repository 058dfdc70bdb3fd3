"""What may be said of runs on the command line: an option each, the same for one run and for the items of a batch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from cyclopts import Parameter

from headrace.cli.outcome import USAGE, CommandError
from headrace.debounce import Debounce

_WINDOW: Final = ("key", "delay", "mode", "max_delay")


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
    retry: Annotated[
        str | None,
        _told(
            "retry", 'How often it is tried and when, as JSON: {"maxAttempts": 5, "factor": 2, "minTimeoutInMs": 1000}'
        ),
    ] = None
    max_duration: Annotated[str | None, _told("max_duration", "Longest that an attempt may take")] = None
    lock_to_version: Annotated[str | None, _told("lock_to_version", "Only by workers of this version of the code")] = (
        None
    )
    metadata: Annotated[str | None, _told("metadata", "First metadata, as a JSON object")] = None
    machine: Annotated[str | None, _told("machine", "Kind of machine, noted for who reads it: micro to large-2x")] = (
        None
    )
    test: Annotated[bool, Parameter(help="Mark it as a test", negative="", env_var="HEADRACE_RUN_TEST")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SingleRunOptions(SharedRunOptions):
    """Options that one run may have."""

    idempotency_key: Annotated[
        str | None, _told("idempotency_key", "A second run with the same key and task is the first one")
    ] = None
    idempotency_key_ttl: Annotated[str | None, _told("idempotency_key_ttl", "How long the key holds (30d)")] = None
    debounce_key: Annotated[
        str | None, _told("debounce_key", "Triggers with one key are one run; needs --debounce-delay")
    ] = None
    debounce_delay: Annotated[str | None, _told("debounce_delay", "That run starts when no other came for so long")] = (
        None
    )
    debounce_mode: Annotated[
        Literal["leading", "trailing"] | None,
        _told("debounce_mode", "Whose payload counts: the first one's (leading, default) or the latest one's"),
    ] = None
    debounce_max_delay: Annotated[
        str | None, _told("debounce_max_delay", "Put off for so long altogether, and no longer")
    ] = None


def list_options(given: SharedRunOptions | None) -> dict[str, Any]:
    """What was given, as the client takes it. Raises CommandError where a part of it is missing or no JSON."""
    if given is None:
        return {}
    said = {one.name: value for one in fields(given) if (value := getattr(given, one.name)) is not None}
    if not given.test:
        del said["test"]
    if "lock_to_version" in said:
        said["version"] = said.pop("lock_to_version")
    if "tags" in said:
        said["tags"] = [tag.strip() for tag in cast("str", said["tags"]).split(",") if tag.strip()]
    for name in ("metadata", "retry"):
        if name in said:
            said[name] = read_json_argument(f"--{name}", said[name])
    window = {name: said.pop(f"debounce_{name}") for name in _WINDOW if f"debounce_{name}" in said}
    if window and not {"key", "delay"} <= window.keys():
        raise CommandError("Debounce needs both --debounce-key and --debounce-delay.", USAGE)
    if window:
        said["debounce"] = Debounce(**window)
    return said


def read_json_argument(name: str, text: str) -> Any:
    """A value that was given as JSON. Raises CommandError where it is none."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise CommandError(f"{name} is {text!r}: give it as JSON, {error}", USAGE) from None
