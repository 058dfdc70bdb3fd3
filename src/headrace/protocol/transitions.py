"""Every status and every way from one to another: what moves a run, a batch, a token, and which statement does it.

The one table. ``docs/reference/statuses.md`` is written from it, the tests' databases refuse what is not in it, and every
statement that writes a status has its place here. PENDING_VERSION and DELAYED are QUEUED in the table of runs: they are found
out when a run is read, so nothing has to move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from headrace.protocol.statuses import TERMINAL_RUN_STATUSES, BatchStatus, RunStatus
from headrace.protocol.tokens import TokenStatus

RUN_STATUSES: Final = {
    RunStatus.PENDING_VERSION: "queued, and no worker ever came that could take it: none has had its task, or the version that "
    "it is locked to; derived when it is read, before `DELAYED`",
    RunStatus.DELAYED: "queued, and its delay is not over; derived when it is read",
    RunStatus.QUEUED: "waits for a worker: new, between two attempts, given back, or about to go on after a wait",
    RunStatus.DEQUEUED: "on its way to a worker; not set by this version",
    RunStatus.EXECUTING: "held by a worker",
    RunStatus.WAITING: "waits inside its code, and is put down: no worker holds it. A wait that is short is `EXECUTING`",
    RunStatus.COMPLETED: "ended with a result",
    RunStatus.CANCELED: "ended on request: itself, the run that waits for it, or its batch, which was to start at its seal and "
    "was aborted",
    RunStatus.FAILED: "ended with an error of its own, after its last attempt",
    RunStatus.CRASHED: "its process or its workers died, too often",
    RunStatus.SYSTEM_FAILURE: "could not become a run that can start: an item that failed at creation",
    RunStatus.EXPIRED: "was not started within its time to live",
    RunStatus.TIMED_OUT: "took longer than its `maxDuration`",
}

BATCH_STATUSES: Final = {
    BatchStatus.PENDING: "unsealed: it takes items",
    BatchStatus.PROCESSING: "sealed: every item is there, not all have ended",
    BatchStatus.COMPLETED: "every item has ended, and each had become a run that could start",
    BatchStatus.PARTIAL_FAILED: "every item has ended, and some failed at creation",
    BatchStatus.ABORTED: "never sealed: its deadline came, or the run that made it was canceled; or every item failed at creation",
}

TOKEN_STATUSES: Final = {
    TokenStatus.WAITING: "nobody has completed it, and its time is not over",
    TokenStatus.COMPLETED: "somebody did; it has an output",
    TokenStatus.TIMED_OUT: "its time was over first: who waits for it gets `WaitTimeout`",
}


@dataclass(frozen=True, slots=True)
class Transition:
    """A way from one of ``sources`` (none: it is new) to one of ``targets``, why, and the statements that go it."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    cause: str
    statements: tuple[str, ...]


_INSERTS = ("insert_run", "insert_run_once", "insert_items", "insert_children", "insert_replays")
_CLAIMS = ("claim_runs", "claim_limited_runs")
_ENDS = ("seal_batch", "finish_runs", "rescue_runs", "cancel_runs", "settle_aliases", "recount_batch")
_ENDED = (BatchStatus.COMPLETED, BatchStatus.PARTIAL_FAILED, BatchStatus.ABORTED)

RUN_TRANSITIONS: Final = (
    Transition((), (RunStatus.QUEUED,), "a trigger, an item, a child, a tick of a schedule, a replay", _INSERTS),
    Transition((), (RunStatus.SYSTEM_FAILURE,), "it failed at creation", ("insert_items",)),
    Transition(
        (),
        tuple(status for status in RUN_STATUSES if status in TERMINAL_RUN_STATUSES),
        "an import: it ended so in another installation",
        ("import_runs",),
    ),
    Transition(
        (RunStatus.QUEUED,),
        (RunStatus.EXECUTING,),
        "a claim; it counts up the number by which writes are fenced",
        _CLAIMS,
    ),
    Transition(
        (RunStatus.EXECUTING,),
        (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CRASHED, RunStatus.TIMED_OUT),
        "its worker, guarded by worker and claim",
        ("finish_runs",),
    ),
    Transition((RunStatus.EXECUTING,), (RunStatus.QUEUED,), "an attempt failed and another is due", ("finish_runs",)),
    Transition(
        (RunStatus.EXECUTING,),
        (RunStatus.WAITING,),
        "its worker put it down: it has waited for longer than `HEADRACE_WAIT_LINGER`",
        ("finish_runs",),
    ),
    Transition(
        (RunStatus.EXECUTING,),
        (RunStatus.QUEUED,),
        "its worker gave it back before it was started",
        ("give_back_runs",),
    ),
    Transition((RunStatus.EXECUTING,), (RunStatus.QUEUED,), "its worker died, or was stopped", ("rescue_runs",)),
    Transition(
        (RunStatus.EXECUTING,),
        (RunStatus.CRASHED,),
        "its worker died once more after `HEADRACE_MAX_RESCUES` rescues",
        ("rescue_runs",),
    ),
    Transition(
        (RunStatus.WAITING,),
        (RunStatus.QUEUED,),
        "one of the things that it waits for is there: a run, batch or token ended, a time came; in the transaction that ended "
        "it, or in the one that put it down, whichever is later",
        ("wake_runs",),
    ),
    Transition(
        (RunStatus.QUEUED, RunStatus.EXECUTING, RunStatus.WAITING),
        (RunStatus.CANCELED,),
        "a request to cancel it, or the run that waits for it; its batch was to start at the seal, and was aborted",
        ("cancel_runs",),
    ),
    Transition(
        (RunStatus.QUEUED,), (RunStatus.EXPIRED,), "the sweep, when its time to live was over", ("cancel_runs",)
    ),
)

BATCH_TRANSITIONS: Final = (
    Transition(
        (),
        (BatchStatus.PENDING,),
        "a batch is created; one that is submitted at once is sealed with it",
        ("insert_batch",),
    ),
    Transition(
        (BatchStatus.PENDING,),
        (BatchStatus.PROCESSING, *_ENDED),
        "the seal, once, only when every index is there; where all items have ended by then, it has ended",
        ("seal_batch",),
    ),
    Transition((BatchStatus.PROCESSING,), _ENDED, "the end of its last item", _ENDS),
    Transition(
        (BatchStatus.PENDING,),
        (BatchStatus.ABORTED,),
        "the deadline of the seal; a cancel of the run that made it and waits for it",
        ("abort_unsealed_batches", "abort_batch"),
    ),
)

TOKEN_TRANSITIONS: Final = (
    Transition((), (TokenStatus.WAITING,), "a token is created", ("insert_token",)),
    Transition(
        (TokenStatus.WAITING,),
        (TokenStatus.COMPLETED,),
        "the first completion; later ones change nothing",
        ("complete_token",),
    ),
    Transition((TokenStatus.WAITING,), (TokenStatus.TIMED_OUT,), "the sweep, at its timeout", ("expire_tokens",)),
)


def _list_pairs(transitions: tuple[Transition, ...]) -> frozenset[tuple[str, str]]:
    return frozenset(
        (str(source), str(target)) for one in transitions for source in one.sources for target in one.targets
    )


RUN_PAIRS: Final = _list_pairs(RUN_TRANSITIONS)
BATCH_PAIRS: Final = _list_pairs(BATCH_TRANSITIONS)
TOKEN_PAIRS: Final = _list_pairs(TOKEN_TRANSITIONS)


def check_run_move(source: RunStatus, target: RunStatus) -> None:
    """Raises ValueError where no run goes from ``source`` to ``target``."""
    if (source, target) not in RUN_PAIRS:
        ways = sorted(there for here, there in RUN_PAIRS if here == source)
        raise ValueError(f"no run goes from {source} to {target}: there is {', '.join(ways) or 'no way out'}")
