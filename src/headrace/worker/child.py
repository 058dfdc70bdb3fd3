"""The child process of ``isolation="process"``: executes one run at a time, and dies alone if it has to.

Started as ``python -P -m headrace.worker.child FD`` with one end of a socket pair. It reads ``Setup`` once and then an
``Order`` a run, and answers each with ``Started`` and ``Done``. When the other end closes, its worker is gone and so is
it, in mid-run too. A run that is canceled, or out of time, is told by ``Stop``, which becomes a SIGTERM here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace import errors, logs, telemetry
from headrace.durable import ops
from headrace.durable.port import Around, Names, PutDown, entered_port
from headrace.engine.outcomes import Packet
from headrace.errors import HeadraceError
from headrace.hooks import Place
from headrace.settings import Settings
from headrace.tasks import RunContext, RunState, StopReason, entered_run
from headrace.worker.calls import decode_arguments, log_context
from headrace.worker.lifecycle import BlockingCaller, Flow, Life, WaitHooks, live, live_async
from headrace.worker.loading import Source, load_places, load_source
from headrace.worker.retries import Failure, describe_exception

LENGTH_BYTES: Final = 4


class Setup(msgspec.Struct, frozen=True, tag=True):
    """How this process is to be like its parent."""

    path: list[str]
    log_format: str
    log_level: str
    hooks: list[Place] = []


class Order(msgspec.Struct, frozen=True, tag=True):
    """A run to execute."""

    source: Source
    payload: bytes | None
    payload_type: str
    context: RunContext
    traceparent: str | None
    resumed: bool = False
    limit: float = 0.0


class Stop(msgspec.Struct, frozen=True, tag=True):
    """The run's code is to end: it may clean up, and then answers."""

    reason: StopReason


class Started(msgspec.Struct, frozen=True, tag=True):
    """The order was taken: from here on a death is the run's."""


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The modules are there: from here on the CPU is the run's."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """How it ended: an output, a failure, or neither where it was stopped."""

    output: Packet | None = None
    failure: Failure | None = None


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Something durable that the run's code asks for."""

    number: int
    op: ops.Op


class Tell(msgspec.Struct, frozen=True, tag=True):
    """What it is told: a value as msgpack; or an exception, by the name of its class, its text and its attributes."""

    number: int
    data: bytes | None = None
    error: str | None = None
    message: str = ""
    attributes: dict[str, Any] = {}


Message = Setup | Order | Stop | Started | Loaded | Done | Ask | Tell

_TOLD: Final[dict[type, Any]] = {
    ops.TriggerRun: ops.RunOutcome | ops.Triggered,
    ops.OpenBatch: ops.BatchOpened,
    ops.AwaitBatch: ops.BatchOutcome,
    ops.FollowBatch: ops.BatchOutcome,
    ops.ReadOutcomes: list[ops.RunOutcome],
    ops.KeepPage: ops.Value,
    ops.RecallPage: bool,
    ops.RecallWait: str,
    ops.MakeToken: ops.Value,
    ops.AwaitToken: ops.TokenOutcome,
    ops.BeginStep: ops.StepState,
    ops.EndStep: ops.StepState,
    ops.ReadMetadata: dict[str, Any],
    ops.AddTags: ops.Value,
}


def _leave_out(value: object) -> None:
    if not isinstance(value, RunState):  # of a run's context: each process has one of its own
        raise NotImplementedError(f"a {type(value).__name__} does not go to another process")


_encode: Final = msgspec.msgpack.Encoder(enc_hook=_leave_out).encode
decode_message: Final = msgspec.msgpack.Decoder(Message).decode


def frame_message(message: Message) -> bytes:
    """A message as it goes through the socket: its length in four bytes, then msgpack."""
    body = _encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def describe_told(number: int, told: asyncio.Future[Any]) -> Tell:
    """What a future of the worker's became, as it goes to the child."""
    if told.cancelled():
        return Tell(number, error=PutDown.__name__)
    if (error := told.exception()) is not None:
        attributes = vars(error) if isinstance(error, HeadraceError) else {}
        return Tell(number, error=type(error).__name__, message=str(error), attributes=attributes)
    return Tell(number, _encode(told.result()))


class _PipePort:
    """The port of the run that this process executes: through the socket to its worker."""

    def __init__(self, connection: socket.socket, state: RunState) -> None:
        self.around: Around | None = None
        self.state = state
        self._names = Names()
        self._connection = connection
        self._lock = threading.Lock()
        self._count = 0
        self._asked: dict[int, tuple[ops.Op, Future[Any]]] = {}

    @property
    def names(self) -> Names:
        """See ``Port``."""
        return self._names

    async def perform(self, op: ops.Op) -> Any:
        """See ``Port``."""
        try:
            return await asyncio.wrap_future(self._ask(op))
        except PutDown:
            raise asyncio.CancelledError from None

    def perform_blocking(self, op: ops.Op) -> Any:
        """See ``Port``."""
        return self._ask(op).result()

    def send(self, message: Message) -> None:
        """Sends: one message at a time, as the socket is shared by the threads of the run."""
        with self._lock:
            self._connection.sendall(frame_message(message))

    def take(self, tell: Tell) -> None:
        """An answer of the worker's. Called in the thread that reads."""
        with self._lock:
            op, told = self._asked.pop(tell.number)
        if tell.error == PutDown.__name__:
            self.state.stop("put down")
            told.set_exception(PutDown())
        elif tell.error is not None:
            told.set_exception(_make_error(tell.error, tell.message, tell.attributes))
        else:
            told.set_result(msgspec.msgpack.decode(tell.data or b"", type=_TOLD.get(type(op), Any)))

    def _ask(self, op: ops.Op) -> Future[Any]:
        told: Future[Any] = Future()
        with self._lock:  # one message at a time: the socket is shared by the threads of the run
            self._count += 1
            self._asked[self._count] = (op, told)
            self._connection.sendall(frame_message(Ask(self._count, op)))
        return told


def _make_error(name: str, message: str, attributes: dict[str, Any]) -> Exception:
    kind = getattr(errors, name, HeadraceError)
    try:
        return kind(message, **attributes)
    except TypeError:  # one that is made otherwise: nobody may wait for an answer for ever
        return HeadraceError(f"{name}: {message}")


def main(descriptor: int) -> None:
    """Serves orders until the worker closes its end."""
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    _offer_to_oom_killer()
    orders: queue.SimpleQueue[Message] = queue.SimpleQueue()
    places: list[Place] = []
    ports: list[_PipePort] = []
    stopper = Stopper()
    signal.signal(signal.SIGTERM, stopper.handle)
    threading.Thread(target=_read_messages, args=(connection, orders, ports, stopper), daemon=True).start()
    while True:
        match orders.get():
            case Setup() as setup:
                sys.path[:] = setup.path
                logs.set_up_logs(Settings(log_format=setup.log_format, log_level=setup.log_level))
                logs.add_context(log_context)
                places = setup.hooks
            case Order() as order:
                ports[:] = [_PipePort(connection, stopper.begin())]
                connection.sendall(frame_message(Started()))
                done = _execute_order(order, ports[0], stopper, places)
                connection.sendall(frame_message(done))
            case _:
                raise ValueError("a worker sends setups and orders")


class Stopper:
    """Breaks into the code of a run that is to end: once, and never into what cleans up after it."""

    def __init__(self) -> None:
        self._state = RunState()
        self._reason: StopReason | None = None
        self._cancel: Callable[[], object] | None = None
        self._interruptible = False
        self._interrupted = False

    def begin(self) -> RunState:
        """The state of a run that begins."""
        self._state = RunState()
        if self._reason is not None:
            self._state.stop(self._reason)
        return self._state

    def note(self, reason: StopReason) -> None:
        """The worker says so. In the thread that reads: the signal is then handled in the main one."""
        self._reason = reason
        self._state.stop(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    def handle(self, _number: int, _frame: object) -> None:
        """Takes SIGTERM. One that the worker did not announce ends the process, as it would without this."""
        if self._reason is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._cancel is not None and not self._interrupted:
            self._interrupted = True
            self._cancel()
        elif self._interruptible:
            self._interrupt()

    @contextlib.contextmanager
    def interruptible(self) -> Generator[None]:
        """Inside the block a stop raises CancelledError, here as in an ``async def``."""
        try:
            self._interruptible = not self._interrupted
            if self._interruptible and self._reason is not None:
                self._interrupt()
            yield
        finally:
            self._interruptible = False

    async def run(self, flow: Flow) -> Packet | Failure | None:
        """The attempt of an ``async def``, whose asyncio task a stop cancels."""
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None
        self._cancel = lambda: loop.call_soon_threadsafe(me.cancel)
        if self._reason is not None:
            self._interrupted = True
            me.cancel()
        try:
            return await live_async(flow)
        finally:
            self._cancel = None

    def _interrupt(self) -> None:
        self._interrupted, self._interruptible = True, False
        raise asyncio.CancelledError(f"the run is to end: {self._reason}")


def _execute_order(order: Order, port: _PipePort, stopper: Stopper, places: Sequence[Place]) -> Done:
    caller = BlockingCaller(stopper.interruptible)
    try:
        task = load_source(order.source)
        load_places(places)
        context = replace(order.context, state=port.state)
        arguments = decode_arguments(task, order.payload, order.payload_type, context)
        if isinstance(arguments, Failure):
            return Done(failure=arguments)
        life = Life(task, task.fn, context, arguments, order.resumed, order.limit)
        port.around = WaitHooks.find(life, caller)
        port.send(Loaded())
        with entered_run(context), entered_port(port), _span_of(order):
            verdict = asyncio.run(stopper.run(live(life))) if task.is_async else caller.live(live(life))
        return Done(failure=verdict) if isinstance(verdict, Failure) else Done(verdict)
    except BaseException as error:  # noqa: BLE001 - SystemExit and the like fail the run, as everywhere
        return Done(failure=describe_exception(error))
    finally:
        caller.close()


def _span_of(order: Order) -> contextlib.AbstractContextManager[Any]:
    return telemetry.start_span(f"{order.context.task} execute", traceparent=order.traceparent)


def _read_messages(
    connection: socket.socket, orders: queue.SimpleQueue[Message], ports: list[_PipePort], stopper: Stopper
) -> None:
    stream = connection.makefile("rb")
    while True:
        try:
            head = stream.read(LENGTH_BYTES)
            body = stream.read(int.from_bytes(head, "big")) if len(head) == LENGTH_BYTES else b""
        except OSError:  # a worker that dies before it has read all that it was sent resets the connection
            body = b""
        if not body:
            os._exit(0)  # the worker is gone: whatever runs here is nobody's any more
        message = decode_message(body)
        if isinstance(message, Tell):
            ports[0].take(message)
        elif isinstance(message, Stop):
            stopper.note(message.reason)
        else:
            orders.put(message)


def _offer_to_oom_killer() -> None:
    # when memory runs out this process goes before the worker and PostgreSQL do
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


if __name__ == "__main__":
    main(int(sys.argv[1]))
