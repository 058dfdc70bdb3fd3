"""Queues, from outside of a run: looked at, paused, limited. The calls of both clients over one body."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeVar

from headrace.errors import ConfigurationError
from headrace.protocol.queues import format_queue_id
from headrace.queues import Queue, check_queue_name
from headrace.sdk.effects import Flow, Send
from headrace.sdk.flows import make_headers, quote, retrieve
from headrace.sdk.retries import read_object, send_patiently
from headrace.tasks import Task

T = TypeVar("T")

AnyQueue = str | Queue | Task[Any, Any]
"""A queue by its name ("task/resize" is the task's own), as a Queue, or as the task whose queue it is."""

_PATH = "/api/v1/queues"


class QueueCalls:
    """What Client does with queues."""

    def list_queues(self: _Blocking, *, page: int = 1, per_page: int = 25) -> dict[str, Any]:
        """A page of queues, by name: ``data``, and ``pagination`` with ``currentPage``, ``totalPages`` and ``count``."""
        return self.run_flow(list_queues(page, per_page))

    def retrieve_queue(self: _Blocking, queue: AnyQueue) -> dict[str, Any]:
        """``GET /api/v1/queues/{queue}``: its limits, and how many of its runs execute and are queued. ApiError 404."""
        return self.run_flow(retrieve_queue(queue))

    def declare_queue(self: _Blocking, queue: Queue) -> dict[str, Any]:
        """Says all that a queue may do at once, as the code of a task would; it need not be there.

        >>> with Client() as client:                            # doctest: +SKIP
        ...     client.declare_queue(Queue("gpu", concurrency_limit=2))
        """
        return self.run_flow(declare_queue(queue))

    def pause_queue(self: _Blocking, queue: AnyQueue) -> dict[str, Any]:
        """Pauses a queue: nothing of it starts until it is resumed. What executes goes on. Raises ApiError 404."""
        return self.run_flow(pause_queue(queue, "pause"))

    def resume_queue(self: _Blocking, queue: AnyQueue) -> dict[str, Any]:
        """Lets a paused queue go on. Raises ApiError 404."""
        return self.run_flow(pause_queue(queue, "resume"))

    def limit_queue(
        self: _Blocking, queue: AnyQueue, limit: int | None = None, *, percent: float | None = None
    ) -> dict[str, Any]:
        """Sets a limit over the one that the code declares, until it is reset: a number of runs (0: none), or ``percent``
        of the environment's limit. Raises ApiError 400 where it is above that one, 404 where there is no such queue.
        """
        return self.run_flow(limit_queue(queue, limit, percent))

    def reset_queue(self: _Blocking, queue: AnyQueue) -> dict[str, Any]:
        """Lets the declared limit hold again. Raises ApiError 400 where none was set over it, 404."""
        return self.run_flow(reset_queue(queue))

    def retrieve_environment(self: _Blocking) -> dict[str, Any]:
        """What the environment of the key may do at once, and does."""
        return self.run_flow(retrieve("/api/v1/environment"))

    def pause_environment(self: _Blocking) -> dict[str, Any]:
        """Pauses the environment of the key: nothing of it starts until it is resumed. What executes goes on."""
        return self.run_flow(change_environment("pause", {"action": "pause"}))

    def resume_environment(self: _Blocking) -> dict[str, Any]:
        """Lets a paused environment go on."""
        return self.run_flow(change_environment("pause", {"action": "resume"}))

    def limit_environment(self: _Blocking, limit: int | None) -> dict[str, Any]:
        """Sets how many runs of the environment of the key may execute at once, on all queues together; None: any number."""
        return self.run_flow(change_environment("concurrency", {"concurrencyLimit": limit}))


class AsyncQueueCalls:
    """What AsyncClient does with queues."""

    async def list_queues(self: _Awaiting, *, page: int = 1, per_page: int = 25) -> dict[str, Any]:
        """See Client.list_queues."""
        return await self.run_flow(list_queues(page, per_page))

    async def retrieve_queue(self: _Awaiting, queue: AnyQueue) -> dict[str, Any]:
        """See Client.retrieve_queue."""
        return await self.run_flow(retrieve_queue(queue))

    async def declare_queue(self: _Awaiting, queue: Queue) -> dict[str, Any]:
        """See Client.declare_queue."""
        return await self.run_flow(declare_queue(queue))

    async def pause_queue(self: _Awaiting, queue: AnyQueue) -> dict[str, Any]:
        """See Client.pause_queue."""
        return await self.run_flow(pause_queue(queue, "pause"))

    async def resume_queue(self: _Awaiting, queue: AnyQueue) -> dict[str, Any]:
        """See Client.resume_queue."""
        return await self.run_flow(pause_queue(queue, "resume"))

    async def limit_queue(
        self: _Awaiting, queue: AnyQueue, limit: int | None = None, *, percent: float | None = None
    ) -> dict[str, Any]:
        """See Client.limit_queue."""
        return await self.run_flow(limit_queue(queue, limit, percent))

    async def reset_queue(self: _Awaiting, queue: AnyQueue) -> dict[str, Any]:
        """See Client.reset_queue."""
        return await self.run_flow(reset_queue(queue))

    async def retrieve_environment(self: _Awaiting) -> dict[str, Any]:
        """See Client.retrieve_environment."""
        return await self.run_flow(retrieve("/api/v1/environment"))

    async def pause_environment(self: _Awaiting) -> dict[str, Any]:
        """See Client.pause_environment."""
        return await self.run_flow(change_environment("pause", {"action": "pause"}))

    async def resume_environment(self: _Awaiting) -> dict[str, Any]:
        """See Client.resume_environment."""
        return await self.run_flow(change_environment("pause", {"action": "resume"}))

    async def limit_environment(self: _Awaiting, limit: int | None) -> dict[str, Any]:
        """See Client.limit_environment."""
        return await self.run_flow(change_environment("concurrency", {"concurrencyLimit": limit}))


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def list_queues(page: int, per_page: int) -> Flow[dict[str, Any]]:
    """Flow: a page of queues."""
    return retrieve(_PATH, page=page, perPage=per_page)


def retrieve_queue(queue: AnyQueue) -> Flow[dict[str, Any]]:
    """Flow: a queue as it stands."""
    return retrieve(_find_path(queue))


def declare_queue(queue: Queue) -> Flow[dict[str, Any]]:
    """Flow: says what a queue may do at once. Saying it twice does no harm."""
    rate = queue.rate
    body = {
        "concurrencyLimit": queue.concurrency_limit,
        "keyLimit": queue.key_limit,
        "rateLimit": {"limit": rate[0], "period": rate[1], "perKey": queue.rate_by_key} if rate else None,
        "keepSlotWhileWaiting": queue.keep_slot_while_waiting,
    }
    return _send("PUT", _find_path(queue), body)


def pause_queue(queue: AnyQueue, action: Literal["pause", "resume"]) -> Flow[dict[str, Any]]:
    """Flow: pauses a queue, or resumes it."""
    return _send("POST", f"{_find_path(queue)}/pause", {"action": action})


def limit_queue(queue: AnyQueue, limit: int | None, percent: float | None) -> Flow[dict[str, Any]]:
    """Flow: sets a limit over the declared one."""
    if (limit is None) == (percent is None):
        raise ConfigurationError("limit_queue: give a limit or a percent, and not both")
    body = {"concurrencyLimit": limit} if percent is None else {"percent": percent}
    return _send("POST", f"{_find_path(queue)}/concurrency/override", body)


def reset_queue(queue: AnyQueue) -> Flow[dict[str, Any]]:
    """Flow: lets the declared limit hold again. A repeat would be told that there is nothing to reset, so there is none."""
    request = Send("POST", f"{_find_path(queue)}/concurrency/reset", json={}, headers=make_headers())
    return read_object((yield from send_patiently(request, tries=1)), "id")


def change_environment(part: str, body: dict[str, Any]) -> Flow[dict[str, Any]]:
    """Flow: changes what the environment of the key may do at once."""
    request = Send("POST", f"/api/v1/environment/{part}", json=body, headers=make_headers())
    return read_object((yield from send_patiently(request)), "slug")


def _send(method: Any, path: str, body: dict[str, Any]) -> Flow[dict[str, Any]]:
    return read_object((yield from send_patiently(Send(method, path, json=body, headers=make_headers()))), "id")


def _find_path(queue: AnyQueue) -> str:
    """Where a queue is found: by its id, which follows from its name."""
    name = queue.queue if isinstance(queue, Task) else queue.name if isinstance(queue, Queue) else queue
    if name is None:
        raise ConfigurationError("a Queue without a name is a task's own: give the task")
    try:
        return f"{_PATH}/{quote(format_queue_id(check_queue_name(name)))}"
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
