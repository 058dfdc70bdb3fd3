"""One run's durable points: written to its journal as its code comes to them, told to it again when it is replayed.

A replay has to tell outcomes in the order in which the code was told them before, or a race in it could go another way:
so each is told by itself, the code goes on until it stands still, and only then comes the next. Points that the journal
does not have are done when all that it has were met; code that stands still before that came another way than the
journal did, which is an error and not a guess.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from contextvars import Context
from dataclasses import replace
from typing import Any, Final

import msgspec

from headrace import telemetry
from headrace.durable import ops
from headrace.durable.ops import Op
from headrace.engine.deeds import Fence, PointWrite
from headrace.engine.journals import RunLostError
from headrace.engine.outcomes import ClaimedRun, Lineage, Point, WorkerLease
from headrace.errors import HeadraceError, LimitError, NondeterminismError
from headrace.ids import format_run_id
from headrace.logs import get_logger
from headrace.payloads import PayloadStoreError
from headrace.worker.answers import describe_outcome, has_failed
from headrace.worker.outbox import Asked, Desk, Outbox
from headrace.worker.pages import PageBook, is_page
from headrace.worker.tracking import Tasks, all_wait

SETTLE_TICKS: Final = 8
"""Turns of the loop after which code that was told something stands still, or does something that is not durable."""

_LOOK_AGAIN: Final = 0.02

_LOCK_PATIENCE: Final = 0.5
"""Seconds after which tasks that wait for locks are taken to wait for each other."""

_log = get_logger("headrace.worker")


class Conductor:
    """The points of one run under way. ``tasks`` are its asyncio tasks, or None where its code is in a thread or process."""

    def __init__(self, desk: Desk, lease: WorkerLease, run: ClaimedRun, tasks: Tasks | None) -> None:
        self.run_id = run.id
        self.closed = False
        self._desk = desk
        self._run = run
        self._tasks = tasks
        root = run.root_run_id or run.id
        traceparent = telemetry.current_traceparent() or run.traceparent  # the span of this attempt, where there is one
        fence = self._fence = Fence(lease, run.id, run.attempt, Lineage(run.id, root, run.depth + 1), traceparent)
        self._pages = PageBook(run.journal)
        points = [*(point for point in run.journal if not is_page(point)), *self._pages.points]
        self._entries: dict[str, Point] = {point.name: point for point in points}
        replayed = sorted((point for point in points if point.kind != "progress"), key=lambda point: point.made)
        self._unmet: dict[str, Point] = {point.name: point for point in replayed}
        told = sorted((p for p in replayed if p.seen is not None and p.seen >= 0), key=lambda point: point.seen or 0)
        self._order: deque[str] = deque(point.name for point in told if not point.pending)
        self._count = sum(1 for point in replayed if not is_page(point))
        self._clock = max((max(p.made, abs(p.seen or 0)) for p in run.journal), default=0) + 1
        self._asked: dict[str, Asked] = {}
        self._opened: set[str] = (
            set()
        )  # batches that were made this time, and whose end the code did not come to before
        self._parked: list[Asked] = []
        self._ready: dict[str, tuple[Asked, Point]] = {}  # in the order of their coming
        self._outbox = Outbox(desk, fence, self._pages.store_name, self._note_written)
        self._held: deque[tuple[Asked, float]] = deque()  # changes of metadata that were made before, and since when
        self._busy = 0
        self._at_once = 0
        self._stuck: tuple[int, float] | None = None  # since when, and the moment of the clock
        self._futures: set[asyncio.Future[Any]] = set()
        self._changed = asyncio.Event()
        self._jobs: set[asyncio.Task[None]] = set()
        self._spawn(self._tell())

    def perform(self, op: Op) -> asyncio.Future[Any]:
        """Does ``op``; the future is what the code is told."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.closed:
            future.cancel()
            return future
        self._futures.add(future)
        asked = Asked(op, future)
        future.add_done_callback(lambda _: self._drop(asked))
        match op:
            case ops.ChangeMetadata() if refusal := self._desk.deeds.refuse(op):
                asked.tell(refusal)
            case ops.RecallWait(name):
                asked.tell(self._recall_wait(name))
            case ops.RecallPage(batch, number):
                asked.tell(ops.page_name(batch, number) in self._entries)
            case ops.ChangeMetadata(name="") if self._unmet:
                self._held.append((asked, asyncio.get_running_loop().time()))
                self._changed.set()
            case ops.StoreItems() | ops.SealBatch() | ops.ReadOutcomes() | ops.ReadMetadata():
                self._spawn(self._do_at_once(asked))
            case ops.AwaitBatch(name):
                self._await_batch(asked, self._entries[name])
            case ops.EndStep() | ops.FollowBatch():
                self._asked[op.name] = asked
                self._write(asked)
            case _:
                self._come_to(asked)
        return future

    def _recall_wait(self, name: str) -> str:
        entry = self._entries.get(name)
        if entry is None or name in self._opened or (entry.kind == "progress" and entry.seen is not None):
            return "new"
        return "waiting" if entry.seen is None else "told"

    def resolve(self, point: Point) -> None:
        """Takes the outcome of a point that was waited for."""
        self._entries[point.name] = point
        asked = self._asked.get(point.name)
        if asked is not None and asked.state == "waiting":
            self._make_ready(asked, point)

    def can_be_put_down(self, *, locks: bool = False) -> bool:
        """Whether the code does nothing but wait, for what is not there yet; with ``locks`` also for locks of its own."""
        return (
            self.is_waiting
            and not self._ready
            and not self._parked
            and not self._held
            and self._stands_still(locks=locks)
        )

    @property
    def is_waiting(self) -> bool:
        """Whether the code waits for something that is not there yet."""
        return any(asked.state == "waiting" for asked in self._asked.values())

    def close(self) -> None:
        """Nothing is done or told any more."""
        if self.closed:
            return
        self.closed = True
        for job in self._jobs:
            job.cancel()
        for name, asked in self._asked.items():
            if asked.state == "waiting":
                self._desk.watcher.remove(self, name)
        for future in list(self._futures):
            future.cancel()

    @property
    def fence(self) -> Fence:
        """Who writes."""
        return self._fence

    def list_seen(self, *, put_down: bool) -> tuple[tuple[str, int | None], ...]:
        """The order in which outcomes were told, as far as it is not written.

        Of a run that is put down: what its code does not wait for now (the end of a batch whose outcomes it reads as they
        come) does not wake it.
        """
        if put_down:
            for name, point in self._entries.items():
                if point.seen is None and name not in self._asked:
                    self._outbox.seen[name] = -self._tick()
            for name, point in self._unmet.items():
                if not point.pending:
                    _log.warning("the journal has a point that the code does not come to", point=name)
        return self._outbox.list_seen()

    def list_forgotten(self) -> tuple[str, ...]:
        """The points whose failure ended the attempt: failed, and nothing was made or told after them."""
        seen = {name: self._outbox.seen.get(name, point.seen) for name, point in self._entries.items()}
        forgotten: list[str] = []
        while True:
            kept = [name for name in self._entries if name not in forgotten]
            if not kept:
                break
            last = max(kept, key=lambda name: max(self._entries[name].made, seen[name] or 0))
            if not has_failed(self._entries[last]) or (seen[last] or 0) < 0:
                break
            forgotten.append(last)
        return tuple(forgotten)

    def _come_to(self, asked: Asked) -> None:
        name: str = asked.op.name
        entry = self._entries.get(name) if name else None
        if name:
            self._asked[name] = asked
        if entry is not None:
            self._meet(asked, entry)
        elif self._unmet:
            asked.state = "parked"
            self._parked.append(asked)
            self._changed.set()
        else:
            self._begin(asked)

    def _meet(self, asked: Asked, entry: Point) -> None:
        """The code has come to a point that the journal has."""
        op = asked.op
        if entry.kind != op.kind and not (entry.kind == "effect" and isinstance(op, ops.TriggerRun)):
            asked.tell(_describe_other(op.name, f"{entry.name} ({entry.kind})"))
            return
        self._unmet.pop(entry.name, None)
        if isinstance(op, ops.OpenBatch):
            del self._asked[op.name]
            asked.tell(describe_outcome(op, entry))
        elif isinstance(op, ops.BeginStep) and not entry.pending and entry.succeeded is None:
            self._try_again(asked, entry)
        else:
            self._await_point(asked, entry)
        self._unpark()

    def _try_again(self, asked: Asked, entry: Point) -> None:
        """A step that failed is to be tried again, as the code was told before or is told now.

        Nothing else waits for what comes of it in its place of the order: that is something new, which may never come.
        """
        del self._asked[entry.name]
        with contextlib.suppress(ValueError):
            self._order.remove(entry.name)
        if entry.seen is None or entry.seen < 0:
            self._outbox.seen[entry.name] = self._tick()
            self._entries[entry.name] = replace(entry, seen=self._outbox.seen[entry.name])
        asked.tell(ops.StepState(is_over=False, failures=entry.failures))

    def _await_point(self, asked: Asked, entry: Point) -> None:
        if entry.seen is not None and entry.seen < 0:
            asked.state = "abandoned"
        elif entry.pending:
            self._wait(asked, entry.due_in)
        else:
            self._make_ready(asked, entry)

    def _await_batch(self, asked: Asked, entry: Point) -> None:
        self._asked[entry.name] = asked
        self._await_point(asked, entry)

    def _unpark(self) -> None:
        if not self._unmet:
            self._begin_parked()
        self._changed.set()

    def _begin_parked(self) -> None:
        parked, self._parked = self._parked, []
        for asked in parked:
            if not asked.future.done():  # else the code stopped asking
                self._begin(asked)

    def _begin(self, asked: Asked) -> None:
        """The code has come to a new point."""
        settings = self._desk.engine.settings
        if not isinstance(asked.op, ops.KeepPage):
            self._count += 1
        if self._count > settings.max_points:
            text = f"the run came to more than {settings.max_points} durable points (HEADRACE_MAX_POINTS)"
            asked.tell(LimitError(f"{text}: do part of the work in children, or in a batch"))
        elif isinstance(asked.op, ops.TriggerRun | ops.OpenBatch) and self._run.depth >= settings.max_depth:
            text = f"the run is {self._run.depth} runs below the top of its tree (HEADRACE_MAX_DEPTH is {settings.max_depth})"
            asked.tell(LimitError(f"{text}: it can trigger no children; does a task trigger itself?"))
        elif isinstance(asked.op, ops.BeginStep):
            asked.tell(ops.StepState(is_over=False))
        else:
            self._write(asked)

    def _write(self, asked: Asked) -> None:
        asked.state = "writing"
        try:
            deed = self._desk.deeds.describe(self._run, asked.op)
        except (ValueError, HeadraceError) as error:
            asked.tell(error)
            return
        cascade: bool = getattr(asked.op, "cascade", True)
        name = self._pages.store_name(asked.op.name)
        if self._outbox.put(asked, PointWrite(name, self._tick(), deed, cascade=cascade)):
            self._spawn(self._outbox.flush())

    def _note_written(self, asked: Asked, point: Point | None) -> None:
        self._changed.set()
        if point is None:  # a change of metadata that is no point
            asked.tell(None)
            return
        if isinstance(asked.op, ops.KeepPage):
            point = replace(point, name=asked.op.name)
        elif (
            isinstance(asked.op, ops.AddTags) and point.value.data is not None
        ):  # children that are made next inherit them
            self._run.tags[:] = msgspec.json.decode(point.value.data, type=list[str])
        self._entries[point.name] = point
        if isinstance(asked.op, ops.OpenBatch):
            self._opened.add(point.name)
            del self._asked[point.name]
            asked.tell(describe_outcome(asked.op, point))
        elif point.pending:
            self._wait(asked, point.due_in)
        elif point.kind in ("run", "token", "progress"):  # its outcome is elsewhere
            self._wait(asked, None)
            self._desk.watcher.look_now()
        else:
            self._make_ready(asked, point)

    async def _do_at_once(self, asked: Asked) -> None:
        self._busy += 1
        self._at_once += 1
        try:
            result = await self._desk.deeds.do_at_once(self._run, self._fence, asked.op)
        except RunLostError:
            self._desk.on_lost(self.run_id)
        except Exception as error:  # noqa: BLE001 - the code is to see it
            asked.tell(error)
        else:
            asked.tell(result)
        await self._settle()
        self._busy -= 1
        self._at_once -= 1
        self._changed.set()

    def _wait(self, asked: Asked, due_in: float | None) -> None:
        if asked.future.done():
            self._abandon(asked)
            return
        asked.state = "waiting"
        self._desk.watcher.add(self, asked.op.name, due_in=due_in, since=self._outbox.hints)
        self._desk.on_waiting(self.run_id)
        self._changed.set()

    def _make_ready(self, asked: Asked, point: Point) -> None:
        asked.state = "ready"
        self._ready[point.name] = (asked, point)
        self._changed.set()

    async def _tell(self) -> None:
        """Tells the code outcomes, one after the other."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while (told := await self._next_told()) is not None:
                self._busy += 1
                asked, point = told
                value = await self._load(describe_outcome(asked.op, point))
                if point.seen is None or point.seen < 0:
                    self._outbox.seen[point.name] = self._tick()
                    self._entries[point.name] = replace(point, seen=self._outbox.seen[point.name])
                self._asked.pop(point.name, None)
                asked.tell(value)
                await self._settle()
                self._busy -= 1
            await self._look_for_another_way()

    async def _load(self, told: Any) -> Any:
        try:
            return await self._desk.deeds.load(told)
        except PayloadStoreError as error:
            return error

    async def _next_told(self) -> tuple[Asked, Point] | None:
        """What the code is told next: first what it was told before, in that order.

        Nothing while it reads outcomes of a batch: it was told of their end, and what it makes of that comes before the
        next, however long the reading takes this time.
        """
        if self._at_once:
            return None
        while self._order:
            name = self._order[0]
            if told := self._ready.pop(name, None):
                self._order.popleft()
                return told
            if not await self._stands_still_for_good() and not (self._ready and self._is_stuck_on_locks()):
                await self._begin_stuck()
                asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._changed.set)
                return None
            if name in self._ready:
                continue  # it was asked for in the meantime
            if await self._release_held():
                continue
            self._order.popleft()  # the code does not ask for it, or not before it is told something else
        return self._ready.pop(next(iter(self._ready))) if self._ready else None

    async def _look_for_another_way(self) -> None:
        """The code was told all that there is. Does it stand before a new point while the journal has others?"""
        if self._order or self._ready or not (self._parked or self._held or self._list_abandoned()):
            return
        if not await self._stands_still_for_good():
            await self._begin_stuck()
            asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._changed.set)
            return
        if await self._release_held():
            self._changed.set()
            return
        if self._list_abandoned():
            self._take_up_abandoned()
            return
        if not self._unmet or self._ready:
            return
        expected = next(iter(self._unmet.values()))
        parked, self._parked = self._parked, []
        for asked in parked:
            if not asked.future.done():
                asked.tell(_describe_other(asked.op.name, expected.name))

    async def _release_held(self) -> bool:
        """Answers the first change of metadata that is held, once the rest of the code has come as far as it came before.

        Nothing is written: what is shown now is of a later moment. But it took its time then, in which others went on.
        """
        if not self._held:
            return False
        self._held.popleft()[0].tell(None)
        await self._settle()
        return True

    async def _settle(self) -> None:
        """Lets code that was told something go on until it stands still, or does what is not durable."""
        if self._tasks is not None:
            for _ in range(SETTLE_TICKS):
                await asyncio.sleep(0)

    def _take_up_abandoned(self) -> None:
        """This time the code does want to know."""
        for asked in self._list_abandoned():
            name = asked.op.name
            self._outbox.seen[name] = None
            self._entries[name] = replace(self._entries[name], seen=None)
            self._await_point(asked, self._entries[name])

    async def _begin_stuck(self) -> None:
        """A task that waits for a lock comes to its points after the one that holds it: in another order than before, where
        asyncio gave the lock to another. So what that one has come to is begun, though the journal has points left.
        """
        if self._held and asyncio.get_running_loop().time() - self._held[0][1] > _LOCK_PATIENCE:
            await self._release_held()  # a task that sleeps in between may never stand still
        if (self._parked or self._list_abandoned()) and not self._ready and self._is_stuck_on_locks():
            self._take_up_abandoned()
            self._begin_parked()

    def _is_stuck_on_locks(self) -> bool:
        """Whether for some time all tasks have waited for points, for locks, or for each other."""
        if not self._stands_still(locks=True):
            self._stuck = None
            return False
        now = asyncio.get_running_loop().time()
        if self._stuck is None or self._stuck[0] != self._clock:
            self._stuck = (self._clock, now)
        return now - self._stuck[1] > _LOCK_PATIENCE

    def _list_abandoned(self) -> list[Asked]:
        return [asked for asked in self._asked.values() if asked.state == "abandoned"]

    async def _stands_still_for_good(self) -> bool:
        """Over some turns of the loop: the end of a task reaches who joins it that much later."""
        for _ in range(SETTLE_TICKS):
            if not self._stands_still():
                return False
            await asyncio.sleep(0)
        return self._stands_still()

    def _stands_still(self, *, locks: bool = False) -> bool:
        if self._busy or self._outbox.busy:
            return False
        waited_for = {future for future in self._futures if not future.done()}
        return bool(waited_for) if self._tasks is None else all_wait(self._tasks, waited_for, locks=locks)

    def _drop(self, asked: Asked) -> None:
        """A future is done: told, or given up by the code."""
        self._futures.discard(asked.future)
        if asked.future.cancelled() and not self.closed:
            if asked in self._parked:
                self._parked.remove(asked)
            elif asked.state == "waiting":
                self._abandon(asked)

    def _abandon(self, asked: Asked) -> None:
        """The code stopped asking: the outcome does not wake it, now or in a replay."""
        name: str = asked.op.name
        self._desk.watcher.remove(self, name)
        if self._asked.get(name) is asked:
            del self._asked[name]
        self._outbox.seen[name] = -self._tick()
        if name in self._entries:
            self._entries[name] = replace(self._entries[name], seen=self._outbox.seen[name])

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _spawn(self, job: Any) -> None:
        # a context of its own: this is no task of the run's
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(job, context=Context())
        self._jobs.add(task)
        task.add_done_callback(self._end_job)

    def _end_job(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:  # a fault of ours: nobody may wait for ever
            _log.error("a run's journal can't be kept", run=format_run_id(self.run_id), exc_info=error)
            for future in list(self._futures):
                if not future.done():
                    future.set_exception(error)


def _describe_other(met: str, expected: str) -> NondeterminismError:
    return NondeterminismError(
        f"the replay came to {met!r}, but the run's journal has {expected!r} there. Either the code was changed while the "
        "run was under way, or it decides by something that differs from one replay to the next: do that in a step.",
        met=met,
        expected=expected,
    )
