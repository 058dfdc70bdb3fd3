"""A module that registers hooks for all tasks as it is imported: what a worker and its children import."""

from __future__ import annotations

from headrace import hooks
from headrace.hooks import Event
from tests.worker import hook_jobs
from tests.worker.hook_jobs import bare, bare_in_process, record

__all__ = ["bare", "bare_in_process", "hook_jobs"]


@hooks.on_start
async def start(event: Event) -> None:
    record(event.payload["log"], "everywhere.on_start")


@hooks.on_complete
def complete(event: Event) -> None:
    record(event.payload["log"], f"everywhere.on_complete {event.ok}")
