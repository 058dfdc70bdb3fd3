"""A batch that is submitted at once: one request, one transaction, all of its runs or none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from headrace.errors import ApiError, BatchTriggerError, ClientError
from headrace.items import AnyTask, Item, encode_item, make_options, read_options, task_id
from headrace.sdk.effects import Answer, Flow, Send
from headrace.sdk.flows import RawJson, SealedBatch, make_headers
from headrace.sdk.retries import TRIES, read_object, retry_after, send_patiently
from headrace.sdk.segments import describe_empty

PATH: Final = "/api/v2/tasks/batch"

_TOO_MANY: Final = "Maximum allowed batch size"
_INSTEAD: Final = (
    "submit() makes all runs in one transaction, and what one transaction takes is limited. batch_trigger() takes a batch of "
    'any length; with start="seal" none of its runs starts before all are stored.'
)


def submit_batch(
    task: AnyTask,
    items: Iterable[Any],
    options: dict[str, Any],
    *,
    key: str | None = None,
    ttl: str | None = None,
    tries: int = TRIES,
) -> Flow[SealedBatch]:
    """Flow: a batch with a run for each item, all stored and sealed in one transaction.

    Items are read, checked and encoded before anything is sent. Every try carries one request id, so an answer that got
    lost makes no second batch. Raises BatchTriggerError where the server refused it, and then nothing is there, or where no
    try was answered: then a call with the same ``key`` finds what became of it.
    """
    encoded = list(_encode_items(task, items, options))
    if not encoded:
        raise describe_empty()
    headers = make_headers()
    if key is not None:
        headers["idempotency-key"] = key
    if ttl is not None:
        headers["idempotency-key-ttl"] = ttl
    try:
        answer = yield from send_patiently(Send("POST", PATH, json={"items": encoded}, headers=headers), tries=tries)
    except ClientError as error:
        raise _give_up(error, len(encoded)) from error
    body = read_object(answer, "id", "runCount")
    return SealedBatch(body["id"], body["runCount"], is_cached=bool(body.get("isCached")))


def _encode_items(task: AnyTask, items: Iterable[Any], options: dict[str, Any]) -> Iterable[dict[str, Any]]:
    shared = _spell_options(task, options)
    for index, item in enumerate(items):
        own, wire, payload = task, shared, item
        if isinstance(item, Item):
            own, payload = item.task or task, item.payload
            wire = _spell_options(own, {**options, **item.options})
        data = encode_item(index, own, payload)
        body: dict[str, Any] = {"task": task_id(own)}
        if wire:
            body["options"] = wire
        if data is not None:
            body["payload"] = RawJson(data)
        yield body


def _spell_options(task: AnyTask, options: dict[str, Any]) -> dict[str, Any]:
    wire = make_options(task, options)
    read_options(wire)
    return wire


def _give_up(error: ClientError, count: int) -> BatchTriggerError:
    status = error.status if isinstance(error, ApiError) else None
    wait = retry_after(Answer(error.status, error.headers, b"")) if isinstance(error, ApiError) else None
    is_too_large = status == 413 or (status == 400 and _TOO_MANY in str(error))
    return BatchTriggerError(
        f"Failed to submit a batch of {count} items: {error}{f' {_INSTEAD}' if is_too_large else ''}",
        phase="create",
        status=status,
        expected=count,
        retry_after=wait,
    )
