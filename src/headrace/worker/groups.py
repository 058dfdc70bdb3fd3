"""Runs of one order key that one call of their task takes together, each with an outcome of its own.

Every run of a group is executed as any other: its payload is decoded, its hooks are called, its end is reported. Only the
call of the function in the middle is one for all; it begins when each run has come to it, or has ended before.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from headrace.durable.port import inside_call
from headrace.engine.outcomes import ClaimedRun
from headrace.tasks import Task


class Group:
    """The call that is shared."""

    def __init__(self, function: Callable[[list[Any]], Coroutine[Any, Any, Any]]) -> None:
        self._function = function
        self._seats: list[Seat] = []
        self._job: asyncio.Task[None] | None = None

    def add_seat(self) -> Seat:
        """One more run takes part: they are given to the function in this order."""
        seat = Seat(self)
        self._seats.append(seat)
        return seat

    def look(self) -> None:
        """Calls the function once every run is there or gone; ends the call once nobody is there for it any more."""
        seats = [seat for seat in self._seats if seat.outcome is not None and not seat.outcome.done()]
        if self._job is not None:
            if not seats:
                self._job.cancel()
        elif seats and all(seat.gone or seat.outcome is not None for seat in self._seats):
            self._job = asyncio.create_task(self._call(seats))

    async def _call(self, seats: list[Seat]) -> None:
        try:
            with inside_call():
                outcomes = _check_outcomes(await self._function([seat.payload for seat in seats]), len(seats))
        except BaseException as error:  # noqa: BLE001 - it is the end of each of the runs, as it is of one that is alone
            outcomes = [error] * len(seats)
        for seat, outcome in zip(seats, outcomes, strict=True):
            seat.tell(outcome)


class Seat:
    """A run's part in a group: what is called in place of the task's function."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.payload: Any = None
        self.outcome: asyncio.Future[Any] | None = None
        self.gone = False

    async def __call__(self, payload: Any) -> Any:
        """The outcome of this run. Raises it where it is an exception."""
        self.payload = payload
        self.outcome = asyncio.get_running_loop().create_future()
        self._group.look()
        return await self.outcome

    def tell(self, value: Any) -> None:
        """The outcome is there."""
        if self.outcome is None or self.outcome.done():
            return
        if isinstance(value, BaseException):
            self.outcome.set_exception(RuntimeError(str(value)) if isinstance(value, StopIteration) else value)
        else:
            self.outcome.set_result(value)

    def leave(self) -> None:
        """The run has ended: the others wait for it no longer."""
        self.gone = True
        self._group.look()


def seat_runs(tasks: Mapping[str, Task[Any, Any]], runs: Sequence[ClaimedRun]) -> dict[UUID, Seat]:
    """The seats of those of ``runs`` whose task takes several at once, by run. Runs are in the order of their claim."""
    groups: defaultdict[tuple[object, ...], list[ClaimedRun]] = defaultdict(list)
    for run in runs:
        if tasks[run.task].coalesce is not None:
            groups[run.task, run.queue, run.options.get("orderKey") or run.id].append(run)
    seats: dict[UUID, Seat] = {}
    for members in groups.values():
        group = Group(tasks[members[0].task].fn)
        seats |= {run.id: group.add_seat() for run in members}
    return seats


def _check_outcomes(returned: Any, count: int) -> Sequence[Any]:
    if isinstance(returned, list | tuple):
        outcomes = cast("Sequence[Any]", returned)
        if len(outcomes) == count:
            return outcomes
        what = f"{len(outcomes)} outcomes"
    else:
        what = type(returned).__name__
    raise TypeError(
        f"a call for {count} runs returned {what}: it has to return a list with an outcome for each, in their order"
    )
