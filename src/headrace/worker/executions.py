"""One attempt of a run under way in this worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import Any

from headrace.engine.outcomes import ClaimedRun, WorkerLease
from headrace.tasks import RunContext, StopReason, Task
from headrace.worker.conductor import Conductor
from headrace.worker.entries import Entry, is_same_attempt, take_entry
from headrace.worker.groups import Seat
from headrace.worker.lifecycle import has_hooks
from headrace.worker.outbox import Desk
from headrace.worker.ports import RunPort
from headrace.worker.processes import Child
from headrace.worker.time_limits import TimeLimit, process_cpu, thread_cpu


class Execution:
    """What is known of it: who holds it, what runs it, and why it was ended where it did not end by itself."""

    __slots__ = (
        "conductor",
        "context",
        "cut",
        "desk",
        "entry",
        "future",
        "job",
        "lease",
        "limit",
        "outdated",
        "port",
        "process",
        "run",
        "seat",
        "task",
        "tasks",
        "thread",
        "waits_since",
    )

    def __init__(
        self, lease: WorkerLease, run: ClaimedRun, task: Task[Any, Any], desk: Desk, seat: Seat | None = None
    ) -> None:
        self.lease = lease
        self.run, self.entry, self.outdated = take_entry(run)
        self.task = task
        self.desk = desk
        self.seat = seat  # where one call is for several runs
        self.conductor: Conductor | None = None  # from its first durable point on
        self.tasks: set[asyncio.Task[Any]] = set()  # its code's own
        self.waits_since: float | None = None
        self.cut: StopReason | None = None  # why it was ended, if we did
        self.context: RunContext | None = None  # from when its code is called
        self.port: RunPort | None = None
        self.job: asyncio.Task[None] | None = None
        self.future: Future[Any] | None = None  # of its thread
        self.thread: int | None = None
        self.process: Child | None = None
        self.limit: TimeLimit | None = None  # its maxDuration

    @property
    def function(self) -> Callable[..., Any]:
        """What is called with the payload."""
        return self.seat or self.task.fn

    @property
    def is_async(self) -> bool:
        """Whether its code runs on the loop."""
        return self.task.is_async and self.task.isolation is None

    @property
    def resumed(self) -> bool:
        """Whether it goes on with the attempt that it was in, after a wait."""
        return is_same_attempt(self.run, self.entry)

    @property
    def used(self) -> float:
        """How much of its maxDuration was used up before, in this attempt."""
        return self.entry.used if self.entry is not None and self.entry.number == self.run.number else 0.0

    def read_clock(self) -> float | None:
        """The seconds that its maxDuration counts; None where they can't be read yet."""
        if self.task.duration_clock == "wall":
            return perf_counter()
        if self.process is not None:
            return process_cpu(self.process.pid) if self.process.loaded else None
        return None if self.thread is None else thread_cpu(self.thread)

    def attach(self, process: Child) -> None:
        """The process that executes it. To be called on the loop."""
        self.process = process
        if self.cut is not None:  # the one before died as it was told to end
            process.stop(self.cut)

    @property
    def kept(self) -> Entry | None:
        """What is to be kept of it where it is put down; None where nothing depends on it."""
        if self.limit is None and (self.run.number == 1 or not has_hooks(self.task)):
            return None
        return Entry(self.run.number, self.limit.used if self.limit is not None else 0.0)

    def leave_code(self) -> None:
        """Its code is over: its time is counted no longer, and runs that share its call don't wait for it."""
        if self.limit is not None:
            self.limit.stop()
        if self.seat is not None:
            self.seat.leave()

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
