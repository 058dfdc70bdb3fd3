"""What a program triggers runs with: clients, handles, outcomes."""

from __future__ import annotations

from headrace.sdk.client import AsyncClient, Client
from headrace.sdk.handles import AsyncBatchHandle, AsyncRunHandle, BatchHandle, RunHandle
from headrace.sdk.items import Item
from headrace.sdk.outcomes import Failed, Ok, Outcome

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
