"""A worker's post at one store: it registers there, claims and executes, and when it is told to stop it drains and retires.

Each store has a post of its own, with a lease of its own: what becomes of one store is nothing to the others. They share the
machine: slots, threads, child processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from headrace.engine.dev_sessions import keep_session
from headrace.engine.engine import Engine
from headrace.engine.environments import find_environment_here
from headrace.engine.outcomes import WorkerLease
from headrace.engine.workers import TaskRegistration, retire_worker
from headrace.logs import get_logger
from headrace.store.store import DATABASE_ERRORS
from headrace.tasks import Task
from headrace.worker.claimer import Claimer
from headrace.worker.completer import Completer
from headrace.worker.deeds import Deeds
from headrace.worker.executor import Executor
from headrace.worker.heartbeat import Heartbeat
from headrace.worker.machine import Machine
from headrace.worker.outbox import Desk
from headrace.worker.recalls import Recalls
from headrace.worker.tenure import Tenure
from headrace.worker.watcher import Watcher

LAST_WORDS_SECONDS: Final = 5.0
"""How long a worker that ends waits for the database to take its last results, and again to take back its runs."""

CANCEL_SECONDS: Final = 2.0
"""How long runs that are cut off have to clean up."""

State = Literal["starting", "running", "draining", "stopped"]

_log = get_logger("headrace.worker")


class Post:
    """Executes runs of ``tasks`` that are in the store of ``engine``, in slots of ``machine``.

    It is used once: after ``run`` it is over.
    """

    def __init__(
        self,
        engine: Engine,
        tasks: Mapping[str, Task[Any, Any]],
        machine: Machine,
        *,
        version: str,
        queues: Sequence[str] | None = None,
    ) -> None:
        self._engine = engine
        self._tenure = Tenure(
            engine,
            [_register_task(task) for task in tasks.values()],
            version=version,
            queues=queues,
            on_loss=self._drop_lease,
            on_begin=self._take_lease,
        )
        self._heartbeat = Heartbeat(engine, self._tenure)
        self._completer = Completer(
            engine,
            on_lost=self._heartbeat.beat_now,
            on_retry=self._expect_retry,
            on_room=self._wake_claimer,
        )
        self._executor = Executor(
            engine,
            tasks,
            machine,
            put=self._completer.put,
            on_free=self._wake_claimer,
            on_idle=self._completer.flush_now,
        )
        self._claimer = Claimer(engine, self._tenure, self._executor, self._completer, tasks=list(tasks), queues=queues)
        self._tasks = sorted(tasks)
        self.state: State = "starting"
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once it is registered and claims."""

    @property
    def name(self) -> str:
        """What it is called in the store."""
        return self._tenure.name

    @property
    def worker(self) -> int | None:
        """Its number there, where it has a lease."""
        return self._tenure.lease.worker_id if self._tenure.lease else None

    @property
    def executing(self) -> int:
        """Slots in which something of this store runs."""
        return self._executor.used

    @property
    def unwritten(self) -> int:
        """Ends that are not in the database yet."""
        return self._completer.unwritten

    @property
    def claimed(self) -> int:
        """Runs that it has claimed."""
        return self._claimer.claimed

    @property
    def written(self) -> int:
        """Ends that it has written."""
        return self._completer.written

    @property
    def lost(self) -> int:
        """Ends that were refused."""
        return self._completer.lost

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Begins to drain: claims no more, and lets what runs end, for at most ``drain_timeout``."""
        self._stopping.set()

    def force(self) -> None:
        """Ends now: what runs is cut off and given back."""
        self._stopping.set()
        self._forced.set()

    def close(self) -> None:
        """It was never run, and will not be."""
        self._executor.close()

    async def begin(self) -> None:
        """Takes the first lease. Raises what registering raises."""
        if self._engine.settings.dev_session:  # what an earlier session has left behind is ended before anything new
            await keep_session(self._engine)
        await self._tenure.begin()

    async def run(self) -> bool:
        """Works, after ``begin``, until it is stopped. True where everything that it had claimed has ended, False where it
        gave some back.

        Raises any fault of its own; the lease is given up in every case.
        """
        recalls = Recalls(self._engine, self._tenure, self._executor)
        watcher = await self._open_desk(recalls)
        slots = self._executor.share.slots.total
        _log.info(
            "worker started", name=self._tenure.name, store=self._engine.name, concurrency=slots, tasks=self._tasks
        )
        try:
            async with asyncio.TaskGroup() as group:
                claiming = group.create_task(self._claimer.run())
                loops = [
                    claiming,
                    group.create_task(self._heartbeat.run()),
                    group.create_task(self._completer.run()),
                    group.create_task(watcher.run()),
                    group.create_task(recalls.run()),
                ]
                self.state = "running"
                self.ready.set()
                await self._stopping.wait()
                ended = await self._drain(claiming)
                for loop in loops:
                    loop.cancel()
        finally:
            self._tenure.end()
            self._executor.drop_all()
            await self._retire()
            self._executor.close()
            self.state = "stopped"
        return ended

    async def _open_desk(self, recalls: Recalls) -> Watcher:
        lease = self._tenure.lease
        environment = await find_environment_here(self._engine, self._engine.settings.environment)
        assert lease is not None, "it was registered"
        assert environment is not None, "it was registered there"
        watcher = Watcher(self._engine, lease.environment_id)
        desk = Desk(
            self._engine,
            watcher,
            Deeds(self._engine, environment),
            on_waiting=self._executor.put_downs.note_waiting,
            on_lost=recalls.look_now,
        )
        self._executor.open(desk)
        return watcher

    async def _drain(self, claiming: asyncio.Task[None]) -> bool:
        self.state = "draining"
        self._claimer.stop()
        self._executor.put_downs.drain()
        _log.info(
            "worker draining",
            store=self._engine.name,
            executing=self._executor.used,
            timeout=self._engine.settings.drain_timeout,
        )
        await self._unless_forced(asyncio.wait({claiming}))
        ended = await self._unless_forced(self._executor.wait_free(self._engine.settings.drain_timeout))
        if not ended:
            _log.warning(
                "runs cut off: they are queued again",
                store=self._engine.name,
                executing=self._executor.used,
                forced=self._forced.is_set(),
            )
            self._executor.drop_all()
            await self._executor.wait_free(CANCEL_SECONDS)
        self._tenure.end()
        written = await self._completer.wait_empty(LAST_WORDS_SECONDS)
        return bool(ended) and written

    async def _unless_forced(self, awaitable: Any) -> Any:
        """What ``awaitable`` gives, or None where force() comes first."""
        work = asyncio.ensure_future(awaitable)
        force = asyncio.ensure_future(self._forced.wait())
        await asyncio.wait({work, force}, return_when=asyncio.FIRST_COMPLETED)
        force.cancel()
        if not work.done():
            work.cancel()
            return None
        return work.result()

    async def _retire(self) -> None:
        lease = self._tenure.lease
        if lease is None:
            return
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                released = await retire_worker(self._engine, lease)
        except DATABASE_ERRORS as error:
            _log.warning(
                "the database was not told that this worker ends; its runs are rescued when the lease is over",
                store=self._engine.name,
                error=f"{type(error).__name__}: {error}",
            )
        else:
            _log.info("worker stopped", store=self._engine.name, written=self._completer.written, given_back=released)

    def _wake_claimer(self) -> None:
        self._claimer.wake()

    def _expect_retry(self, seconds: float) -> None:
        self._claimer.expect(seconds)

    def _drop_lease(self, lease: WorkerLease) -> None:
        self._executor.drop_all()
        self._completer.drop(lease)

    def _take_lease(self, lease: WorkerLease) -> None:
        _log.debug("lease taken", worker=lease.worker_id)
        self._claimer.wake()


def _register_task(task: Task[Any, Any]) -> TaskRegistration:
    return TaskRegistration(
        task.id,
        task.queue,
        task.retry.max_attempts,
        skips_failed=task.order == "skip_failed",
        coalesces=task.coalesce or 1,
        cron=task.cron,
        limits=task.limits,
    )
