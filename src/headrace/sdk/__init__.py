"""What a program triggers runs with: clients, handles, outcomes."""

from __future__ import annotations

from headrace.items import Item
from headrace.outcomes import Failed, Ok, Outcome
from headrace.sdk.client import AsyncClient, Client
from headrace.sdk.handles import AsyncBatchHandle, AsyncRunHandle, BatchHandle, RunHandle

__all__ = [
    "AsyncBatchHandle",
    "AsyncClient",
    "AsyncRunHandle",
    "BatchHandle",
    "Client",
    "Failed",
    "Item",
    "Ok",
    "Outcome",
    "RunHandle",
]
