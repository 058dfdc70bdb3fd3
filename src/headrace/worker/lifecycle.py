"""An attempt with its hooks: middleware, init, start, the code, success or failure, cancel, in the order that
docs/how-to/hooks.md promises.

It is written once, as a generator of calls; ``live_async`` makes them on an event loop, ``live_blocking`` in the thread or
process of a ``def``, where an ``async def`` hook gets a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from headrace import hooks
from headrace.durable import ops
from headrace.durable.port import inside_hook
from headrace.engine.outcomes import Packet
from headrace.errors import ConfigurationError, MaxDurationError
from headrace.hooks import Decision, Event, Hook, HookSet, Moment, WaitInfo
from headrace.logs import get_logger
from headrace.tasks import RunContext, Task
from headrace.worker.calls import encode_output
from headrace.worker.retries import Failure, change_failure, decide_failure, describe_exception

_log = get_logger("headrace.worker")


class Returned(NamedTuple):
    """What a call gave."""

    value: Any


class Raised(NamedTuple):
    """What a call raised, as a value: neither a generator nor a future carries every exception."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Call:
    """A function to be called. ``guarded`` refuses durable points in it; ``shielded`` keeps a stop from breaking into it."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    guarded: bool = False
    shielded: bool = False


Flow = Generator[Call, Returned | Raised, Packet | Failure | None]


@dataclass(frozen=True, slots=True)
class Life:
    """What is lived: a run's attempt, and whether it goes on after a wait. ``function`` is what is called in the middle."""

    task: Task[Any, Any]
    function: Callable[..., Any]
    context: RunContext
    arguments: tuple[Any, ...]
    resumed: bool = False
    limit: float = 0.0

    @property
    def payload(self) -> Any:
        """The payload, as the task is given it."""
        return self.arguments[0] if self.task.takes_payload else None

    def hooks_at(self, moment: Moment) -> Iterator[Hook]:
        """The hooks of a moment, in the order in which they are called: those of all tasks, then the task's own."""
        sets: tuple[HookSet, HookSet] = (hooks.registered, self.task.hooks)
        for of_whom in reversed(sets) if moment == "catch_error" else sets:
            yield from of_whom.at(moment)

    def event(self, **said: Any) -> Event:
        """What a hook is told."""
        return Event(self.context, self.payload, **said)


def has_hooks(task: Task[Any, Any]) -> bool:
    """Whether there is anything to be called around the task's code."""
    return bool(task.hooks or hooks.registered)


def live(life: Life) -> Flow:
    """Plan: the attempt. Returns its output, its failure, or None where the code was stopped and nothing is to be reported."""
    managers: list[Any] = []
    ended = yield from _enter(life, managers)
    if ended is None:
        ended = yield from _begin(life)
    if ended is None:
        ended = yield Call(life.function, life.arguments)
    verdict = yield from _conclude(life, ended)
    for manager in reversed(managers):
        verdict = yield from _leave(life, manager, ended, verdict)
    return verdict


def _enter(life: Life, managers: list[Any]) -> Generator[Call, Returned | Raised, Raised | None]:
    for hook in life.hooks_at("middleware"):
        try:
            manager = _make_manager(hook, life.event())
        except Exception as error:  # noqa: BLE001 - the middleware's own
            return Raised(error)
        entered = yield Call(getattr(manager, "__aenter__", None) or manager.__enter__)
        if isinstance(entered, Raised):
            return entered
        managers.append(manager)
    return None


def _make_manager(hook: Hook, event: Event) -> Any:
    function: Any = hook.function
    if inspect.isgeneratorfunction(function):
        function = contextmanager(function)
    elif inspect.isasyncgenfunction(function):
        function = asynccontextmanager(function)
    manager: Any = function(*hook.arguments(event))
    if not hasattr(manager, "__enter__") and not hasattr(manager, "__aenter__"):
        if inspect.iscoroutine(manager):
            manager.close()
        raise ConfigurationError(
            f"the middleware {hook.function.__qualname__} gave {type(manager).__name__}: it has to yield once, or to return a "
            "context manager"
        )
    return manager


def _begin(life: Life) -> Generator[Call, Returned | Raised, Raised | None]:
    """Plan: the hooks before the code. What one of them raises fails the attempt."""
    for hook in life.hooks_at("init"):
        given = yield Call(hook.function, hook.arguments(life.event()))
        if isinstance(given, Raised):
            return given
        if given.value is not None:
            life.context.state.init = given.value
    moments: list[Moment] = []
    if not life.resumed:
        moments = ["on_start", "on_start_attempt"] if life.context.attempt == 1 else ["on_start_attempt"]
    for moment in moments:
        for hook in life.hooks_at(moment):
            given = yield Call(hook.function, hook.arguments(life.event()), guarded=True)
            if isinstance(given, Raised):
                return given
    return None


def _conclude(life: Life, ended: Returned | Raised) -> Flow:
    """Plan: what comes after the code, or after a middleware that failed."""
    match life.context.state.reason:
        case "canceled":
            yield from _tell(life, "on_cancel", life.event(), shielded=True)
            return None
        case "timeout":
            error = MaxDurationError(f"the run took longer than {life.limit:g} s", seconds=life.limit)
            yield from _tell(life, "on_failure", life.event(error=error), shielded=True)
            yield from _tell(life, "on_complete", life.event(error=error, ok=False), shielded=True)
            return None
        case "dropped" | "put down":
            return None
        case _:
            pass
    if isinstance(ended, Raised):
        return (yield from _fail(life, ended.error, describe_exception(ended.error)))
    output = encode_output(life.task, ended.value)
    if isinstance(output, Failure):
        return (yield from _fail(life, TypeError(str(output.error.get("message"))), output))
    yield from _tell(life, "on_success", life.event(output=ended.value))
    yield from _tell(life, "on_complete", life.event(output=ended.value, ok=True))
    return output


def _fail(life: Life, error: BaseException, failure: Failure) -> Flow:
    """Plan: what follows a failed attempt, as ``catch_error`` leaves it; the hooks of failure where nothing follows."""
    retry = life.task.retry
    decided = decide_failure(life.context, retry, failure)
    for hook in life.hooks_at("catch_error"):
        event = life.event(error=error, retry_in=decided.retry_after)
        caught = yield Call(hook.function, hook.arguments(event), guarded=True)
        if isinstance(caught, Raised):
            error = caught.error
            decided = decide_failure(life.context, retry, describe_exception(error))
        elif isinstance(caught.value, Decision):
            error = caught.value.error or error
            decided = change_failure(life.context, retry, decided, caught.value)
        elif caught.value is not None:
            error = TypeError(f"catch_error returned {caught.value!r}: it has to be a hooks.Decision, or None")
            decided = decide_failure(life.context, retry, describe_exception(error))
    if life.context.state.reason is not None:  # it was stopped in the meantime: somebody else has said how it ended
        return None
    if decided.retry_after is None:
        yield from _tell(life, "on_failure", life.event(error=error))
        yield from _tell(life, "on_complete", life.event(error=error, ok=False))
    return decided


def _tell(life: Life, moment: Moment, event: Event, *, shielded: bool = False) -> Generator[Call, Any, None]:
    """Plan: hooks that change nothing any more. What they raise is logged."""
    for hook in life.hooks_at(moment):
        told = yield Call(hook.function, hook.arguments(event), guarded=True, shielded=shielded)
        if isinstance(told, Raised):
            _log_error(moment, hook.function, told.error)


def _leave(life: Life, manager: Any, ended: Returned | Raised, verdict: Packet | Failure | None) -> Flow:
    """Plan: the end of a middleware. It fails what had succeeded; what has failed already stays as it is."""
    error = ended.error if isinstance(ended, Raised) else None
    leave: Any = getattr(manager, "__aexit__", None) or manager.__exit__
    arguments = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
    left = yield Call(leave, arguments, shielded=True)
    if isinstance(left, Raised) and left.error is not error:
        if isinstance(verdict, Packet):
            return (yield from _conclude(life, left))
        _log_error("middleware", manager, left.error)
    return verdict


def _log_error(moment: str, function: Any, error: BaseException) -> None:
    name = getattr(function, "__qualname__", type(function).__name__)
    _log.error("a hook failed; it changes nothing", hook=moment, function=name, exc_info=error)


async def live_async(flow: Flow) -> Packet | Failure | None:
    """Makes the calls on the running loop."""
    given: Returned | Raised | None = None
    while True:
        try:
            call = flow.send(cast("Any", given))
        except StopIteration as stop:
            return stop.value
        given = await _call_async(call)
        me = asyncio.current_task()
        while isinstance(given, Raised) and me is not None and me.cancelling():
            me.uncancel()  # it has ended the code; what cleans up after it may have timeouts and task groups of its own


async def _call_async(call: Call) -> Returned | Raised:
    try:
        with _guard(call):
            value = call.function(*call.arguments)
            return Returned(await value if inspect.isawaitable(value) else value)
    except BaseException as error:  # noqa: BLE001 - whatever it raises is for the flow to judge
        return Raised(error)


class BlockingCaller:
    """Makes calls in this thread; awaitables are run on a loop of the run's own. ``interruptible`` is held around a call that a stop may break into."""

    def __init__(self, interruptible: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._interruptible = interruptible
        self._runner: asyncio.Runner | None = None

    def live(self, flow: Flow) -> Packet | Failure | None:
        """Makes the calls of ``flow``."""
        given: Returned | Raised | None = None
        while True:
            try:
                call = flow.send(cast("Any", given))
            except StopIteration as stop:
                return stop.value
            given = self.call(call)

    def call(self, call: Call) -> Returned | Raised:
        """Makes one call."""
        try:
            with _guard(call), nullcontext() if call.shielded else self._interruptible():
                value = call.function(*call.arguments)
                return Returned(self._run(value) if inspect.isawaitable(value) else value)
        except BaseException as error:  # noqa: BLE001 - as above
            return Raised(error)

    def close(self) -> None:
        """Closes the loop, where there was need of one."""
        if self._runner is not None:
            self._runner.close()

    def _run(self, value: Any) -> Any:
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_await(value), context=contextvars.copy_context())


async def _await(value: Any) -> Any:
    return await value


def _guard(call: Call) -> AbstractContextManager[Any]:
    return inside_hook() if call.guarded else nullcontext()


class WaitHooks:
    """What is called around durable waits of a run: ``on_wait`` before, ``on_resume`` after."""

    def __init__(self, life: Life, caller: BlockingCaller | None = None) -> None:
        self._life = life
        self._caller = caller

    @staticmethod
    def find(life: Life, caller: BlockingCaller | None = None) -> WaitHooks | None:
        """None where there is nothing to be called."""
        needed = any(True for moment in ("on_wait", "on_resume") for _ in life.hooks_at(moment))
        return WaitHooks(life, caller) if needed else None

    async def call(self, moment: Moment, op: ops.Op) -> None:
        """Calls the hooks. Raises what one of them raises."""
        for call in self._list_calls(moment, op):
            _raise(await _call_async(call))

    def call_blocking(self, moment: Moment, op: ops.Op) -> None:
        """The same, in the thread of a ``def``."""
        assert self._caller is not None, "a def has one"
        for call in self._list_calls(moment, op):
            _raise(self._caller.call(call))

    def _list_calls(self, moment: Moment, op: Any) -> Iterator[Call]:
        kind = ops.kind_of_wait(op)
        event = self._life.event(wait=WaitInfo(kind, op.name) if kind else None)
        for hook in self._life.hooks_at(moment):
            yield Call(hook.function, hook.arguments(event), guarded=True)


def _raise(given: Returned | Raised) -> None:
    if isinstance(given, Raised):
        raise given.error
