"""Something durable that a run's code asked for: awaited in an ``async def``, or its ``.result()`` asked for in a ``def``.

What is to happen is written once, as a generator of effects; the two ways to wait are two small drivers of it.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from headrace.durable.ops import Op, RecallWait, kind_of_wait
from headrace.durable.port import Around, Port, inside_step

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the user's, to be called here: awaited where it is a coroutine function."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Take:
    """The next items, at most so many, of an iterator of either kind."""

    items: Iterator[Any] | AsyncIterator[Any]
    most: int


Steps = Generator[Op | Call | Take, Any, T]


class Pending(Generic[T]):
    """A durable operation that has its name, and happens when it is waited for.

    thumb = await resize.trigger_and_wait(url)            # in an async def
    thumb = resize.trigger_and_wait(url).result()         # in a def
    """

    __slots__ = ("_asked", "_port", "_steps", "_what")

    def __init__(self, port: Port, steps: Steps[T], what: str) -> None:
        self._port = port
        self._steps = steps
        self._what = what
        self._asked = False

    def __await__(self) -> Generator[Any, Any, T]:
        self._ask_once()
        return self._drive().__await__()

    def result(self) -> T:
        """The outcome, waited for in this thread. Raises RuntimeError on an event loop: await it there."""
        self._ask_once()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._drive_blocking()
        raise RuntimeError(f"{self._what}: .result() would stop the event loop; write `await ...` in an async def.")

    def __del__(self) -> None:
        if not self._asked:
            told = f"{self._what} was never awaited, nor its .result() asked for: it did not happen"
            warnings.warn(told, RuntimeWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<Pending {self._what}>"

    def _ask_once(self) -> None:
        if self._asked:  # its steps are used up, and would give None
            raise RuntimeError(f"{self._what} was waited for before: keep what it gave, or make another")
        self._asked = True

    async def _drive(self) -> T:
        result: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect = self._steps.throw(error) if error is not None else self._steps.send(result)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                match effect:
                    case Call(function, arguments):
                        result = await _call(function, arguments)
                    case Take(items, most):
                        result = await _take(items, most)
                    case op if self._port.around is not None and kind_of_wait(op):
                        result = await _wait(self._port, self._port.around, op)
                    case op:
                        result = await self._port.perform(op)
            except Exception as raised:  # noqa: BLE001 - the flow is to see what its effect raised
                error = raised

    def _drive_blocking(self) -> T:
        result: Any = None
        error: BaseException | None = None
        while True:
            try:
                effect = self._steps.throw(error) if error is not None else self._steps.send(result)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                match effect:
                    case Call(function, arguments):
                        result = _call_blocking(function, arguments)
                    case Take(items, most):
                        result = _take_blocking(items, most)
                    case op if self._port.around is not None and kind_of_wait(op):
                        result = _wait_blocking(self._port, self._port.around, op)
                    case op:
                        result = self._port.perform_blocking(op)
            except Exception as raised:  # noqa: BLE001 - the flow is to see what its effect raised
                error = raised


async def _wait(port: Port, around: Around, op: Any) -> Any:
    """A wait with its hooks. Each is called once: a replay comes to the wait as well, and calls what was not called before."""
    known = await port.perform(RecallWait(op.name))
    if known == "new":
        await around.call("on_wait", op)
    result = await port.perform(op)
    if known != "told":
        await around.call("on_resume", op)
    return result


def _wait_blocking(port: Port, around: Around, op: Any) -> Any:
    known = port.perform_blocking(RecallWait(op.name))
    if known == "new":
        around.call_blocking("on_wait", op)
    result = port.perform_blocking(op)
    if known != "told":
        around.call_blocking("on_resume", op)
    return result


async def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with inside_step():
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        value = await asyncio.to_thread(function, *arguments)
        return await value if inspect.isawaitable(value) else value


def _call_blocking(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with inside_step():
        value = function(*arguments)
        return asyncio.run(_wait_for(value)) if inspect.isawaitable(value) else value


async def _wait_for(value: Any) -> Any:
    return await value


async def _take(items: Iterator[Any] | AsyncIterator[Any], most: int) -> list[Any]:
    if isinstance(items, Iterator):
        return list(islice(items, most))
    taken: list[Any] = []
    while len(taken) < most:
        try:
            taken.append(await anext(items))
        except StopAsyncIteration:
            break
    return taken


def _take_blocking(items: Iterator[Any] | AsyncIterator[Any], most: int) -> list[Any]:
    if isinstance(items, Iterator):
        return list(islice(items, most))
    raise TypeError("items is an async iterable, which a def task can't read: give a list, or write an async def.")
