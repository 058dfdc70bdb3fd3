"""Steps: code that runs once, and whose result is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, get_type_hints, overload

from headrace.durable.ops import BeginStep, EndStep, StepState, Value
from headrace.durable.pending import Call, Pending, Steps
from headrace.durable.port import current_port
from headrace.errors import Abort, ConfigurationError, PayloadError, RetryAfter, StepFailedError
from headrace.failures import describe_error
from headrace.tasks import Retry
from headrace.values import codec, encode_json

T = TypeVar("T")

_ONCE: Final = Retry(max_attempts=1)
_FINAL: Final = (Abort, PayloadError)
"""What is final when a step's function raises it: it raises it again, here and in every replay."""


@overload
def step(
    name: str, function: Callable[..., Awaitable[T]], /, *arguments: Any, retry: Retry | None = None
) -> Pending[T]: ...
@overload
def step(name: str, function: Callable[..., T], /, *arguments: Any, retry: Retry | None = None) -> Pending[T]: ...
def step(name: str, function: Callable[..., Any], /, *arguments: Any, retry: Retry | None = None) -> Pending[Any]:
    """Runs ``function(*arguments)`` once in the life of a run, and keeps its result in the run's journal.

        price = await step("fetch-price", fetch_price, sku, retry=Retry(max_attempts=5))

    When the run is taken up again, after a wait or a crash, the function is not called: its result is read. It is called
    at least once: a worker that dies after the call and before the result is written calls it again. The result has to be
    a JSON value, or what the function's annotation makes of one; what ``await`` gives has gone through JSON, also the first
    time, so that a replay sees the same.

    ``retry`` is the step's own: waits between tries are durable, too. Without it a step is tried once. When it has failed
    for good it raises StepFailedError, with the last exception as its cause where this process saw it; ``Abort`` is
    final. Raises NotInRunError outside of a run, PayloadError for a result that is no JSON value.
    """
    if not callable(function):
        raise ConfigurationError(f"step({name!r}, ...) takes a function and its arguments, and was given {function!r}.")
    port = current_port(f"step({name!r})", "Call the function itself.")
    point = port.names.take("step", name)
    return Pending(port, _run_step(point, name, function, arguments, retry or _ONCE), f"step({name!r})")


def _run_step(
    point: str, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], retry: Retry
) -> Steps[Any]:
    state: StepState = yield BeginStep(point)
    cause: BaseException | None = None
    while not state.is_over:
        failures = state.failures + 1
        try:
            data = encode_json((yield Call(function, arguments)))
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is the step's failure
            cause = error
            final = next((kind.__name__ for kind in _FINAL if isinstance(error, kind)), None)
            delay = None if final or failures >= retry.max_attempts else _delay_after(error, retry, failures)
            told = describe_error(error) | ({"raise": final} if final else {})
            state = yield EndStep(point, error=told, retry_in=delay, failures=failures)
        else:
            state = yield EndStep(point, Value(data), failures=state.failures)
    if state.error is not None:
        told = state.error
        for kind in _FINAL:  # of the journal's word and not of the exception at hand: a replay has only the former
            if told.get("raise") == kind.__name__:
                raise kind(str(told.get("message"))) from cause
        raise StepFailedError(f"step {name!r} failed: {told.get('name')}: {told.get('message')}", error=told) from cause
    return codec(_result_of(function)).decode_json(state.value.data or b"null")


def _delay_after(error: Exception, retry: Retry, failures: int) -> float:
    return error.delay if isinstance(error, RetryAfter) else retry.delay_after(failures)


def _result_of(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function, include_extras=True).get("return", Any)
    except (TypeError, NameError):  # no function of Python's, or an annotation that names what is not there
        return Any
