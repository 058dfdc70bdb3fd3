"""Executes claimed runs: ``async def`` tasks on the loop, ``def`` tasks in a thread, isolated ones in a process.

What a task raises ends its run and nothing else, be it SystemExit. A slot is in use until the code really is over: a
thread can't be stopped, so one whose run has timed out, or was lost with the lease, keeps its slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import structlog

from headrace import metrics, telemetry
from headrace.durable.port import enter_port
from headrace.engine.engine import Engine
from headrace.engine.outcomes import JSON_TYPE, ClaimedRun, Finish, Packet, WorkerLease
from headrace.ids import format_run_id
from headrace.payloads import STORED_TYPE, PayloadStoreError
from headrace.protocol.statuses import RunStatus
from headrace.tasks import RunContext, Task, enter_run
from headrace.timeouts import happens_within
from headrace.worker.calls import decode_arguments, encode_output, make_context
from headrace.worker.child import Order
from headrace.worker.conductor import Conductor
from headrace.worker.executions import Execution
from headrace.worker.loading import Source, find_source
from headrace.worker.outbox import Desk
from headrace.worker.ports import RunPort
from headrace.worker.processes import ProcessPool
from headrace.worker.put_downs import PutDowns
from headrace.worker.retries import Failure, decide_finish, describe_exception, describe_timeout, internal_error
from headrace.worker.tracking import track_tasks

_LONGEST_LIMIT: Final = 1e9

_CLEAN_UP_SECONDS: Final = 5.0
"""How long tasks of a run that is over have to end."""

Put = Callable[[WorkerLease, Finish, str, float], None]
"""Takes the end of an attempt: ``Completer.put``."""

_log = structlog.get_logger("headrace.worker")


class _Raised:
    """What a thread's function raised, as a value: neither a future nor a coroutine carries a StopIteration."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Executor:
    """The slots of one worker. Ends go to ``put``; ``on_free`` is called when a slot is free, ``on_idle`` when all are."""

    def __init__(
        self,
        engine: Engine,
        tasks: Mapping[str, Task[Any, Any]],
        *,
        put: Put,
        on_free: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._desk: Desk | None = None
        self._tasks = tasks
        self._sources: dict[str, Source] = {
            task.id: find_source(task) for task in tasks.values() if task.isolation == "process"
        }
        self._put = put
        self._on_free = on_free
        self._on_idle = on_idle
        self._slots = engine.settings.concurrency
        self._used = 0
        self._executions: dict[UUID, Execution] = {}
        self.put_downs = PutDowns(self._executions, engine.settings.wait_linger, lambda: self.free > 0)
        self._threads = ThreadPoolExecutor(self._slots, thread_name_prefix="headrace-run")
        self._processes = ProcessPool(engine.settings)
        self._all_free = asyncio.Event()
        self._all_free.set()
        self._tracing = False
        metrics.watch_executing(lambda: self._used)

    @property
    def free(self) -> int:
        """Slots in which nothing runs."""
        return self._slots - self._used

    @property
    def used(self) -> int:
        """Slots in which something runs, if only a thread whose run is over."""
        return self._used

    def executing_runs(self) -> set[UUID]:
        """The runs that are being executed."""
        return set(self._executions)

    def open(self, desk: Desk) -> None:
        """Gives what runs need to wait, trigger and keep results: before the first one is started."""
        self._desk = desk

    def start(self, lease: WorkerLease, runs: Sequence[ClaimedRun]) -> None:
        """Starts runs that were claimed under ``lease``; there have to be slots for them."""
        self._used += len(runs)
        self._all_free.clear()
        self._tracing = telemetry.is_tracing()  # asked by the chunk: a task's module may set it up late
        create_task = asyncio.get_running_loop().create_task
        assert self._desk is not None, "open() comes first"
        for run in runs:
            execution = Execution(lease, run, self._tasks[run.task], self._desk)
            self._executions[run.id] = execution
            execution.job = create_task(self._execute(execution))

    def drop_all(self) -> None:
        """Ends what is under way without a report: its lease is lost, or is about to be given up."""
        for execution in list(self._executions.values()):
            self._cut(execution, "dropped")

    def drop(self, run_id: UUID) -> None:
        """Ends one run without a report: it is not this worker's any more."""
        if execution := self._executions.get(run_id):
            self._cut(execution, "dropped")

    async def wait_free(self, timeout: float) -> bool:
        """Whether every slot was free within ``timeout`` seconds."""
        return await happens_within(self._all_free, timeout)

    async def close(self) -> None:
        """Ends the child processes, and waits for no thread."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._processes.close()

    async def _execute(self, execution: Execution) -> None:
        run = execution.run
        started = perf_counter()
        timer = self._start_timer(execution)
        try:
            finish = await self._attempt(execution)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is the end of its run, and of nothing else
            finish = self._explain(execution, error)
        if timer is not None:
            timer.cancel()
        if execution.conductor is not None:
            finish = await self._end_conduct(execution, execution.conductor, finish)
        if finish is not None:
            if finish.error is not None:
                _log_failure(run, finish)
            self._put(execution.lease, finish, run.task, perf_counter() - started)
        if self._executions.get(run.id) is execution:
            del self._executions[run.id]
        execution.end()
        if execution.future is None or execution.future.done():
            self._release()
        else:
            loop = asyncio.get_running_loop()
            execution.future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))
        if not self._executions:
            self._on_idle()

    def _start_timer(self, execution: Execution) -> asyncio.TimerHandle | None:
        limit: Any = (
            execution.run.options.get("maxDuration") if execution.run.options else 0
        ) or execution.task.max_duration
        if not limit:  # 0 is how the wire says "none"
            return None
        execution.limit = min(float(limit), _LONGEST_LIMIT)
        return asyncio.get_running_loop().call_later(execution.limit, self._cut, execution, "timeout")

    async def _attempt(self, execution: Execution) -> Finish | None:
        run, task = execution.run, execution.task
        payload, payload_type = run.payload, run.payload_type
        if payload_type == STORED_TYPE:
            try:
                payload = await self._engine.payloads.get(self._engine.settings.environment, (payload or b"").decode())
            except PayloadStoreError as error:
                return self._fail(execution, Failure(internal_error("PAYLOAD_STORE_ERROR", str(error))))
            payload_type = str(run.options.get("payloadType") or JSON_TYPE)
        context = make_context(run, task)
        # in the context of this asyncio task, which is the run's own and ends with it: nothing has to be put back
        enter_run(context)
        enter_port(RunPort(execution))
        track_tasks(execution.tasks)
        if self._tracing:
            with _start_span(context) as span:
                output = await self._call(execution, payload, payload_type, context)
                if isinstance(output, Failure):
                    span.fail(str(output.error.get("name") or output.error.get("code")), str(output.error["message"]))
        else:
            output = await self._call(execution, payload, payload_type, context)
        if isinstance(output, Failure):
            return self._fail(execution, output)
        if output.data is not None and len(output.data) >= self._engine.settings.offload_threshold:
            try:
                path = await self._engine.payloads.put(self._engine.settings.environment, output.data)
            except PayloadStoreError as error:
                return self._fail(execution, Failure(internal_error("PAYLOAD_STORE_ERROR", str(error))))
            output = Packet(path.encode(), STORED_TYPE)
        return Finish(run.id, run.attempt, RunStatus.COMPLETED, output)

    async def _call(
        self, execution: Execution, payload: bytes | None, payload_type: str, context: RunContext
    ) -> Packet | Failure:
        """Calls the task's function where it belongs. Raises what the function raises."""
        task = execution.task
        if task.isolation == "process":
            traceparent = telemetry.current_traceparent() if self._tracing else None
            return await self._processes.execute(
                Order(self._sources[task.id], payload, payload_type, context, traceparent), execution.conduct
            )
        arguments = decode_arguments(task, payload, payload_type, context)
        if isinstance(arguments, Failure):
            return arguments
        value: Any = await task.fn(*arguments) if task.is_async else await self._call_in_thread(execution, arguments)
        return describe_exception(value.error) if isinstance(value, _Raised) else encode_output(task, value)

    async def _call_in_thread(self, execution: Execution, arguments: tuple[Any, ...]) -> Any:
        context = contextvars.copy_context()
        future = self._threads.submit(context.run, _call_function, execution.task.fn, arguments)
        execution.future = future
        value = await asyncio.wrap_future(future)
        return await value if inspect.isawaitable(value) else value

    def _explain(self, execution: Execution, error: BaseException) -> Finish | None:
        """What to report of an attempt that ended with an exception: nothing where we ended it for good."""
        if isinstance(error, asyncio.CancelledError):
            if execution.cut == "timeout":
                return self._fail(execution, describe_timeout(execution.limit or 0.0))
            if execution.cut in ("dropped", "put down"):
                return None
        return self._fail(execution, describe_exception(error))

    async def _end_conduct(self, execution: Execution, conductor: Conductor, finish: Finish | None) -> Finish | None:
        """The run's code is over, or was left: nothing of it goes on. What is reported of it then."""
        conductor.close()
        me = asyncio.current_task()
        others = [task for task in execution.tasks if task is not me and not task.done()]
        for task in others:
            task.cancel()
        if others:
            # one that is dropped now waits no longer; its slot is free all the same
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(others, timeout=_CLEAN_UP_SECONDS)
        run = execution.run
        pin = None if run.locked else (run.task, run.queue, run.kind)
        if execution.cut == "put down":
            seen = conductor.list_seen(put_down=True)
            return Finish(run.id, run.attempt, RunStatus.WAITING, pin=pin, seen=seen)
        if finish is None or finish.retry_in is None:
            return finish
        seen = conductor.list_seen(put_down=False)
        return msgspec.structs.replace(finish, pin=pin, seen=seen, forget=conductor.list_forgotten())

    def _fail(self, execution: Execution, failure: Failure) -> Finish:
        return decide_finish(execution.run, execution.task.retry, failure)

    def _cut(self, execution: Execution, why: Literal["timeout", "dropped"]) -> None:
        if execution.job is not None and not execution.job.done() and execution.cut != "dropped":
            execution.cut = why
            if execution.conductor is not None:
                execution.conductor.close()
            execution.job.cancel()

    def _release(self) -> None:
        self._used -= 1
        self._on_free()
        if self._used == 0:
            self._all_free.set()


def _call_function(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except BaseException as error:  # noqa: BLE001 - handed on as a value, see _Raised
        return _Raised(error)


def _start_span(context: RunContext) -> Any:
    return telemetry.start_span(
        f"{context.task} process",
        kind="consumer",
        traceparent=context.traceparent,
        attributes={
            "messaging.system": "headrace",
            "messaging.operation.type": "process",
            "messaging.destination.name": context.queue,
            "messaging.message.id": context.run_id,
            "headrace.task": context.task,
            "headrace.attempt": context.attempt,
        },
    )


def _log_failure(run: ClaimedRun, finish: Finish) -> None:
    error = finish.error or {}
    _log.warning(
        "attempt failed" if finish.retry_in is not None else "run failed",
        run=format_run_id(run.id),
        task=run.task,
        attempt=run.number,
        status=finish.status.value,
        error=error.get("name") or error.get("code"),
        message=error.get("message"),
        retry_in=None if finish.retry_in is None else round(finish.retry_in, 2),
    )
