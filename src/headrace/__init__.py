"""headrace: durable background runs for Python that need PostgreSQL and nothing else.

What a task author imports, re-exported by name.
"""

from __future__ import annotations

from headrace.errors import (
    Abort,
    ApiError,
    BatchTriggerError,
    ClientError,
    ConfigurationError,
    ConnectionFailedError,
    HeadraceError,
    NotInTransactionError,
    PayloadError,
    ResultTimeoutError,
    RunFailedError,
)
from headrace.packing import pack
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
    "Failed",
    "HeadraceError",
    "Item",
    "NotInTransactionError",
    "Ok",
    "Outcome",
    "PayloadError",
    "ResultTimeoutError",
    "Retry",
    "RunContext",
    "RunFailedError",
    "RunHandle",
    "Task",
    "current_run",
    "pack",
    "task",
]
