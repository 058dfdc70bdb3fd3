"""What a client does to a run after it was triggered, and to the key that stands for it. The calls of both clients over one body."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, TypeVar

from headrace.durations import Duration
from headrace.errors import ConfigurationError
from headrace.idempotency_keys import Key, hash_text, is_hashed, spell_key
from headrace.items import AnyTask, spell_delay, task_id
from headrace.sdk.effects import Flow, Send
from headrace.sdk.flows import make_headers, quote
from headrace.sdk.retries import read_object, send_patiently

T = TypeVar("T")


class LifeCalls:
    """What Client does."""

    def reschedule_run(self: _Blocking, run_id: str, delay: Duration | datetime) -> dict[str, Any]:
        """Lets a run that is delayed start after ``delay`` from now, or at a datetime; in the past is at once.

        Gives the run as it is then. Raises ApiError 400 where it is not delayed, or not any more, 404 where there is none.
        """
        return self.run_flow(reschedule_run(run_id, delay))

    def reset_idempotency_key(self: _Blocking, task: AnyTask, key: str | Key) -> None:
        """Frees a key of a task: the next trigger with it makes a new run. The run that it stood for goes on.

        Inside of a run a text is that run's key, as it is for a trigger; ``Key("x", run_id=...)`` is the key of another.
        Raises ApiError 404 where it stands for no run.
        """
        self.run_flow(reset_idempotency_key(task, key))


class AsyncLifeCalls:
    """What AsyncClient does."""

    async def reschedule_run(self: _Async, run_id: str, delay: Duration | datetime) -> dict[str, Any]:
        """See Client.reschedule_run."""
        return await self.run_flow(reschedule_run(run_id, delay))

    async def reset_idempotency_key(self: _Async, task: AnyTask, key: str | Key) -> None:
        """See Client.reset_idempotency_key."""
        await self.run_flow(reset_idempotency_key(task, key))


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Async(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def reschedule_run(run_id: str, delay: Duration | datetime) -> Flow[dict[str, Any]]:
    """Flow: another time for a delayed run."""
    try:
        body = {"delay": spell_delay(delay)}
    except ValueError as error:
        raise ConfigurationError(f"delay: {error}") from None
    path = f"/api/v1/runs/{quote(run_id)}/reschedule"
    return read_object((yield from send_patiently(Send("POST", path, json=body, headers=make_headers()))), "id")


def reset_idempotency_key(task: AnyTask, key: str | Key) -> Flow[None]:
    """Flow: frees a key. It goes as a hash: whatever its text is, that fits into a path."""
    try:
        spelt: str = spell_key(key)["idempotencyKey"]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"key: {error}") from None
    path = f"/api/v1/idempotencyKeys/{spelt if is_hashed(spelt) else hash_text(spelt)}/reset"
    request = Send("POST", path, json={"taskIdentifier": task_id(task)}, headers=make_headers())
    read_object((yield from send_patiently(request)), "id")
