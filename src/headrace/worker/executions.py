"""One attempt of a run under way in this worker."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any, Literal

from headrace.engine.outcomes import ClaimedRun, WorkerLease
from headrace.tasks import Task
from headrace.worker.conductor import Conductor
from headrace.worker.outbox import Desk


class Execution:
    """What is known of it: who holds it, what runs it, and why it was ended where it did not end by itself."""

    __slots__ = ("conductor", "cut", "desk", "future", "job", "lease", "limit", "run", "task", "tasks", "waits_since")

    def __init__(self, lease: WorkerLease, run: ClaimedRun, task: Task[Any, Any], desk: Desk) -> None:
        self.lease = lease
        self.run = run
        self.task = task
        self.desk = desk
        self.conductor: Conductor | None = None  # from its first durable point on
        self.tasks: set[asyncio.Task[Any]] = set()  # its code's own
        self.waits_since: float | None = None
        self.cut: Literal["timeout", "dropped", "put down"] | None = None  # why it was ended, if we did
        self.job: asyncio.Task[None] | None = None
        self.future: Future[Any] | None = None  # of its thread
        self.limit: float | None = None  # its maxDuration

    @property
    def is_async(self) -> bool:
        """Whether its code runs on the loop."""
        return self.task.is_async and self.task.isolation is None

    def end(self) -> None:
        """It is over. A thread of it that goes on gets nothing done any more.

        Its task is let go of here, and not by the garbage collector: that would run the end of a task in the middle of
        whatever a thread does, and CPython 3.11's ast.parse, for one, does not bear another thread coming in between.
        """
        self.cut = self.cut or "dropped"
        self.job = None
        self.tasks.clear()

    def conduct(self) -> Conductor:
        """Who keeps its journal. To be called on the loop."""
        if self.conductor is None:
            if self.is_async and self.job is not None:
                self.tasks.add(self.job)
            self.conductor = Conductor(self.desk, self.lease, self.run, self.tasks if self.is_async else None)
            if self.cut is not None:
                self.conductor.close()
        return self.conductor
