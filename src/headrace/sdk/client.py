"""Client and AsyncClient: the same calls, one body (the flows), two ways to run it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import httpx2

from headrace.durations import Duration
from headrace.engine.admission import judge_stream
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    BatchRefused,
    KeyConflict,
    Packet,
    RunCreated,
    RunExists,
    StoredItem,
    StreamOpen,
)
from headrace.engine.screening import refuse_options
from headrace.engine.submissions import submit_in_transaction, trigger_in_transaction
from headrace.errors import ApiError, ConfigurationError
from headrace.ids import format_batch_id, format_run_id
from headrace.items import (
    AnyTask,
    Item,
    LineEncoder,
    Options,
    SharedOptions,
    check_items,
    encode_item,
    encode_payload,
    make_options,
    read_options,
    task_id,
)
from headrace.protocol.batches import CreateBatch
from headrace.sdk import flows, transactions
from headrace.sdk.bulk_actions import AsyncBulkCalls, BulkCalls
from headrace.sdk.effects import Flow
from headrace.sdk.handles import AsyncBatchHandle, AsyncRunHandle, BatchHandle, RunHandle
from headrace.sdk.inputs import count_items, refuse_running_loop, spell_ttl
from headrace.sdk.lifecycle import AsyncLifeCalls, LifeCalls
from headrace.sdk.listings import AsyncListCalls, ListCalls
from headrace.sdk.metadata import make_operations
from headrace.sdk.queues import AsyncQueueCalls, QueueCalls
from headrace.sdk.replays import AsyncReplayCalls, ReplayCalls
from headrace.sdk.runners import run_flow, run_flow_async
from headrace.sdk.schedules import AsyncScheduleCalls, ScheduleCalls
from headrace.sdk.segments import ItemSource, describe_empty
from headrace.sdk.submissions import submit_batch
from headrace.sdk.tokens import AsyncTokenCalls, TokenCalls
from headrace.sdk.versions import AsyncVersionCalls, VersionCalls
from headrace.settings import Settings
from headrace.store.statements import Plan
from headrace.tasks import Task
from headrace.telemetry import current_traceparent

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")

Start = Literal["add", "seal"]


def _find_trust(url: str) -> ssl.SSLContext | bool:
    """Whose certificates are good: by https the system's; http needs none, and is spared 25 ms of reading them."""
    return url.startswith("https://") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Common:
    """What both clients have: where the server is, and the bodies of their calls."""

    def __init__(self, url: str | None, api_key: str | None) -> None:
        self._settings = Settings.from_environment(api_url=url, api_key=api_key)
        if not self._settings.api_key:
            raise ConfigurationError("No API key is given: pass api_key=, or set HEADRACE_API_KEY.")
        if not self._settings.api_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"The server's URL is {self._settings.api_url!r}, but must begin with http:// or https://."
            )
        self._http_options: dict[str, Any] = {
            "base_url": self._settings.api_url,
            "headers": {"authorization": f"Bearer {self._settings.api_key}", "x-trigger-source": "sdk"},
            "trust_env": False,
            "verify": _find_trust(self._settings.api_url),
        }

    def _stream(
        self,
        task: AnyTask,
        source: ItemSource,
        run_count: int | None,
        start: Start,
        key: str | None,
        ttl: Duration | None,
    ) -> Flow[flows.SealedBatch]:
        create: dict[str, Any] = {"taskIdentifiers": [task_id(task)], "start": start}
        if run_count is not None:
            create["runCount"] = run_count
        if source.has_meeting_keys:
            create["ordered"] = True
        if key is not None:
            create["idempotencyKey"] = key
        if ttl is not None:
            create["idempotencyKeyTTL"] = spell_ttl(ttl)
        return flows.stream_batch(create, source)

    @staticmethod
    def _submit(
        task: AnyTask, items: Iterable[Any], key: str | None, ttl: Duration | None, options: dict[str, Any]
    ) -> Flow[flows.SealedBatch]:
        return submit_batch(task, items, options, key=key, ttl=None if ttl is None else spell_ttl(ttl))

    def _trigger_plan(self, task: AnyTask, payload: Any, options: dict[str, Any]) -> Plan[Any]:
        chosen = read_options(make_options(task, options))
        refuse_options(task_id(task), chosen, self._settings.metadata_max_size)
        return trigger_in_transaction(
            self._settings.api_key,
            task_id(task),
            Packet(encode_payload(task, payload)),
            chosen,
            self._settings,
            traceparent=current_traceparent(),
        )

    def _submit_plan(
        self,
        task: AnyTask,
        items: Iterable[Any],
        run_count: int | None,
        start: Start,
        key: str | None,
        ttl: Duration | None,
        options: dict[str, Any],
    ) -> Plan[Any]:
        stored = list(_store_items(task, items, options))
        if not stored:
            raise describe_empty()
        for item in stored:
            if item.options is not None:
                refuse_options(item.task, item.options, self._settings.metadata_max_size)
        if run_count not in (None, len(stored)):
            raise ConfigurationError(f"run_count is {run_count}, but the iterable gave {len(stored)} items.")
        request = CreateBatch(
            run_count=len(stored),
            start=start,
            idempotency_key=key,
            idempotency_key_ttl=None if ttl is None else spell_ttl(ttl),
        )
        return submit_in_transaction(
            self._settings.api_key, request, stored, self._settings, traceparent=current_traceparent()
        )


class Client(
    _Common, QueueCalls, LifeCalls, TokenCalls, ScheduleCalls, ReplayCalls, VersionCalls, BulkCalls, ListCalls
):
    """Triggers runs and reads what became of them, from code without an event loop.

    >>> with Client() as client:                                # doctest: +SKIP
    ...     handle = client.trigger(resize, image, tags=["a"])
    ...     handle.result(timeout="30s")

    ``url`` and ``api_key`` default to HEADRACE_API_URL and HEADRACE_API_KEY. Threads may share a client. Raises
    ConfigurationError without a key.
    """

    def __init__(self, url: str | None = None, *, api_key: str | None = None) -> None:
        super().__init__(url, api_key)
        self._http = httpx2.Client(**self._http_options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()

    @overload
    def trigger(
        self, task: Task[None, R], /, *, connection: Any = None, **options: Unpack[Options]
    ) -> RunHandle[R]: ...
    @overload
    def trigger(
        self, task: Task[P, R], payload: P, /, *, connection: Any = None, **options: Unpack[Options]
    ) -> RunHandle[R]: ...
    @overload
    def trigger(
        self, task: str, payload: Any = None, /, *, connection: Any = None, **options: Unpack[Options]
    ) -> RunHandle[Any]: ...
    def trigger(self, task: Any, payload: Any = None, /, *, connection: Any = None, **options: Any) -> RunHandle[Any]:
        """Makes one run of a task (or of the task with an id), with ``payload``.

        ``connection`` is the caller's own open transaction (psycopg, or SQLAlchemy over it): the run then exists if and
        only if that commits. Raises PayloadError on a payload that the task does not take, ConfigurationError on a wrong
        option, ApiError and ConnectionFailedError where the server does not take it.
        """
        if connection is not None:
            refuse_running_loop()
            answer = transactions.run_plan(connection, self._trigger_plan(task, payload, options))
            made = _read_run(answer)
        else:
            made = self.run_flow(flows.trigger_run(task, payload, options))
        return RunHandle(self, made.id, task, is_cached=made.is_cached)

    @overload
    def batch_trigger(
        self,
        task: Task[P, R],
        items: Iterable[P | Item],
        /,
        *,
        run_count: int | None = None,
        start: Start = "add",
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        connection: Any = None,
        **options: Unpack[SharedOptions],
    ) -> BatchHandle[R]: ...
    @overload
    def batch_trigger(
        self,
        task: str,
        items: Iterable[Any],
        /,
        *,
        run_count: int | None = None,
        start: Start = "add",
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        connection: Any = None,
        **options: Unpack[SharedOptions],
    ) -> BatchHandle[Any]: ...
    def batch_trigger(
        self,
        task: Any,
        items: Iterable[Any],
        /,
        *,
        run_count: int | None = None,
        start: Start = "add",
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        connection: Any = None,
        **options: Any,
    ) -> BatchHandle[Any]:
        """Makes a batch with a run for each item, and returns when all are stored and the batch is sealed.

        ``items`` is read lazily, in this thread, as it is sent, and may be of any length; an item is a payload, or an Item
        with options of its own. ``options`` hold for each item. Runs start as items arrive, or with ``start="seal"`` when
        all have. ``batch_key`` makes a repeated call find the first one's batch. A broken connection is resumed.

        Raises BatchTriggerError on giving up; what ``items`` itself raises comes through, and leaves the batch unsealed.
        """
        refuse_running_loop()
        check_items(items, options)
        if connection is not None:
            plan = self._submit_plan(task, items, run_count, start, batch_key, batch_key_ttl, options)
            made = _read_batch(transactions.run_plan(connection, plan))
            return BatchHandle(self, made.id, task, made.run_count, is_cached=made.is_cached)
        source = ItemSource(items, LineEncoder(task, options))
        source.read_ahead()
        count = count_items(items) if run_count is None else run_count
        sealed = self.run_flow(self._stream(task, source, count, start, batch_key, batch_key_ttl))
        return BatchHandle(self, sealed.id, task, sealed.run_count, is_cached=sealed.is_cached)

    @overload
    def submit(
        self,
        task: Task[P, R],
        items: Iterable[P | Item],
        /,
        *,
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        **options: Unpack[SharedOptions],
    ) -> BatchHandle[R]: ...
    @overload
    def submit(
        self,
        task: str,
        items: Iterable[Any],
        /,
        *,
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        **options: Unpack[SharedOptions],
    ) -> BatchHandle[Any]: ...
    def submit(
        self,
        task: Any,
        items: Iterable[Any],
        /,
        *,
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        **options: Any,
    ) -> BatchHandle[Any]:
        """Makes a batch with a run for each item in one request and one transaction: all of them, or none.

        For up to as many items as the server takes at once (HEADRACE_ONE_SHOT_MAX_ITEMS, HEADRACE_BODY_MAX_SIZE): what is
        longer is streamed by batch_trigger. Arguments are as there. Raises PayloadError and ConfigurationError before
        anything is sent, BatchTriggerError where the server does not take it; nothing is there then.
        """
        refuse_running_loop()
        check_items(items, options)
        sealed = self.run_flow(self._submit(task, items, batch_key, batch_key_ttl, options))
        return BatchHandle(self, sealed.id, task, sealed.run_count, is_cached=sealed.is_cached)

    @overload
    def batch(self, batch_id: str, task: Task[Any, R], /) -> BatchHandle[R]: ...
    @overload
    def batch(self, batch_id: str, task: str | None = None, /) -> BatchHandle[Any]: ...
    def batch(self, batch_id: str, task: Any = None, /) -> BatchHandle[Any]:
        """A handle of a batch that was made before; with its task, results are as that one's annotation says."""
        return BatchHandle(self, batch_id, task or "", None)

    @overload
    def run(self, run_id: str, task: Task[Any, R], /) -> RunHandle[R]: ...
    @overload
    def run(self, run_id: str, task: str | None = None, /) -> RunHandle[Any]: ...
    def run(self, run_id: str, task: Any = None, /) -> RunHandle[Any]:
        """A handle of a run that was made before."""
        return RunHandle(self, run_id, task or "")

    def retrieve_run(self, run_id: str) -> dict[str, Any]:
        """``GET /api/v3/runs/{id}``. Raises ApiError 404 where there is none."""
        return self.run_flow(flows.retrieve(f"/api/v3/runs/{flows.quote(run_id)}"))

    def cancel_run(self, run_id: str) -> None:
        """Cancels a run, and after it the children that it waits for. A run that has ended stays as it is."""
        self.run_flow(flows.cancel_run(run_id))

    def retrieve_metadata(self, run_id: str) -> dict[str, Any]:
        """What a run shows of itself. Raises ApiError 404 where there is no such run."""
        return self.run_flow(flows.retrieve(f"/api/v1/runs/{flows.quote(run_id)}/metadata"))["metadata"]

    def update_metadata(
        self,
        run_id: str,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        replace: Mapping[str, Any] | None = None,
        increment: Mapping[str, float] | None = None,
        append: Mapping[str, Any] | None = None,
        remove: Mapping[str, Any] | None = None,
        delete: Sequence[str] | str = (),
    ) -> dict[str, Any]:
        """Changes what a run shows of itself: all that is asked for, or nothing. Its metadata after that.

            client.update_metadata(run_id, {"stage": "checked"}, increment={"done": 1}, append={"log": "checked by hand"})

        ``values`` sets keys and leaves the others. Keys may be paths: ``"$.files.0.name"``. What others change at the same
        time is not lost. Until an hour after the run's end. Raises ApiError 404 where there is no such run, 422 where a
        change can't be done.
        """
        operations = make_operations(
            values, replace=replace, increment=increment, append=append, remove=remove, delete=delete
        )
        return self.run_flow(flows.update_metadata(run_id, operations))

    def add_tags(self, run_id: str, tags: Sequence[str] | str, /) -> None:
        """Gives a run tags beside those that it has, whatever its status. Raises ApiError 422 where they are too many."""
        self.run_flow(flows.add_tags(run_id, [tags] if isinstance(tags, str) else list(tags)))

    def retrieve_batch(self, batch_id: str) -> dict[str, Any]:
        """``GET /api/v2/batches/{id}``. Raises ApiError 404 where there is none."""
        return self.run_flow(flows.retrieve(f"/api/v2/batches/{flows.quote(batch_id)}"))

    def run_flow(self, flow: Flow[T]) -> T:
        """Runs a flow of the SDK's; handles use it. Raises RuntimeError inside a running event loop."""
        refuse_running_loop()
        return run_flow(flow, self._http)


class AsyncClient(
    _Common,
    AsyncQueueCalls,
    AsyncLifeCalls,
    AsyncTokenCalls,
    AsyncScheduleCalls,
    AsyncReplayCalls,
    AsyncVersionCalls,
    AsyncBulkCalls,
    AsyncListCalls,
):
    """Client for an event loop: the same calls, awaited; ``items`` may be an async iterable. See Client."""

    def __init__(self, url: str | None = None, *, api_key: str | None = None) -> None:
        super().__init__(url, api_key)
        self._http = httpx2.AsyncClient(**self._http_options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Lets go of the connections."""
        await self._http.aclose()

    @overload
    async def trigger(
        self, task: Task[None, R], /, *, connection: Any = None, **options: Unpack[Options]
    ) -> AsyncRunHandle[R]: ...
    @overload
    async def trigger(
        self, task: Task[P, R], payload: P, /, *, connection: Any = None, **options: Unpack[Options]
    ) -> AsyncRunHandle[R]: ...
    @overload
    async def trigger(
        self, task: str, payload: Any = None, /, *, connection: Any = None, **options: Unpack[Options]
    ) -> AsyncRunHandle[Any]: ...
    async def trigger(
        self, task: Any, payload: Any = None, /, *, connection: Any = None, **options: Any
    ) -> AsyncRunHandle[Any]:
        """See Client.trigger. ``connection``: asyncpg, psycopg.AsyncConnection, SQLAlchemy's AsyncSession or AsyncConnection."""
        if connection is not None:
            answer = await transactions.run_plan_async(connection, self._trigger_plan(task, payload, options))
            made = _read_run(answer)
        else:
            made = await self.run_flow(flows.trigger_run(task, payload, options))
        return AsyncRunHandle(self, made.id, task, is_cached=made.is_cached)

    @overload
    async def batch_trigger(
        self,
        task: Task[P, R],
        items: Iterable[P | Item] | AsyncIterable[P | Item],
        /,
        *,
        run_count: int | None = None,
        start: Start = "add",
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        connection: Any = None,
        **options: Unpack[SharedOptions],
    ) -> AsyncBatchHandle[R]: ...
    @overload
    async def batch_trigger(
        self,
        task: str,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        run_count: int | None = None,
        start: Start = "add",
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        connection: Any = None,
        **options: Unpack[SharedOptions],
    ) -> AsyncBatchHandle[Any]: ...
    async def batch_trigger(
        self,
        task: Any,
        items: Any,
        /,
        *,
        run_count: int | None = None,
        start: Start = "add",
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        connection: Any = None,
        **options: Any,
    ) -> AsyncBatchHandle[Any]:
        """See Client.batch_trigger."""
        check_items(items, options, may_be_async=True)
        if connection is not None:
            known: Any = [item async for item in items] if isinstance(items, AsyncIterable) else items  # pyright: ignore[reportUnknownVariableType]
            plan = self._submit_plan(task, known, run_count, start, batch_key, batch_key_ttl, options)
            made = _read_batch(await transactions.run_plan_async(connection, plan))
            return AsyncBatchHandle(self, made.id, task, made.run_count, is_cached=made.is_cached)
        source = ItemSource(items, LineEncoder(task, options))
        await source.read_ahead_async()
        count = count_items(items) if run_count is None else run_count
        sealed = await self.run_flow(self._stream(task, source, count, start, batch_key, batch_key_ttl))
        return AsyncBatchHandle(self, sealed.id, task, sealed.run_count, is_cached=sealed.is_cached)

    @overload
    async def submit(
        self,
        task: Task[P, R],
        items: Iterable[P | Item] | AsyncIterable[P | Item],
        /,
        *,
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        **options: Unpack[SharedOptions],
    ) -> AsyncBatchHandle[R]: ...
    @overload
    async def submit(
        self,
        task: str,
        items: Iterable[Any] | AsyncIterable[Any],
        /,
        *,
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        **options: Unpack[SharedOptions],
    ) -> AsyncBatchHandle[Any]: ...
    async def submit(
        self,
        task: Any,
        items: Any,
        /,
        *,
        batch_key: str | None = None,
        batch_key_ttl: Duration | None = None,
        **options: Any,
    ) -> AsyncBatchHandle[Any]:
        """See Client.submit."""
        check_items(items, options, may_be_async=True)
        known: Any = [item async for item in items] if isinstance(items, AsyncIterable) else items  # pyright: ignore[reportUnknownVariableType]
        sealed = await self.run_flow(self._submit(task, known, batch_key, batch_key_ttl, options))
        return AsyncBatchHandle(self, sealed.id, task, sealed.run_count, is_cached=sealed.is_cached)

    @overload
    def batch(self, batch_id: str, task: Task[Any, R], /) -> AsyncBatchHandle[R]: ...
    @overload
    def batch(self, batch_id: str, task: str | None = None, /) -> AsyncBatchHandle[Any]: ...
    def batch(self, batch_id: str, task: Any = None, /) -> AsyncBatchHandle[Any]:
        """See Client.batch."""
        return AsyncBatchHandle(self, batch_id, task or "", None)

    @overload
    def run(self, run_id: str, task: Task[Any, R], /) -> AsyncRunHandle[R]: ...
    @overload
    def run(self, run_id: str, task: str | None = None, /) -> AsyncRunHandle[Any]: ...
    def run(self, run_id: str, task: Any = None, /) -> AsyncRunHandle[Any]:
        """See Client.run."""
        return AsyncRunHandle(self, run_id, task or "")

    async def retrieve_run(self, run_id: str) -> dict[str, Any]:
        """See Client.retrieve_run."""
        return await self.run_flow(flows.retrieve(f"/api/v3/runs/{flows.quote(run_id)}"))

    async def cancel_run(self, run_id: str) -> None:
        """See Client.cancel_run."""
        await self.run_flow(flows.cancel_run(run_id))

    async def retrieve_metadata(self, run_id: str) -> dict[str, Any]:
        """See Client.retrieve_metadata."""
        return (await self.run_flow(flows.retrieve(f"/api/v1/runs/{flows.quote(run_id)}/metadata")))["metadata"]

    async def update_metadata(
        self,
        run_id: str,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        replace: Mapping[str, Any] | None = None,
        increment: Mapping[str, float] | None = None,
        append: Mapping[str, Any] | None = None,
        remove: Mapping[str, Any] | None = None,
        delete: Sequence[str] | str = (),
    ) -> dict[str, Any]:
        """See Client.update_metadata."""
        operations = make_operations(
            values, replace=replace, increment=increment, append=append, remove=remove, delete=delete
        )
        return await self.run_flow(flows.update_metadata(run_id, operations))

    async def add_tags(self, run_id: str, tags: Sequence[str] | str, /) -> None:
        """See Client.add_tags."""
        await self.run_flow(flows.add_tags(run_id, [tags] if isinstance(tags, str) else list(tags)))

    async def retrieve_batch(self, batch_id: str) -> dict[str, Any]:
        """See Client.retrieve_batch."""
        return await self.run_flow(flows.retrieve(f"/api/v2/batches/{flows.quote(batch_id)}"))

    async def run_flow(self, flow: Flow[T]) -> T:
        """Runs a flow of the SDK's; handles use it."""
        return await run_flow_async(flow, self._http)


def _store_items(task: AnyTask, items: Iterable[Any], options: dict[str, Any]) -> Iterable[StoredItem]:
    shared = read_options(make_options(task, options)) if options or not isinstance(task, str) else None
    for index, item in enumerate(items):
        if isinstance(item, Item):
            own = item.task or task
            chosen = read_options(make_options(own, {**options, **item.options}))
            yield StoredItem(index, task_id(own), Packet(encode_item(index, own, item.payload)), chosen)
        else:
            yield StoredItem(index, task_id(task), Packet(encode_item(index, task, item)), shared)


def _read_run(answer: Any) -> flows.TriggeredRun:
    match answer:
        case RunCreated(run_id):
            return flows.TriggeredRun(format_run_id(run_id), is_cached=False)
        case RunExists(run_id, cached):
            return flows.TriggeredRun(format_run_id(run_id), is_cached=cached)
        case _:
            raise _refusal(answer)


def _read_batch(answer: Any) -> flows.SealedBatch:
    match answer:
        case BatchExists(batch) if isinstance(judge_stream(batch), StreamOpen):
            raise ApiError(409, "This idempotency key stands for a batch whose items are still being streamed.")
        case BatchCreated(batch) | BatchExists(batch):
            is_cached = isinstance(answer, BatchExists)
            return flows.SealedBatch(format_batch_id(batch.id), batch.run_count or batch.accepted, is_cached=is_cached)
        case _:
            raise _refusal(answer)


def _refusal(answer: Any) -> ApiError:
    match answer:
        case BatchRefused(status, message):
            return ApiError(status, message)
        case KeyConflict(message):
            return ApiError(409, message)
        case _:
            return ApiError(500, f"unexpected answer {answer!r}")
