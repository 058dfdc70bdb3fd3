"""One request with its retries, and what its answer means: the flow under every other one."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from headrace.errors import ApiError, ClientError, ConnectionFailedError, ResultTimeoutError
from headrace.sdk.effects import Answer, Broken, Flow, Send, World, send, sleep
from headrace.sdk.retries import REQUEST_BACKOFF, Backoff, decide_delay

T = TypeVar("T")

REQUEST_ID_HEADER: Final = "x-trigger-request-idempotency-key"
_JSON: Final = {"content-type": "application/json"}


def call(
    world: World, request: Send, *, backoff: Backoff = REQUEST_BACKOFF, until: float | None = None
) -> Flow[Answer]:
    """Flow: sends until there is a 2xx.

    ``until`` (on the monotonic clock) ends the tries sooner, with ResultTimeoutError. Raises ApiError or
    ConnectionFailedError when the last try failed.
    """
    attempt = 1
    while True:
        outcome = yield from send(request)
        if isinstance(outcome, Answer) and outcome.is_success:
            return outcome
        delay = decide_delay(outcome, attempt, backoff, world)
        if delay is None:
            raise describe_failure(outcome, attempt)
        if until is not None and world.monotonic() + delay > until:
            raise ResultTimeoutError("no result in time; the last request failed") from describe_failure(
                outcome, attempt
            )
        yield from sleep(delay)
        attempt += 1


def get(world: World, path: str, type_: type[T], *params: tuple[str, str], until: float | None = None) -> Flow[T]:
    """Flow: a GET, and the JSON of its answer as ``type_``. Raises what ``call`` does."""
    answer = yield from call(world, Send("GET", path, params), until=until)
    return read_body(answer, type_)


def create(
    world: World,
    path: str,
    content: bytes,
    type_: type[T],
    headers: dict[str, str],
    *,
    backoff: Backoff = REQUEST_BACKOFF,
) -> Flow[T]:
    """Flow: a POST that makes something, once: its tries share a request id. Raises what ``call`` does."""
    headers = {**_JSON, **headers, REQUEST_ID_HEADER: world.new_request_id()}
    answer = yield from call(world, Send("POST", path, headers=headers, content=content), backoff=backoff)
    return read_body(answer, type_)


def read_body(answer: Answer, type_: type[T]) -> T:
    """The JSON of an answer. Raises ClientError where it is none, or not of this shape: another program answers there."""
    try:
        return msgspec.json.decode(answer.body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(
            f"The answer ({answer.status}) is not what a headrace server says: {error}. Check the server's URL."
        ) from error


def describe_failure(outcome: Answer | Broken, attempts: int) -> ApiError | ConnectionFailedError:
    """The exception for an outcome that is no success; a broken connection is its cause."""
    if isinstance(outcome, Answer):
        body = _read_loosely(outcome.body)
        return ApiError(outcome.status, _find_message(outcome, body), dict(outcome.headers), body)
    times = "once" if attempts == 1 else f"{attempts} times"
    error = ConnectionFailedError(
        f"The server could not be reached, or the connection broke; tried {times}. The last time: "
        f"{type(outcome.error).__name__}: {outcome.error}"
    )
    error.__cause__ = outcome.error
    return error


def _read_loosely(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _find_message(answer: Answer, body: Any) -> str:
    if isinstance(body, dict) and isinstance(said := body.get("error"), str):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return said
    return answer.body[:200].decode("utf-8", "replace") or "no reason given"
