"""headrace: durable background runs for Python that need PostgreSQL and nothing else.

What a task author imports, re-exported by name.
"""

from __future__ import annotations

from headrace import hooks
from headrace.crons import Cron
from headrace.debounce import Debounce
from headrace.durable import metadata, tags
from headrace.durable import waits as wait
from headrace.durable.children import RunRef
from headrace.durable.pending import Pending
from headrace.durable.steps import step
from headrace.errors import (
    Abort,
    ApiError,
    BatchTriggerError,
    ClientError,
    ConfigurationError,
    ConnectionFailedError,
    HeadraceError,
    LimitError,
    MaxDurationError,
    NondeterminismError,
    NotInRunError,
    NotInTransactionError,
    PayloadError,
    ResultTimeoutError,
    RetryAfter,
    RunFailedError,
    StepFailedError,
    WaitTimeout,
)
from headrace.idempotency_keys import Key
from headrace.packing import pack
from headrace.protocol.schedules import ScheduledPayload
from headrace.queues import Queue
from headrace.sdk import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncRunHandle,
    BatchHandle,
    Client,
    Failed,
    Item,
    Ok,
    Outcome,
    RunHandle,
)
from headrace.tasks import Retry, RunContext, Task, current_run, task
from headrace.token_values import Token

__all__ = [
    "Abort",
    "ApiError",
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncRunHandle",
    "BatchHandle",
    "BatchTriggerError",
    "Client",
    "ClientError",
    "ConfigurationError",
    "ConnectionFailedError",
    "Cron",
    "Debounce",
    "Failed",
    "HeadraceError",
    "Item",
    "Key",
    "LimitError",
    "MaxDurationError",
    "NondeterminismError",
    "NotInRunError",
    "NotInTransactionError",
    "Ok",
    "Outcome",
    "PayloadError",
    "Pending",
    "Queue",
    "ResultTimeoutError",
    "Retry",
    "RetryAfter",
    "RunContext",
    "RunFailedError",
    "RunHandle",
    "RunRef",
    "ScheduledPayload",
    "StepFailedError",
    "Task",
    "Token",
    "WaitTimeout",
    "current_run",
    "hooks",
    "metadata",
    "pack",
    "step",
    "tags",
    "task",
    "wait",
]
