"""Tasks: what ``@task`` makes of a function, how it is retried, and what a run of it can ask about itself.

    @task(queue="images", retry=Retry(max_attempts=5))
    async def resize(image: Image) -> Thumb: ...

A task takes one payload (or none) and optionally, second, a ``RunContext``. It stays callable as the plain function.
Pure: nothing here talks to a server or a database. Clients read a task to write payloads and read results, workers to
read payloads and write results.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import random as random_module
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from types import ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from headrace.crons import Cron, read_declared
from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError, PayloadError
from headrace.hooks import Hookable, HookSet
from headrace.queues import TASK_PREFIX, Queue, check_queue_name
from headrace.values import Codec, codec, encode_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from headrace.durable.children import OutcomeIterator, RunRef
    from headrace.durable.pending import Pending
    from headrace.items import BatchOptions, ChildOptions, Item
    from headrace.outcomes import Outcome

P = TypeVar("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")

Isolation = Literal["process"] | None
"""Where a task runs: None is the worker's event loop (``async def``) or a thread (``def``); or a process of its own."""

DurationClock = Literal["wall", "cpu"]
"""What ``max_duration`` counts: seconds in a worker's memory, or seconds of CPU."""

Order = Literal["strict", "skip_failed"]
"""What a run of an order key that waits for its next try does to those behind it: holds them up, or lets them pass."""

MOST_COALESCED: Final = 1000
"""Runs that one call may take at most."""

JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a run is tried, and how long it waits in between.

    ``max_attempts`` counts the first one. The wait after attempt n is ``min_delay * factor ** (n - 1)`` seconds, with
    ``jitter`` up to twice that, and never more than ``max_delay``. The delays are durations: 1.5, "90s", timedelta.

    >>> Retry(max_attempts=4, jitter=False).delay_after(3)
    4.0
    """

    max_attempts: int = 3
    factor: float = 2.0
    min_delay: Duration = 1.0
    max_delay: Duration = 60.0
    jitter: bool = True

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"Retry(max_attempts={self.max_attempts!r}): it must be 1 or more; 1 tries once")
        if not self.factor >= 1:
            raise ConfigurationError(f"Retry(factor={self.factor!r}): it must be 1 or more; 1 waits the same each time")
        for name in ("min_delay", "max_delay"):
            try:
                object.__setattr__(self, name, parse_duration(getattr(self, name)))
            except ValueError as error:
                raise ConfigurationError(f"Retry({name}=...): {error}") from None

    def delay_after(self, attempt: int, random: Callable[[], float] = random_module.random) -> float:
        """Seconds to wait after the failure of ``attempt`` (1 for the first). ``random`` gives numbers in [0, 1)."""
        ceiling, delay = cast("float", self.max_delay), cast("float", self.min_delay)
        try:
            delay *= self.factor ** (attempt - 1)
        except OverflowError:
            return ceiling
        return min(ceiling, delay * (1 + random()) if self.jitter else delay)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, delays in seconds; ``Retry(**...)`` reads it back."""
        return asdict(self)


StopReason = Literal["canceled", "timeout", "dropped", "put down"]
"""Why a run's code is to end: the last two go on elsewhere, or later."""


class RunState:
    """What changes of a run while it is executed: whether its code is to end, and what its ``init`` hooks gave."""

    __slots__ = ("_stopped", "init", "reason")

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.reason: StopReason | None = None
        self.init: Any = None

    def stop(self, reason: StopReason) -> None:
        """Tells the code to end. What was said first stays, but that nobody holds the run any more."""
        if self.reason is None or reason == "dropped":
            self.reason = reason
        if reason != "put down":
            self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether the code is to end."""
        return self._stopped.is_set()

    def wait(self, timeout: float | None) -> bool:
        """Whether the code is to end within ``timeout`` seconds."""
        return self._stopped.wait(timeout)


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a run can ask about itself. Ids are as on the wire; ``attempt`` is 1 for the first.

    ``failures`` counts the attempts that failed before; those that a dead worker left behind are not among them.
    """

    run_id: str
    task: str
    attempt: int = 1
    max_attempts: int | None = None
    queue: str = ""
    batch_id: str | None = None
    batch_index: int | None = None
    tags: tuple[str, ...] = ()
    metadata: Any = None
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    created_at: datetime | None = None
    traceparent: str | None = None
    parent_run_id: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    version: str = ""
    failures: int = 0
    state: Any = field(default_factory=RunState, repr=False, compare=False)
    """headrace's own: a RunState."""

    @property
    def cancelled(self) -> bool:
        """Whether the run was canceled, is out of time, or not this worker's any more: its code is to end.

        An ``async def`` gets ``asyncio.CancelledError`` and need not ask. A ``def`` in a thread has to, now and then.
        """
        return self.state.stopped

    def wait_cancelled(self, timeout: Duration | None = None) -> bool:
        """Whether the code is to end, by now or within ``timeout``: ``time.sleep`` for a ``def`` that can be canceled."""
        return self.state.wait(None if timeout is None else parse_duration(timeout))

    @property
    def init(self) -> Any:
        """What the ``init`` hook returned: the task's own, else that of all tasks."""
        return self.state.init


_current_run: ContextVar[RunContext | None] = ContextVar("headrace_current_run", default=None)


def current_run() -> RunContext | None:
    """The run whose code is asking, or None outside of any: in a test that calls a task as a plain function, say."""
    return _current_run.get()


def enter_run(context: RunContext) -> None:
    """Make ``context`` the current run for the rest of the current asyncio task, which is the run's own. Workers use it."""
    _current_run.set(context)


@contextlib.contextmanager
def entered_run(context: RunContext) -> Generator[RunContext]:
    """Make ``context`` the current run inside the block, for this thread or asyncio task. Workers use it."""
    token = _current_run.set(context)
    try:
        yield context
    finally:
        _current_run.reset(token)


class _Shape(NamedTuple):
    """What a function's signature says about it as a task."""

    takes_payload: bool
    default: Any  # of the payload, or inspect.Parameter.empty
    wants_context: bool
    payload: Any
    result: Any


class Task(Hookable, Generic[P, R_co]):
    """A function that can run in the background, with payloads of type P and results of type R.

    Made by ``@task``. Attributes: ``id``, ``fn`` (the plain function), ``queue`` (its name), ``limits`` (what was said
    of it: a Queue or None), ``order``, ``retry``, ``isolation``,
    ``max_duration`` and ``cancel_grace`` (seconds or None), ``duration_clock``, ``hooks``, ``cron`` (a Cron or None), ``is_async``; read off its annotations: ``takes_payload``, ``wants_context``,
    ``payload_type``, ``result_type``.
    """

    is_async: bool

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        id: str | None = None,  # noqa: A002 - the word of the wire
        queue: str | Queue | None = None,
        retry: Retry | None = None,
        isolation: Isolation = None,
        max_duration: Duration | None = None,
        duration_clock: DurationClock = "wall",
        cancel_grace: Duration | None = None,
        ttl: Duration | None = None,
        cron: str | Cron | None = None,
        order: Order = "strict",
        coalesce: int | None = None,
    ) -> None:
        self.fn = fn
        self.id = fn.__qualname__.rpartition("<locals>.")[2] if id is None else id
        self.queue, self.limits = _read_queue(self.id, queue)
        self.retry = retry or Retry()
        self.isolation: Isolation = isolation
        self.max_duration = None if max_duration is None else parse_duration(max_duration)
        self.duration_clock: DurationClock = duration_clock
        self.cancel_grace = None if cancel_grace is None else parse_duration(cancel_grace)
        self.hooks = HookSet()
        self.ttl = None if ttl is None else parse_duration(ttl)
        self.cron = read_declared(cron)
        self.is_async = inspect.iscoroutinefunction(fn)
        if not self.id:
            raise ConfigurationError("a task's id can't be empty")
        if order not in ("strict", "skip_failed"):
            raise ConfigurationError(f"task {self.id!r}: order is {order!r}, but must be 'strict' or 'skip_failed'")
        self.order: Order = order
        self.coalesce = coalesce
        if coalesce is not None and not (self.is_async and isolation is None and 1 <= coalesce <= MOST_COALESCED):
            raise ConfigurationError(
                f"task {self.id!r}: coalesce={coalesce!r} needs an `async def` without isolation, and a number of runs from 1 "
                f"to {MOST_COALESCED}"
            )
        if isolation not in (None, "process"):
            raise ConfigurationError(f"task {self.id!r}: isolation is {isolation!r}, but must be None or 'process'")
        if duration_clock not in get_args(DurationClock):
            raise ConfigurationError(
                f"task {self.id!r}: duration_clock is {duration_clock!r}, but must be 'wall' or 'cpu'"
            )
        if duration_clock == "cpu" and self.is_async and isolation is None:
            raise ConfigurationError(
                f"task {self.id!r}: duration_clock='cpu' can't be counted for an `async def` on the event loop, which all runs "
                "share. Make it a def, or give it isolation='process'"
            )
        functools.update_wrapper(self, fn)
        # A signature that can't be a task's is refused where it stands, unless it names what is defined further down.
        with contextlib.suppress(NameError):
            _ = self._shape

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function, here and now: nothing is triggered."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.id!r} on {self.queue!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _import_task, (self.fn.__module__, self.fn.__qualname__)

    @property
    def takes_payload(self) -> bool:
        """False for a task without parameters: its payload is None."""
        return self._shape.takes_payload

    @property
    def wants_context(self) -> bool:
        """Whether the second parameter is a RunContext."""
        return self._shape.wants_context

    @property
    def payload_type(self) -> Any:
        """The annotation of the payload: Any where there is none, NoneType where the task takes no payload."""
        return self._shape.payload

    @property
    def result_type(self) -> Any:
        """The annotation of the result, Any where there is none."""
        return self._shape.result

    @overload
    def trigger(self: Task[None, R], /, **options: Unpack[ChildOptions]) -> Pending[RunRef]: ...
    @overload
    def trigger(self, payload: P, /, **options: Unpack[ChildOptions]) -> Pending[RunRef]: ...
    def trigger(self, payload: Any = None, /, **options: Any) -> Pending[RunRef]:
        """Inside a run: triggers a run of this task that nobody waits for. Made exactly once, whatever is replayed.

        ``ref = await resize.trigger(url)``; in a ``def`` task ``resize.trigger(url).result()``. In a program of your own:
        ``Client.trigger``. Raises NotInRunError there, PayloadError and ConfigurationError for what can't be sent.
        """
        from headrace.durable import children  # noqa: PLC0415 - it knows tasks, and only code that triggers needs it

        return children.trigger(self, payload, options)

    @overload
    def trigger_and_wait(self: Task[None, R], /, **options: Unpack[ChildOptions]) -> Pending[Outcome[R]]: ...
    @overload
    def trigger_and_wait(self, payload: P, /, **options: Unpack[ChildOptions]) -> Pending[Outcome[R_co]]: ...
    def trigger_and_wait(self, payload: Any = None, /, **options: Any) -> Pending[Outcome[Any]]:
        """Inside a run: a child, and how it ended: ``Ok`` with its value or ``Failed``; ``.unwrap()`` gives or raises.

            outcome = await resize.trigger_and_wait(url, max_attempts=1)

        ``inherit_tags`` gives it the tags of this run as well. Where this run is canceled the child is too, unless
        ``on_cancel="leave"``. An ``idempotency_key`` that stands for a run already waits for that one. ``key`` names the
        point in the journal (default: a digest of the payload).
        """
        from headrace.durable import children  # noqa: PLC0415 - as above

        return children.trigger_and_wait(self, payload, options)

    def batch_trigger_and_wait(
        self, items: Iterable[P | Item] | AsyncIterable[P | Item], /, **options: Unpack[BatchOptions]
    ) -> Pending[list[Outcome[R_co]]]:
        """Inside a run: a child for each item, and how each ended, in the order of the items. All outcomes are in memory.

            thumbs = [outcome.unwrap() for outcome in await resize.batch_trigger_and_wait(urls)]

        ``items`` is read lazily, and again from the start where the run is taken up again before all were stored, so it
        has to give the same each time. ``start="seal"`` starts none before all are stored. Other options as for
        ``trigger_and_wait``; they hold for each item.
        """
        from headrace.durable import children  # noqa: PLC0415 - as above

        return children.batch_trigger_and_wait(self, items, {**options})

    def batch_trigger_and_iterate(
        self, items: Iterable[P | Item] | AsyncIterable[P | Item], /, **options: Unpack[BatchOptions]
    ) -> OutcomeIterator[R_co]:
        """Inside a run: a child for each item, and outcomes as they come: ``async for``, or ``for`` in a ``def`` task.

        Never more than a page of outcomes is in memory. A replay gives them in the order in which they came.
        """
        from headrace.durable import children  # noqa: PLC0415 - as above

        return children.batch_trigger_and_iterate(self, items, {**options})

    def arguments(self, payload: P, context: RunContext) -> tuple[Any, ...]:
        """What to call ``fn`` with: ``task.fn(*task.arguments(payload, context))``."""
        shape = self._shape
        given = (payload,) if shape.takes_payload else ()
        return (*given, context) if shape.wants_context else given

    def decode_payload(self, data: bytes | None, type: str = JSON_TYPE) -> P:  # noqa: A002 - as everywhere for media types
        """The payload that stored bytes of a media type stand for; None is no payload: the default or None.

        Raises PayloadError where the annotation does not admit it, ConfigurationError where nobody can read such a type.
        """
        shape = self._shape
        if data is None and (not shape.takes_payload or shape.default is not inspect.Parameter.empty):
            return cast("P", shape.default if shape.takes_payload else None)
        return cast("P", self._decode(self._payload_codec, data, type, "payload"))

    def encode_payload(self, payload: P) -> bytes | None:
        """``payload`` as JSON text, checked against the annotation; None where the task takes no payload.

        Raises PayloadError where it is no JSON value or not what the annotation admits.
        """
        if not self.takes_payload:
            if payload is not None:
                raise PayloadError(f"task {self.id!r} takes no payload, but was given {_excerpt(payload)}")
            return None
        data = encode_json(payload)
        if self.payload_type is not Any:
            self._decode(self._payload_codec, data, JSON_TYPE, "payload")
        return data

    def encode_output(self, output: object) -> tuple[bytes | None, str]:
        """A result as (bytes, media type); None is no bytes. Raises PayloadError where it is no JSON value."""
        return (None if output is None else encode_json(output)), JSON_TYPE

    def decode_output(self, data: bytes | None, type: str = JSON_TYPE) -> R_co:  # noqa: A002
        """The result that stored bytes of a media type stand for. Raises PayloadError."""
        if data is None:
            return cast("R_co", None)
        return cast("R_co", self._decode(self._result_codec, data, type, "result"))

    def _decode(self, reader: Codec[Any], data: bytes | None, media_type: str, what: str) -> object:
        if data is None:
            return self._named(reader.convert, None, what)
        if media_type == JSON_TYPE:
            return self._named(reader.decode_json, data, what)
        from headrace.protocol.packets import decode_packet  # noqa: PLC0415 - other types come from other clients only

        return self._named(reader.convert, decode_packet(data, media_type), what)

    def _named(self, read: Callable[[Any], object], value: object, what: str) -> object:
        try:
            return read(value)
        except PayloadError as error:
            raise PayloadError(f"task {self.id!r}, {what}: {error}") from error.__cause__

    @functools.cached_property
    def _shape(self) -> _Shape:
        shape = _read_shape(self.id, self.fn)
        return shape if self.coalesce is None else _read_element_shape(self.id, shape)

    @functools.cached_property
    def _payload_codec(self) -> Codec[Any]:
        return codec(self.payload_type)

    @functools.cached_property
    def _result_codec(self) -> Codec[Any]:
        return codec(self.result_type)


class SyncTask(Task[P, R_co]):
    """A task made of a ``def``."""

    @overload
    def __call__(self: SyncTask[None, R], /) -> R: ...
    @overload
    def __call__(self, payload: P, context: RunContext = ..., /) -> R_co: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function, here and now: nothing is triggered."""
        return self.fn(*args, **kwargs)


class AsyncTask(Task[P, R_co]):
    """A task made of an ``async def``."""

    @overload
    def __call__(self: AsyncTask[None, R], /) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(self, payload: P, context: RunContext = ..., /) -> Coroutine[Any, Any, R_co]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function, here and now: nothing is triggered."""
        return self.fn(*args, **kwargs)


class TaskDecorator(Protocol):
    """What ``@task(...)`` returns: it turns a function into a task."""

    @overload
    def __call__(
        self, fn: Callable[[P], Coroutine[Any, Any, R]] | Callable[[P, RunContext], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[[], Coroutine[Any, Any, R]], /) -> AsyncTask[None, R]: ...  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, fn: Callable[[P], R] | Callable[[P, RunContext], R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[[], R], /) -> SyncTask[None, R]: ...


class CoalescingDecorator(Protocol):
    """What ``@task(coalesce=...)`` returns: each run has one of the payloads, and one of the results."""

    def __call__(self, fn: Callable[[list[P]], Coroutine[Any, Any, Sequence[R | Exception]]], /) -> AsyncTask[P, R]:
        """Make the function a task."""
        ...


@overload
def task(
    fn: Callable[[P], Coroutine[Any, Any, R]] | Callable[[P, RunContext], Coroutine[Any, Any, R]], /
) -> AsyncTask[P, R]: ...
@overload
def task(fn: Callable[[], Coroutine[Any, Any, R]], /) -> AsyncTask[None, R]: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def task(fn: Callable[[P], R] | Callable[[P, RunContext], R], /) -> SyncTask[P, R]: ...
@overload
def task(fn: Callable[[], R], /) -> SyncTask[None, R]: ...
@overload
def task(
    *,
    id: str | None = None,
    queue: str | Queue | None = None,
    retry: Retry | None = None,
    isolation: Isolation = None,
    max_duration: Duration | None = None,
    duration_clock: DurationClock = "wall",
    cancel_grace: Duration | None = None,
    ttl: Duration | None = None,
    cron: str | Cron | None = None,
    order: Order = "strict",
) -> TaskDecorator: ...
@overload
def task(
    *,
    coalesce: int,
    id: str | None = None,
    queue: str | Queue | None = None,
    retry: Retry | None = None,
    max_duration: Duration | None = None,
    cancel_grace: Duration | None = None,
    ttl: Duration | None = None,
    order: Order = "strict",
) -> CoalescingDecorator: ...
def task(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: ``@task`` or ``@task(queue="images", retry=Retry(max_attempts=5))``.

    id: its name on the wire and in the database; default: the function's qualified name. Keep it when you move code.
    queue: where its runs wait; default: one of its own, ``task/<id>``. A Queue says as well what it may do at once.
    retry: default Retry(), three attempts.
    isolation: "process" runs each attempt in a process of its own.
    max_duration: the longest that one attempt may take ("5m", seconds or timedelta), without the time for which it is put
    down; default: no limit. Over it the run is TIMED_OUT.
    duration_clock: "cpu" makes that seconds of CPU; for a def, or with isolation="process".
    cancel_grace: how long the code may clean up after a cancel; default: the setting HEADRACE_CANCEL_GRACE.
    ttl: how long its runs wait for their start, before they end as EXPIRED, where a trigger that knows the function says nothing.
    cron: when runs of it are made by themselves: "0 2 * * *", or Cron("0 2 * * *", timezone="Europe/Berlin"). Workers
        make it known. The payload is a ScheduledPayload; a task that takes none is given none.

    coalesce: so many runs of one ``order_key`` that are ready, one behind the other, may be given to one call: the function
        takes a list of payloads and returns a list with a result, or an exception, for each. Nothing durable is done in it.
    order: of runs with an ``order_key``, which go one at a time and as they came: "strict" lets one that waits for its next
        try hold up those behind it, "skip_failed" lets them pass.

    Raises ConfigurationError where the signature can't be a task's or another function has the id.
    """
    if fn is not None:
        return _register(fn, {})
    return functools.partial(_register, options=options)


registry: Final[dict[str, Task[Any, Any]]] = {}
"""Every task of this process by id, in order of definition."""


def collect_tasks(module: ModuleType) -> dict[str, Task[Any, Any]]:
    """The tasks that a module holds by name, its own and imported ones, by id.

    Raises ConfigurationError where two of them share an id.
    """
    found: dict[str, Task[Any, Any]] = {}
    for value in vars(module).values():
        if isinstance(value, Task):
            known = cast("Task[Any, Any]", value)
            _refuse_other(found.get(known.id), known)
            found[known.id] = known
    return found


def _register(fn: Callable[..., Any], options: dict[str, Any]) -> Task[Any, Any]:
    if not callable(fn) or isinstance(fn, Task) or not hasattr(fn, "__qualname__"):
        raise ConfigurationError(f"@task goes on a function, not on {fn!r}")
    made = (AsyncTask if inspect.iscoroutinefunction(fn) else SyncTask)[Any, Any](fn, **options)
    _refuse_other(registry.get(made.id), made)
    registry[made.id] = made
    return made


def _refuse_other(known: Task[Any, Any] | None, new: Task[Any, Any]) -> None:
    if known is not None and _place(known.fn) != _place(new.fn):
        raise ConfigurationError(
            f"two functions want the task id {new.id!r}: {' and '.join(':'.join(_place(t.fn)) for t in (known, new))}. "
            "Give one of them another: @task(id=...)"
        )


def _place(fn: Callable[..., Any]) -> tuple[str, str]:
    """Where a function stands. A module that is loaded again, or under a second name, defines the same functions."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return (code.co_filename if code else fn.__module__), fn.__qualname__


def _read_shape(task_id: str, fn: Callable[..., Any]) -> _Shape:
    hints = get_type_hints(fn, include_extras=True)
    parameters = list(inspect.signature(fn).parameters.values())
    empty = inspect.Parameter.empty
    if any(p.kind is p.KEYWORD_ONLY and p.default is empty for p in parameters):
        raise ConfigurationError(
            f"task {task_id!r} has a keyword-only parameter without a default: nothing would fill it"
        )
    takers = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    result = hints.get("return", Any)
    if not takers:
        return _Shape(takes_payload=False, default=empty, wants_context=False, payload=type(None), result=result)
    first, rest = takers[0], takers[1:]
    if hints.get(first.name) is RunContext:
        raise ConfigurationError(
            f"task {task_id!r} takes its context first: the payload comes first. Write "
            f"`def {task_id}(payload: None, {first.name}: RunContext)`, or call current_run() inside"
        )
    wants_context = bool(rest) and hints.get(rest[0].name) is RunContext
    if any(p.default is empty for p in rest[wants_context:]):
        raise ConfigurationError(
            f"task {task_id!r} takes ({', '.join(p.name for p in takers)}), but a task takes one payload and, second, "
            "optionally a parameter annotated RunContext. Put several values into a dataclass or a TypedDict"
        )
    payload = hints.get(first.name, Any)
    return _Shape(
        takes_payload=True, default=first.default, wants_context=wants_context, payload=payload, result=result
    )


def _read_element_shape(task_id: str, shape: _Shape) -> _Shape:
    """What one run of a coalescing task has of the function's lists."""
    if shape.wants_context or not (shape.payload in (Any, list) or get_origin(shape.payload) is list):
        raise ConfigurationError(
            f"task {task_id!r} has coalesce: it takes one parameter, the list of its runs' payloads, such as `docs: list[Doc]`"
        )
    payload: Any = (get_args(shape.payload) or (Any,))[0]
    result: Any = (get_args(shape.result) or (Any,))[0]
    parts: tuple[Any, ...] = get_args(result)
    kept: list[Any] = [one for one in parts if not _is_exception(one)]
    if kept and len(kept) < len(parts):  # of `Result | Exception`
        result = functools.reduce(lambda one, other: one | other, kept)
    return shape._replace(payload=payload, result=result, default=inspect.Parameter.empty)


def _is_exception(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseException)


def _read_queue(task_id: str, queue: str | Queue | None) -> tuple[str, Queue | None]:
    """The name of a task's queue, and what was said of it. Its own is always said of: as having no limit, if nothing was."""
    own = TASK_PREFIX + task_id
    if queue is None or queue == own:
        return own, Queue(own) if _can_be_said_of(own) else None
    if isinstance(queue, Queue):
        return queue.name or own, replace(queue, name=queue.name or own)
    try:
        return check_queue_name(queue), None
    except ValueError as error:
        raise ConfigurationError(f"task {task_id!r}: {error}") from None


def _can_be_said_of(name: str) -> bool:
    try:
        return bool(check_queue_name(name))
    except ValueError:  # of a task with a long id
        return False


def _import_task(module: str, qualname: str) -> Any:
    return functools.reduce(getattr, qualname.split("."), importlib.import_module(module))


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
