"""Around the call of a task's function, wherever it happens: arguments in, result out, its run in every line of log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.engine.outcomes import ClaimedRun, Packet
from headrace.errors import PayloadError
from headrace.ids import format_batch_id, format_run_id
from headrace.tasks import RunContext, Task, current_run
from headrace.worker.retries import Failure, describe_bad_input, describe_bad_output, read_retry


def make_context(run: ClaimedRun, task: Task[Any, Any], version: str = "") -> RunContext:
    """What the task may know of its run."""
    return RunContext(
        format_run_id(run.id),
        run.task,
        run.number,
        run.max_attempts or read_retry(task.retry, run.options).max_attempts,
        run.queue,
        format_batch_id(run.batch_id) if run.batch_id is not None else None,
        run.batch_index,
        tuple(run.tags) if run.tags else (),
        run.options.get("metadata") if run.metadata is None else run.metadata,
        run.options,
        run.created_at,
        run.traceparent,
        format_run_id(run.parent_run_id) if run.parent_run_id is not None else None,
        format_run_id(run.root_run_id or run.id),
        run.depth,
        version,
        run.failures,
    )


def decode_arguments(
    task: Task[Any, Any], payload: bytes | None, payload_type: str, context: RunContext
) -> tuple[Any, ...] | Failure:
    """What to call the task's function with, or why its payload is none that it takes."""
    if "scheduleId" in context.options and not task.takes_payload:  # when it ticked is no matter to it
        payload = None
    try:
        return task.arguments(task.decode_payload(payload, payload_type), context)
    except (PayloadError, ValueError) as error:  # the latter: bytes that are not even of their media type
        return describe_bad_input(error)


def encode_output(task: Task[Any, Any], value: Any) -> Packet | Failure:
    """A task's result as a packet, or why it can't be written down."""
    try:
        return Packet(*task.encode_output(value))
    except PayloadError as error:
        return describe_bad_output(error)


def log_context() -> Mapping[str, Any]:
    """The run that is being executed, as fields of a line of log; nothing outside of one."""
    run = current_run()
    return {} if run is None else {"run": run.run_id, "task": run.task, "attempt": run.attempt}
