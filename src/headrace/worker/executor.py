"""Executes claimed runs: ``async def`` tasks on the loop, ``def`` tasks in a thread, isolated ones in a process.

What a task raises ends its run and nothing else, be it SystemExit. A slot is in use until the code really is over: a
thread can't be stopped, so one whose run was canceled, has timed out, or was lost with the lease, keeps its slot.

Code that is to end is told so and has time to clean up: an ``async def`` by CancelledError, a process by SIGTERM, a thread by
``current_run().cancelled``. Its run has ended by then. After that time it is ended hard, where that can be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from headrace import telemetry
from headrace.durable.port import enter_port
from headrace.engine.engine import Engine
from headrace.engine.journals import RunLostError
from headrace.engine.lanes import LaneName
from headrace.engine.outcomes import JSON_TYPE, ClaimedRun, Finish, Packet, WorkerLease
from headrace.errors import ConfigurationError
from headrace.ids import format_run_id
from headrace.logs import get_logger
from headrace.payloads import STORED_TYPE, PayloadStoreError
from headrace.protocol.statuses import RunStatus
from headrace.store.store import DATABASE_ERRORS
from headrace.tasks import RunContext, Task, enter_run
from headrace.timeouts import happens_within
from headrace.worker.calls import decode_arguments, encode_output, make_context
from headrace.worker.child import Order
from headrace.worker.conductor import Conductor
from headrace.worker.entries import Entry, keep_entry
from headrace.worker.executions import Execution
from headrace.worker.groups import seat_runs
from headrace.worker.lifecycle import BlockingCaller, Life, WaitHooks, has_hooks, live, live_async
from headrace.worker.loading import Source, find_source
from headrace.worker.machine import Machine
from headrace.worker.outbox import Desk
from headrace.worker.ports import RunPort
from headrace.worker.put_downs import PutDowns
from headrace.worker.retries import Failure, decide_finish, describe_exception, describe_timeout, internal_error
from headrace.worker.time_limits import TimeLimit, has_cpu_clocks
from headrace.worker.tracking import track_tasks

_LONGEST_LIMIT: Final = 1e9

_RETRY_DELAY: Final = 0.5

_CLEAN_UP_SECONDS: Final = 5.0
"""How long tasks of a run that is over have to end."""

Put = Callable[[WorkerLease, Finish, str, float], None]
"""Takes the end of an attempt: ``Completer.put``."""

_log = get_logger("headrace.worker")


class _Raised:
    """What a thread's function raised, as a value: neither a future nor a coroutine carries a StopIteration."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Executor:
    """Runs of one store in slots of the machine. Ends go to ``put``; ``on_free`` is called when there may be room for more,
    ``on_idle`` when nothing runs.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Mapping[str, Task[Any, Any]],
        machine: Machine,
        *,
        put: Put,
        on_free: Callable[[], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._desk: Desk | None = None
        self._tasks = tasks
        _check_clocks(tasks)
        self._sources: dict[str, Source] = {
            task.id: find_source(task) for task in tasks.values() if task.isolation == "process"
        }
        self._put = put
        self._on_idle = on_idle
        self._executions: dict[UUID, Execution] = {}
        self.put_downs = PutDowns(self._executions, engine.settings.wait_linger, lambda: self.free > 0)
        self._threads = machine.threads
        self._processes = machine.processes
        self.share = machine.slots.join(on_free, self.put_downs.make_room)
        self._all_free = asyncio.Event()
        self._all_free.set()
        self._tracing = False

    @property
    def free(self) -> int:
        """Slots in which nothing runs, of any store."""
        return self.share.slots.free

    @property
    def used(self) -> int:
        """Slots in which something of this store runs, if only a thread whose run is over."""
        return self.share.used

    def list_executions(self) -> list[Execution]:
        """What is being executed."""
        return list(self._executions.values())

    def executing_runs(self) -> set[UUID]:
        """The runs that are being executed."""
        return set(self._executions)

    def open(self, desk: Desk) -> None:
        """Gives what runs need to wait, trigger and keep results: before the first one is started."""
        self._desk = desk

    def start(self, lease: WorkerLease, runs: Sequence[ClaimedRun]) -> None:
        """Starts runs that were claimed under ``lease``; there have to be slots for them."""
        self.share.begin(len(runs))
        self._all_free.clear()
        self._tracing = telemetry.is_tracing()  # asked by the chunk: a task's module may set it up late
        create_task = asyncio.get_running_loop().create_task
        assert self._desk is not None, "open() comes first"
        seats = seat_runs(self._tasks, runs)
        for run in runs:
            execution = Execution(lease, run, self._tasks[run.task], self._desk, seats.get(run.id))
            self._executions[run.id] = execution
            execution.job = create_task(self._execute(execution))

    def drop_all(self) -> None:
        """Ends what is under way without a report: its lease is lost, or is about to be given up."""
        for execution in list(self._executions.values()):
            self.stop(execution, "dropped")

    def stop(self, execution: Execution, why: Literal["canceled", "timeout", "dropped"]) -> None:
        """Ends the code of a run: its run was canceled, is out of time, or is not this worker's any more."""
        job = execution.job
        if job is None or job.done() or execution.cut == "dropped" or (execution.cut is not None and why == "timeout"):
            return
        if execution.cut is not None:  # it is on its way out: what it cleans up with is broken off
            why = "dropped"
        execution.cut = why
        if why == "timeout":
            self._report_timeout(execution)
        if execution.context is not None:
            execution.context.state.stop(why)
        gently = why != "dropped" and execution.process is not None
        if gently and execution.process is not None:
            execution.process.stop(why)
        if execution.conductor is not None:
            execution.conductor.close()
        if not gently:
            job.cancel()
        if why != "dropped":
            _log.info(
                "a run's code is told to end", run=format_run_id(execution.run.id), task=execution.run.task, why=why
            )
            asyncio.get_running_loop().call_later(self._grace(execution), self._end_hard, execution)

    async def wait_free(self, timeout: float) -> bool:
        """Whether nothing ran any more within ``timeout`` seconds."""
        return await happens_within(self._all_free, timeout)

    def close(self) -> None:
        """Starts no more."""
        self.share.leave()

    async def _execute(self, execution: Execution) -> None:
        run = execution.run
        started = perf_counter()
        self._start_limit(execution)
        try:
            finish = await self._attempt(execution)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is the end of its run, and of nothing else
            finish = self._explain(execution, error)
        execution.leave_code()
        if execution.cut in ("canceled", "timeout", "dropped"):
            finish = None
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

    def _start_limit(self, execution: Execution) -> None:
        limit: Any = (
            execution.run.options.get("maxDuration") if execution.run.options else 0
        ) or execution.task.max_duration
        if limit:  # 0 is how the wire says "none"
            speed = (os.cpu_count() or 1) if execution.task.isolation and execution.task.duration_clock == "cpu" else 1
            execution.limit = TimeLimit(
                min(float(limit), _LONGEST_LIMIT),
                execution.read_clock,
                partial(self.stop, execution, "timeout"),
                used=execution.used,
                speed=speed,
            )
            execution.limit.start()

    def _grace(self, execution: Execution) -> float:
        grace = execution.task.cancel_grace
        return self._engine.settings.cancel_grace if grace is None else grace

    def _end_hard(self, execution: Execution) -> None:
        """The time to clean up is over."""
        job = execution.job  # None where it has ended
        run = execution.run
        if job is not None and not job.done():
            _log.warning("a run's code has not ended in time: ended hard", run=format_run_id(run.id), task=run.task)
            job.cancel()
        elif execution.future is not None and not execution.future.done():
            _log.warning(
                "a thread goes on though its run has ended, and keeps its slot: it should look at current_run().cancelled",
                run=format_run_id(run.id),
                task=run.task,
            )

    def _report_timeout(self, execution: Execution) -> None:
        """At once: what the code does on its way out changes nothing."""
        limit = execution.limit
        assert limit is not None, "it is over"
        finish = self._fail(execution, describe_timeout(limit.seconds, execution.task.duration_clock))
        _log_failure(execution.run, finish)
        self._put(execution.lease, finish, execution.run.task, limit.used)

    async def _attempt(self, execution: Execution) -> Finish | None:
        run, task = execution.run, execution.task
        payload, payload_type = run.payload, run.payload_type
        if payload_type == STORED_TYPE:
            try:
                payload = await self._engine.payloads.get(self._engine.settings.environment, (payload or b"").decode())
            except PayloadStoreError as error:
                return self._fail(execution, Failure(internal_error("PAYLOAD_STORE_ERROR", str(error))))
            payload_type = str(run.options.get("payloadType") or JSON_TYPE)
        context = execution.context = make_context(run, task, execution.lease.version)
        # in the context of this asyncio task, which is the run's own and ends with it: nothing has to be put back
        enter_run(context)
        port = execution.port = RunPort(execution)
        enter_port(port)
        track_tasks(execution.tasks)
        if self._tracing:
            with _start_span(context) as span:
                output = await self._call(execution, payload, payload_type, context)
                if isinstance(output, Failure):
                    span.fail(str(output.error.get("name") or output.error.get("code")), str(output.error["message"]))
        else:
            output = await self._call(execution, payload, payload_type, context)
        if output is None:
            return None
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
    ) -> Packet | Failure | None:
        """Calls the task's function where it belongs, with its hooks. Raises what the function raises. None where it was stopped."""
        task = execution.task
        limit = execution.limit.seconds if execution.limit is not None else 0.0
        if task.isolation == "process":
            traceparent = telemetry.current_traceparent() if self._tracing else None
            source = self._sources[task.id]
            order = Order(source, payload, payload_type, context, traceparent, execution.resumed, limit)
            return await self._processes.execute(order, execution.conduct, execution.attach)
        arguments = decode_arguments(task, payload, payload_type, context)
        if isinstance(arguments, Failure):
            return arguments
        if has_hooks(task):
            return await self._live(
                execution, Life(task, execution.function, context, arguments, execution.resumed, limit)
            )
        value: Any = (
            await execution.function(*arguments) if task.is_async else await self._call_in_thread(execution, arguments)
        )
        return describe_exception(value.error) if isinstance(value, _Raised) else encode_output(task, value)

    async def _call_in_thread(self, execution: Execution, arguments: tuple[Any, ...]) -> Any:
        context = contextvars.copy_context()
        future = self._threads.submit(context.run, _call_in_thread, execution, arguments)
        execution.future = future
        value = await asyncio.wrap_future(future)
        return await value if inspect.isawaitable(value) else value

    async def _live(self, execution: Execution, life: Life) -> Packet | Failure | None:
        """The attempt with its hooks: on the loop, or all of it in one thread."""
        assert execution.port is not None, "it was entered"
        if life.task.is_async:
            execution.port.around = WaitHooks.find(life)
            return await live_async(live(life))
        caller = BlockingCaller()
        execution.port.around = WaitHooks.find(life, caller)
        future = self._threads.submit(contextvars.copy_context().run, _live_in_thread, execution, caller, life)
        execution.future = future
        return await asyncio.wrap_future(future)

    def _explain(self, execution: Execution, error: BaseException) -> Finish | None:
        """What to report of an attempt that ended with an exception: nothing where we ended it for good."""
        if isinstance(error, asyncio.CancelledError) and execution.cut is not None:
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
        pin = None if run.locked else LaneName(run.task, run.queue, run.kind)
        if execution.cut == "put down":
            if (kept := execution.kept) is not None and not await self._keep(execution, conductor, kept):
                return None
            seen = conductor.list_seen(put_down=True)
            return Finish(run.id, run.attempt, RunStatus.WAITING, pin=pin, seen=seen, forget=execution.outdated)
        if finish is None or finish.retry_in is None:
            return finish
        seen = conductor.list_seen(put_down=False)
        return msgspec.structs.replace(finish, pin=pin, seen=seen, forget=conductor.list_forgotten())

    def _fail(self, execution: Execution, failure: Failure) -> Finish:
        return decide_finish(execution.run, execution.task.retry, failure)

    async def _keep(self, execution: Execution, conductor: Conductor, entry: Entry) -> bool:
        """Whether what the run's next time in memory needs to know is written; not where the run is not ours any more."""
        while True:
            try:
                await keep_entry(self._engine, conductor.fence, execution.run, entry)
            except RunLostError:
                return False
            except DATABASE_ERRORS as error:
                _log.warning("journal not written yet, trying again", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RETRY_DELAY)
            except asyncio.CancelledError:  # it is dropped now
                return False
            else:
                return True

    def _release(self) -> None:
        self.share.release()
        if self.share.used == 0:
            self._all_free.set()


def _call_in_thread(execution: Execution, arguments: tuple[Any, ...]) -> Any:
    execution.thread = threading.get_ident()
    return _call_function(execution.task.fn, arguments)


def _call_function(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except BaseException as error:  # noqa: BLE001 - handed on as a value, see _Raised
        return _Raised(error)


def _check_clocks(tasks: Mapping[str, Task[Any, Any]]) -> None:
    if not has_cpu_clocks() and (counted := [task.id for task in tasks.values() if task.duration_clock == "cpu"]):
        raise ConfigurationError(
            f"{', '.join(counted)}: duration_clock='cpu' needs Linux, where the CPU of a thread or process can be read. Use "
            "duration_clock='wall'."
        )


def _live_in_thread(execution: Execution, caller: BlockingCaller, life: Life) -> Packet | Failure | None:
    execution.thread = threading.get_ident()
    try:
        return caller.live(live(life))
    finally:
        caller.close()


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
