"""Hooks: code around the life of runs, for every task or for one. ``from headrace import hooks``.

    @hooks.on_failure                      # of every task of this process
    async def tell(event: hooks.Event) -> None: ...

    @resize.on_start                       # of one task
    def begin(event: hooks.Event) -> None: ...

    @hooks.middleware                      # around everything: up to its yield before, from there on after
    def timed(event: hooks.Event) -> Iterator[None]: ...

A hook takes one ``Event``, or nothing, and may be a ``def`` or an ``async def``. docs/how-to/hooks.md has the order and what an
error in each does. Pure: this is where they are kept; workers call them.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, get_args

from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from headrace.tasks import Retry, RunContext

F = TypeVar("F", bound=Callable[..., Any])

Moment = Literal[
    "middleware",
    "init",
    "on_start",
    "on_start_attempt",
    "on_success",
    "on_failure",
    "on_complete",
    "on_cancel",
    "on_wait",
    "on_resume",
    "catch_error",
]
MOMENTS: Final[tuple[Moment, ...]] = get_args(Moment)


class WaitInfo(NamedTuple):
    """What a run waits for: ``kind`` and the name of the point in its journal."""

    kind: Literal["time", "run", "batch", "token"]
    name: str


@dataclass(frozen=True, slots=True)
class Event:
    """What a hook is told.

    ``run`` and ``payload`` always; ``output`` on success; ``error`` on failure and in ``catch_error``; ``ok`` on completion;
    ``retry_in`` (seconds, or None for no more attempts) in ``catch_error``; ``wait`` in ``on_wait`` and ``on_resume``.
    """

    run: RunContext
    payload: Any = None
    output: Any = None
    error: BaseException | None = None
    ok: bool | None = None
    retry_in: float | None = None
    wait: WaitInfo | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What ``catch_error`` returns to change what follows a failed attempt; what it leaves out stays as it would be.

    One of ``skip_retrying``, ``retry_after`` (a duration), ``retry_at`` (a datetime) and ``retry`` (another policy);
    and ``error``, which is stored in place of the one that was raised.
    """

    skip_retrying: bool = False
    retry_after: Duration | None = None
    retry_at: datetime | None = None
    retry: Retry | None = None
    error: BaseException | None = None

    def __post_init__(self) -> None:
        given = [self.skip_retrying or None, self.retry_after, self.retry_at, self.retry]
        if sum(value is not None for value in given) > 1:
            raise ConfigurationError(
                f"{self!r}: give one of skip_retrying, retry_after, retry_at and retry, or none of them"
            )
        if self.retry_after is not None:
            try:
                object.__setattr__(self, "retry_after", parse_duration(self.retry_after))
            except ValueError as error:
                raise ConfigurationError(f"Decision(retry_after={self.retry_after!r}): {error}") from None


class Hook(NamedTuple):
    """A registered function, and whether it takes the event."""

    function: Callable[..., Any]
    takes_event: bool

    def arguments(self, event: Event) -> tuple[Event, ...]:
        """What to call it with."""
        return (event,) if self.takes_event else ()


class HookSet:
    """Hooks by moment, in the order of their registration."""

    __slots__ = ("_hooks",)

    def __init__(self) -> None:
        self._hooks: dict[Moment, list[Hook]] = {}

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def add(self, moment: Moment, function: Any) -> None:
        """Adds a function. One that its module defines again, as it is loaded once more, takes its own place."""
        hook = _read_hook(moment, function)
        hooks = self._hooks.setdefault(moment, [])
        for index, known in enumerate(hooks):
            if _place(known.function) == _place(function) and "<locals>" not in function.__qualname__:
                hooks[index] = hook
                return
        hooks.append(hook)

    def at(self, moment: Moment) -> tuple[Hook, ...]:
        """Those of a moment."""
        return tuple(self._hooks.get(moment, ()))

    def functions(self) -> list[Callable[..., Any]]:
        """All that were registered."""
        return [hook.function for hooks in self._hooks.values() for hook in hooks]

    def swap(self, other: HookSet) -> None:
        """Exchanges what is in here with ``other``."""
        self._hooks, other._hooks = other._hooks, self._hooks


class Hookable:
    """What hooks can be registered on: a task, and this module for all tasks."""

    hooks: HookSet

    def middleware(self, function: F) -> F:
        """Around an attempt and all of its hooks, each time that a worker takes the run up: a generator that yields once
        (``def`` or ``async def``), or a function that gives a context manager. The run's error is raised at the yield; it
        can't be swallowed there, ``catch_error`` is for that.
        """
        self.hooks.add("middleware", function)
        return function

    def init(self, function: F) -> F:
        """Before the code, each time that a worker takes the run up; what it returns is ``current_run().init``."""
        self.hooks.add("init", function)
        return function

    def on_start(self, function: F) -> F:
        """Before the first attempt of a run, once."""
        self.hooks.add("on_start", function)
        return function

    def on_start_attempt(self, function: F) -> F:
        """Before each attempt, once; not where a run goes on after a wait."""
        self.hooks.add("on_start_attempt", function)
        return function

    def on_success(self, function: F) -> F:
        """After the code has returned, with ``event.output``."""
        self.hooks.add("on_success", function)
        return function

    def on_failure(self, function: F) -> F:
        """After the last attempt has failed, with ``event.error``."""
        self.hooks.add("on_failure", function)
        return function

    def on_complete(self, function: F) -> F:
        """After ``on_success`` or ``on_failure``; ``event.ok`` says which."""
        self.hooks.add("on_complete", function)
        return function

    def on_cancel(self, function: F) -> F:
        """After the code of a run that was canceled while it ran has ended: it may clean up for the run's ``cancel_grace``."""
        self.hooks.add("on_cancel", function)
        return function

    def on_wait(self, function: F) -> F:
        """Before a durable wait (a child, a batch, a time, a token), once each: ``event.wait`` says what for."""
        self.hooks.add("on_wait", function)
        return function

    def on_resume(self, function: F) -> F:
        """After a durable wait, once each; maybe in another process than ``on_wait``."""
        self.hooks.add("on_resume", function)
        return function

    def catch_error(self, function: F) -> F:
        """After an attempt has failed, before it is decided what follows: returns a ``Decision``, or None to leave it.

        An exception that it raises takes the place of the error: ``raise Abort(...)``, ``raise RetryAfter(...)``.
        """
        self.hooks.add("catch_error", function)
        return function


class Place(NamedTuple):
    """A module that registers hooks for all tasks, and its file: enough for another process to import it."""

    module: str
    file: str | None


_everywhere: Final = Hookable()
_everywhere.hooks = HookSet()

registered: Final = _everywhere.hooks
"""The hooks of all tasks of this process."""

middleware = _everywhere.middleware
init = _everywhere.init
on_start = _everywhere.on_start
on_start_attempt = _everywhere.on_start_attempt
on_success = _everywhere.on_success
on_failure = _everywhere.on_failure
on_complete = _everywhere.on_complete
on_cancel = _everywhere.on_cancel
on_wait = _everywhere.on_wait
on_resume = _everywhere.on_resume
catch_error = _everywhere.catch_error


@contextlib.contextmanager
def isolated() -> Generator[HookSet]:
    """Inside the block no hooks of all tasks are registered but those that the block registers: for tests."""
    kept = HookSet()
    registered.swap(kept)
    try:
        yield registered
    finally:
        registered.swap(kept)


def list_places() -> list[Place]:
    """The modules that registered hooks for all tasks. What stands within a function is left out: it can't be imported."""
    places: dict[Place, None] = {}
    for function in registered.functions():
        if "<locals>" not in function.__qualname__:
            file = getattr(sys.modules.get(function.__module__), "__file__", None)
            places[Place(function.__module__, str(Path(file).absolute()) if file else None)] = None
    return list(places)


def _read_hook(moment: Moment, function: Any) -> Hook:
    if not callable(function) or not hasattr(function, "__qualname__"):
        raise ConfigurationError(f"@{moment} goes on a function, not on {function!r}")
    parameters = list(inspect.signature(function).parameters.values())
    empty = inspect.Parameter.empty
    takers = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p for p in parameters if p.default is empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise ConfigurationError(
            f"@{moment} on {function.__qualname__}: a hook takes one hooks.Event, or nothing, and this one takes "
            f"({', '.join(p.name for p in needed)})"
        )
    if moment != "middleware" and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise ConfigurationError(f"@{moment} on {function.__qualname__}: it has a yield, which only a middleware has")
    return Hook(function, bool(takers))


def _place(function: Any) -> tuple[str, str]:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename if code else function.__module__), function.__qualname__
