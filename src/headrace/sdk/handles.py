"""Handles: what a trigger gives back, sync and async over the same flows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from headrace.durations import Duration, parse_duration
from headrace.errors import BatchTriggerError, PayloadError, ResultTimeoutError
from headrace.indexes import UnseenIndexes
from headrace.items import AnyTask
from headrace.outcomes import Failed, Ok, Outcome, make_run_error
from headrace.protocol.packets import decode_packet
from headrace.protocol.statuses import TERMINAL_BATCH_STATUSES
from headrace.sdk import flows
from headrace.sdk.effects import Flow, Sleep
from headrace.tasks import registry

if TYPE_CHECKING:
    from headrace.sdk.client import AsyncClient, Client

R = TypeVar("R")

_PAGE: Final = 1_000
_FIRST_PAGE: Final = 100
_PAGE_BYTES: Final = 4 * 1024 * 1024
_FIRST_LOOK: Final = 0.1
_LONGEST_LOOK: Final = 2.0


class _RunFlows(Generic[R]):
    def __init__(self, run_id: str, task: AnyTask, *, is_cached: bool = False) -> None:
        self.id = run_id
        self.is_cached = is_cached
        self._task = task

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def _result(self, timeout: Duration | None) -> Flow[R]:
        seconds = None if timeout is None else parse_duration(timeout)
        body = yield from flows.await_result(self.id, seconds)
        if body is None:
            raise ResultTimeoutError(f"run {self.id} had not ended after {seconds:g} s; it goes on")
        if not body["ok"]:
            raise make_run_error(self.id, body.get("status") or "FAILED", body.get("error"))
        return _read_output(self._task, body)


class RunHandle(_RunFlows[R]):
    """A run that was triggered: ``id`` (str), and what can be asked of it.

    ``is_cached`` (bool) says that it was there before: an idempotency or debounce key of the trigger stood for it.
    """

    def __init__(self, client: Client, run_id: str, task: AnyTask, *, is_cached: bool = False) -> None:
        super().__init__(run_id, task, is_cached=is_cached)
        self._client = client

    def result(self, timeout: Duration | None = None) -> R:
        """The result, once there is one, as the task's annotation says.

        Raises RunFailedError where the run ended without one, ResultTimeoutError after ``timeout`` (a duration).
        """
        return self._client.run_flow(self._result(timeout))

    def retrieve(self) -> dict[str, Any]:
        """The run as the server shows it (``GET /api/v3/runs/{id}``)."""
        return self._client.retrieve_run(self.id)

    def status(self) -> str:
        """Its status, such as QUEUED, EXECUTING or COMPLETED."""
        return self.retrieve()["status"]

    def cancel(self) -> None:
        """Cancels it, and after it the children that it waits for. Once it has ended nothing happens."""
        self._client.cancel_run(self.id)

    def reschedule(self, delay: Duration | datetime) -> dict[str, Any]:
        """Gives it another time while it is delayed; see Client.reschedule_run."""
        return self._client.reschedule_run(self.id, delay)


class AsyncRunHandle(_RunFlows[R]):
    """RunHandle for an event loop."""

    def __init__(self, client: AsyncClient, run_id: str, task: AnyTask, *, is_cached: bool = False) -> None:
        super().__init__(run_id, task, is_cached=is_cached)
        self._client = client

    async def result(self, timeout: Duration | None = None) -> R:
        """See RunHandle.result."""
        return await self._client.run_flow(self._result(timeout))

    async def retrieve(self) -> dict[str, Any]:
        """See RunHandle.retrieve."""
        return await self._client.retrieve_run(self.id)

    async def status(self) -> str:
        """See RunHandle.status."""
        return (await self.retrieve())["status"]

    async def cancel(self) -> None:
        """See RunHandle.cancel."""
        await self._client.cancel_run(self.id)

    async def reschedule(self, delay: Duration | datetime) -> dict[str, Any]:
        """See RunHandle.reschedule."""
        return await self._client.reschedule_run(self.id, delay)


class _BatchFlows(Generic[R]):
    def __init__(self, batch_id: str, task: AnyTask, run_count: int | None, *, is_cached: bool = False) -> None:
        self.id = batch_id
        self.run_count = run_count
        self.is_cached = is_cached
        self._task = task

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.run_count} items>"

    def _wait(self, timeout: Duration | None) -> Flow[dict[str, Any]]:
        seconds = None if timeout is None else parse_duration(timeout)
        body = yield from flows.await_batch(self.id, seconds)
        if body is None:
            raise ResultTimeoutError(f"batch {self.id} had not ended after {seconds:g} s; it goes on")
        return body

    def _next_in_order(self, position: int, looks: _Looks) -> Flow[list[Outcome[R]] | None]:
        """Flow: the outcomes from index ``position`` on, as far as they have ended without a gap; None at the end."""
        while self.run_count is None or position < self.run_count:
            page = yield from self._read_page(position - 1, looks)
            ready: list[Outcome[R]] = []
            for body in page:
                if body["index"] != position + len(ready):
                    break
                ready.append(self._read(body))
            if ready:
                looks.reset()
                return ready
            if looks.last is not None:  # what is not there now never will be: this page was read after the end
                raise self._describe_abort(looks.last, position)
            yield from self._look_again(looks)
        return None

    def _next_completed(self, unseen: UnseenIndexes, looks: _Looks) -> Flow[list[Outcome[R]] | None]:
        """Flow: outcomes that were not seen before; None when there will be no more. Looks only where gaps are."""
        while self.run_count is None or unseen.taken < self.run_count:
            start = unseen.find_from(looks.cursor)
            limit = looks.page
            page = yield from self._read_page(start - 1, looks)
            is_last = len(page) < limit
            looks.cursor = 0 if is_last else page[-1]["index"] + 1
            fresh = [self._read(body) for body in page if unseen.take(body["index"])]
            found = looks.found or bool(fresh)
            looks.found = found and not is_last
            if fresh:
                looks.reset()
                return fresh
            if found or not is_last:
                continue
            if looks.last is not None:
                raise self._describe_abort(looks.last, unseen.find_from(0))
            yield from self._look_again(looks)
        return None

    def _read_page(self, after: int, looks: _Looks) -> Flow[list[dict[str, Any]]]:
        limit = looks.page
        page, size = yield from flows.list_results(self.id, after, limit)
        if page:  # results can be large: the next page is to be some megabytes at most
            looks.page = max(1, min(_PAGE, _PAGE_BYTES * len(page) // max(size, 1)))
        return page

    def _look_again(self, looks: _Looks) -> Flow[None]:
        """Flow: waits for something to change; notes it where the batch has ended."""
        body = yield from flows.retrieve(f"/api/v2/batches/{flows.quote(self.id)}", wait=looks.next())
        if body.get("runCount") is not None:
            self.run_count = body["runCount"]
        if body.get("status") in TERMINAL_BATCH_STATUSES:
            looks.last = body
        else:
            yield Sleep(0.01)

    def _describe_abort(self, batch: dict[str, Any], index: int) -> BatchTriggerError:
        """What to tell who waits for an outcome that will never come."""
        progress: dict[str, Any] = batch.get("progress") or {}
        error: dict[str, Any] = batch.get("error") or {}
        reason = error.get("message") or error.get("raw") or "not all of its items were sent"
        return BatchTriggerError(
            f"Batch {self.id} is {batch['status']}, and item {index} has no outcome: {reason}",
            phase="seal",
            batch_id=self.id,
            accepted=progress.get("accepted"),
            expected=self.run_count,
        )

    def _read(self, body: dict[str, Any]) -> Outcome[R]:
        if body["ok"]:
            try:
                value = _read_output(self._find_task(body), body)
            except PayloadError as error:  # of one item: the others are not to be lost for it
                told = {"name": "PayloadError", "message": str(error)}
                return Failed(body["index"], body["id"], body.get("status") or "COMPLETED", told)
            return Ok(body["index"], body["id"], value)
        return Failed(body["index"], body["id"], body.get("status") or "FAILED", body.get("error") or {})

    def _find_task(self, body: dict[str, Any]) -> AnyTask:
        """The task that an item ran: of a mixed batch another one, which this program has defined too if it is typed."""
        named = body.get("taskIdentifier")
        if isinstance(self._task, str) or named in (None, self._task.id):
            return self._task
        return registry.get(named) or named


class _Looks:
    """How long to wait until the next look: longer the longer nothing comes; and what is known from looks before."""

    def __init__(self) -> None:
        self.last: dict[str, Any] | None = None  # the batch, once it has ended
        self.page = _FIRST_PAGE
        self.cursor = 0  # of as_completed: where this pass over the gaps goes on
        self.found = False  # whether this pass found anything before
        self.reset()

    def reset(self) -> None:
        self._seconds = _FIRST_LOOK

    def next(self) -> float:
        seconds = self._seconds
        self._seconds = min(seconds * 2, _LONGEST_LOOK)
        return seconds


class BatchHandle(_BatchFlows[R]):
    """A batch: ``id`` (str), ``run_count`` (int), and what can be asked of it.

    ``is_cached`` (bool) says that ``batch_key`` stood for it before, with all its items: nothing was added.
    """

    def __init__(
        self, client: Client, batch_id: str, task: AnyTask, run_count: int | None, *, is_cached: bool = False
    ) -> None:
        super().__init__(batch_id, task, run_count, is_cached=is_cached)
        self._client = client

    def retrieve(self) -> dict[str, Any]:
        """The batch as the server shows it (``GET /api/v2/batches/{id}``)."""
        return self._client.retrieve_batch(self.id)

    def wait(self, timeout: Duration | None = None) -> dict[str, Any]:
        """Waits until all runs have ended; gives the batch. Raises ResultTimeoutError after ``timeout`` (a duration)."""
        return self._client.run_flow(self._wait(timeout))

    def results(self) -> Iterator[Outcome[R]]:
        """An outcome for each item, in input order, each as soon as it and all before it have ended. Read in pages."""
        position, looks = 0, _Looks()
        while (ready := self._client.run_flow(self._next_in_order(position, looks))) is not None:
            yield from ready
            position += len(ready)

    def as_completed(self) -> Iterator[Outcome[R]]:
        """An outcome for each item, those that ended first first, as far as one look can tell."""
        unseen, looks = UnseenIndexes(), _Looks()
        while (ready := self._client.run_flow(self._next_completed(unseen, looks))) is not None:
            yield from ready


class AsyncBatchHandle(_BatchFlows[R]):
    """BatchHandle for an event loop."""

    def __init__(
        self, client: AsyncClient, batch_id: str, task: AnyTask, run_count: int | None, *, is_cached: bool = False
    ) -> None:
        super().__init__(batch_id, task, run_count, is_cached=is_cached)
        self._client = client

    async def retrieve(self) -> dict[str, Any]:
        """See BatchHandle.retrieve."""
        return await self._client.retrieve_batch(self.id)

    async def wait(self, timeout: Duration | None = None) -> dict[str, Any]:
        """See BatchHandle.wait."""
        return await self._client.run_flow(self._wait(timeout))

    async def results(self) -> AsyncIterator[Outcome[R]]:
        """See BatchHandle.results."""
        position, looks = 0, _Looks()
        while (ready := await self._client.run_flow(self._next_in_order(position, looks))) is not None:
            for outcome in ready:
                yield outcome
            position += len(ready)

    async def as_completed(self) -> AsyncIterator[Outcome[R]]:
        """See BatchHandle.as_completed."""
        unseen, looks = UnseenIndexes(), _Looks()
        while (ready := await self._client.run_flow(self._next_completed(unseen, looks))) is not None:
            for outcome in ready:
                yield outcome


def _read_output(task: AnyTask, body: dict[str, Any]) -> Any:
    """The result that an answer holds: JSON text and its media type."""
    text = body.get("output")
    data = None if text is None else text.encode("utf-8")
    media_type = body.get("outputType") or "application/json"
    return decode_packet(data, media_type) if isinstance(task, str) else task.decode_output(data, media_type)
