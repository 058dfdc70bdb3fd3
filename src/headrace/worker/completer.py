"""Reports how runs ended, by the chunk: gathered for a moment, written in one transaction, tried until it is written.

Nothing is reported twice: the database takes an end only from who holds the run in that attempt. So a chunk whose
fate is unknown (the connection broke before the answer) is simply written again.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from headrace import metrics
from headrace.engine.completions import finish_runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Finish, Packet, WorkerLease
from headrace.ids import format_run_id
from headrace.logs import get_logger
from headrace.protocol.statuses import RunStatus
from headrace.store.store import DATABASE_ERRORS
from headrace.timeouts import happens_within
from headrace.worker.retries import internal_error

FLUSH_RUNS: Final = 500
FLUSH_BYTES: Final = 8 * 1024 * 1024
FLUSH_SECONDS: Final = 0.01
"""A chunk is written when it has so many runs, or so many bytes, or so long after its first run ended."""

MOST_RUNS: Final = 4 * FLUSH_RUNS
MOST_BYTES: Final = 4 * FLUSH_BYTES
"""With so much unwritten nothing new is claimed: the database is slow or away."""

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0

_UNSTORABLE: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    TypeError,
)
"""What says that something in the chunk can't be written, ever: then it is found and reported as that."""

_log = get_logger("headrace.worker")


class Report(NamedTuple):
    """An ended attempt on its way into the database."""

    lease: WorkerLease
    finish: Finish
    task: str
    seconds: float


class Completer:
    """Takes ends with ``put`` and writes them in ``run``, one chunk at a time.

    ``on_lost`` is called when the database refused some: the worker's lease may be over. ``on_retry`` is called with
    seconds after which a run is ready again, and ``on_room`` after each chunk, when there may be room again.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_lost: Callable[[], None],
        on_retry: Callable[[float], None],
        on_room: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._on_lost = on_lost
        self._on_retry = on_retry
        self._on_room = on_room
        self._waiting: deque[Report] = deque()
        self._bytes = 0
        self._writing: list[Report] = []
        self._due = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._timer: asyncio.TimerHandle | None = None
        self.written = 0
        self.lost = 0

    @property
    def unwritten(self) -> int:
        """Ends that are not in the database yet."""
        return len(self._waiting) + len(self._writing)

    @property
    def has_room(self) -> bool:
        """Whether runs may be claimed: there is not too much unwritten."""
        return self.unwritten < MOST_RUNS and self._bytes < MOST_BYTES

    def put(self, lease: WorkerLease, finish: Finish, task: str, seconds: float) -> None:
        """Takes the end of an attempt that took ``seconds`` under ``lease``."""
        self._waiting.append(Report(lease, finish, task, seconds))
        if finish.output.data is not None:
            self._bytes += len(finish.output.data)
        waiting = len(self._waiting)
        if waiting == 1:
            self._empty.clear()
            self._arm_timer()
        elif waiting >= FLUSH_RUNS or self._bytes >= FLUSH_BYTES:
            self._due.set()

    def flush_now(self) -> None:
        """Writes what there is without waiting for more, because no more is to come."""
        self._due.set()

    def unwritten_runs(self) -> set[UUID]:
        """The runs whose ends are not in the database yet."""
        return {report.finish.run_id for report in (*self._waiting, *self._writing)}

    def drop(self, lease: WorkerLease) -> None:
        """Forgets what was executed under a lease that is lost: it could not be written."""
        kept = [report for report in self._waiting if report.lease != lease]
        self._count_lost(len(self._waiting) - len(kept))
        self._waiting = deque(kept)
        self._weigh()

    async def wait_empty(self, timeout: float) -> bool:
        """Whether everything was written within ``timeout`` seconds."""
        self.flush_now()
        return await happens_within(self._empty, timeout)

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._waiting:
                self._take_chunk()
                await self._write(self._writing)
                self._writing = []
                self._weigh()
                self._on_room()
                if 0 < len(self._waiting) < FLUSH_RUNS and not self._due.is_set():
                    self._arm_timer()
                    break
            else:
                self._empty.set()

    def _arm_timer(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._due.set()

    def _take_chunk(self) -> None:
        """Moves the oldest ends over, a run at most once: a chunk of unknown fate may meet the run's next attempt."""
        chunk: dict[UUID, Report] = {}
        size = 0
        lease = self._waiting[0].lease
        while self._waiting and len(chunk) < FLUSH_RUNS and size < FLUSH_BYTES:
            report = self._waiting[0]
            if report.finish.run_id in chunk or report.lease != lease:
                break
            chunk[report.finish.run_id] = self._waiting.popleft()
            size += len(report.finish.output.data or b"")
        self._writing = list(chunk.values())

    async def _write(self, reports: list[Report]) -> None:
        """Writes a chunk, however long the database is away; finds the ends in it that can't be written."""
        delay = _FIRST_DELAY
        repeated = False
        while True:
            try:
                async with asyncio.timeout(self._engine.settings.lease):
                    lost = await finish_runs(self._engine, reports[0].lease, [report.finish for report in reports])
            except _UNSTORABLE as error:
                if len(reports) > 1:
                    middle = len(reports) // 2
                    await self._write(reports[:middle])
                    await self._write(reports[middle:])
                    return
                reports = [_replace_unstorable(reports[0], error)]
            except DATABASE_ERRORS as error:
                _log.warning(
                    "results can't be written yet, trying again",
                    runs=len(reports),
                    error=f"{type(error).__name__}: {error}",
                )
            else:
                self._count_written(reports, lost, repeated=repeated)
                return
            repeated = True
            await asyncio.sleep(delay * (1 + random.random()))  # noqa: S311 - spreads retries, guards nothing
            delay = min(delay * 2, _LONGEST_DELAY)

    def _count_written(self, reports: list[Report], lost: set[UUID], *, repeated: bool) -> None:
        self.written += len(reports) - len(lost)
        if lost:
            self._on_lost()
            if not repeated:  # on a repeat they may be refused because the first try had written them
                self._count_lost(len(lost))
                _log.warning(
                    "results refused: this worker no longer holds the runs",
                    runs=len(lost),
                    first=format_run_id(min(lost)),
                )
        seconds: defaultdict[tuple[str, RunStatus], list[float]] = defaultdict(list)
        retries: defaultdict[str, int] = defaultdict(int)
        delays: set[float] = set()
        put_down = 0
        for report in reports:
            finish = report.finish
            if finish.status is RunStatus.WAITING:
                put_down += finish.run_id not in lost
            elif finish.run_id not in lost:
                seconds[report.task, finish.status].append(report.seconds)
                if finish.retry_in is not None:
                    retries[report.task] += 1
                    delays.add(round(finish.retry_in, 1))
        for (task, status), values in seconds.items():
            metrics.observe_attempts(task, status.value, values)
        metrics.count_put_downs(put_down)
        for task, runs in retries.items():
            metrics.count_retries(task, runs)
        for value in delays:
            self._on_retry(value)

    def _count_lost(self, runs: int) -> None:
        if runs:
            self.lost += runs
            metrics.count_lost_results(runs)

    def _weigh(self) -> None:
        self._bytes = sum(len(report.finish.output.data or b"") for report in self._waiting)


def _replace_unstorable(report: Report, error: BaseException) -> Report:
    _log.error("a result can't be stored", run=format_run_id(report.finish.run_id), error=str(error))
    fault = internal_error("TASK_OUTPUT_ERROR", f"PostgreSQL can't store how the run ended: {error}")
    finish = msgspec.structs.replace(
        report.finish, status=RunStatus.FAILED, output=Packet(None), error=fault, retry_in=None
    )
    return report._replace(finish=finish)
