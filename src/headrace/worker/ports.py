"""How a run's code reaches its conductor: from the worker's loop, or from a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

from headrace.durable.ops import Op
from headrace.durable.port import Around, Names, PutDown
from headrace.worker.conductor import Conductor


class Conducted(Protocol):
    """A run under way, which has a conductor from its first durable point on."""

    def conduct(self) -> Conductor:
        """Its conductor. To be called on the loop."""
        ...


class RunPort:
    """The port of one run."""

    __slots__ = ("_execution", "_loop", "_names", "around")

    def __init__(self, execution: Conducted, around: Around | None = None) -> None:
        self._execution = execution
        self.around = around
        self._loop = asyncio.get_running_loop()
        self._names: Names | None = None

    @property
    def names(self) -> Names:
        """The names that its code has come to."""
        if self._names is None:
            self._names = Names()
        return self._names

    def perform(self, op: Op) -> Awaitable[Any]:
        """See ``Port``. Also on a loop of the run's own, on which the hooks of a ``def`` are."""
        if asyncio.get_running_loop() is not self._loop:
            told: Future[Any] = Future()
            self._loop.call_soon_threadsafe(self._start, op, told)
            return asyncio.wrap_future(told)
        return self._execution.conduct().perform(op)

    def perform_blocking(self, op: Op) -> Any:
        """See ``Port``. Raises PutDown where the run is put down, or ended, while it waits."""
        told: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._start, op, told)
        try:
            return told.result()
        except CancelledError:
            raise PutDown from None

    def _start(self, op: Op, told: Future[Any]) -> None:
        def tell(future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                told.cancel()
            elif (error := future.exception()) is not None:
                told.set_exception(error)
            else:
                told.set_result(future.result())

        self._execution.conduct().perform(op).add_done_callback(tell)
