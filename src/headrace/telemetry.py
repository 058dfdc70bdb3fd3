"""OpenTelemetry, where it is installed and set up: the span of a run continues the trace of the trigger that made it.

The thread between the two is the ``traceparent`` of the W3C, stored with the run. Without the package (the extra
``headrace[otel]``) or without a tracer provider everything here does nothing, and costs as much.

    with start_span("resize process", kind="consumer", traceparent=run.traceparent) as span:
        ...
        span.fail("ValueError", "no such image")
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final, Literal, Protocol


def _load_optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:  # the extra is not installed
        return None


_trace: Final = _load_optional("opentelemetry.trace")
_w3c: Final = _load_optional("opentelemetry.trace.propagation.tracecontext")

Kind = Literal["producer", "consumer", "server", "client", "internal"]

_FIELD: Final = "traceparent"


class Span(Protocol):
    """A span that is under way."""

    def set(self, name: str, value: str | int | float | bool) -> None:
        """Sets an attribute."""

    def fail(self, name: str, message: str, stack: str = "") -> None:
        """Marks it as failed by an exception of this name."""


class _NoSpan:
    def set(self, name: str, value: str | int | float | bool) -> None:
        pass

    def fail(self, name: str, message: str, stack: str = "") -> None:
        pass


class _OpenSpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    def set(self, name: str, value: str | int | float | bool) -> None:
        self._span.set_attribute(name, value)

    def fail(self, name: str, message: str, stack: str = "") -> None:
        self._span.add_event(
            "exception", {"exception.type": name, "exception.message": message, "exception.stacktrace": stack}
        )
        self._span.set_status(_trace.Status(_trace.StatusCode.ERROR, f"{name}: {message}"))


_NO_SPAN: Final = _NoSpan()


def is_tracing() -> bool:
    """Whether spans go anywhere: the package is there and a tracer provider is set up."""
    return _trace is not None and not isinstance(_trace.get_tracer_provider(), _trace.ProxyTracerProvider)


def current_traceparent() -> str | None:
    """The traceparent of the span that is under way here, or None: what a trigger stores with its run."""
    carrier: dict[str, str] = {}
    inject_headers(carrier)
    return carrier.get(_FIELD)


def inject_headers(headers: dict[str, str]) -> None:
    """Adds to the headers of a request what tells the receiver which span it belongs to."""
    if _w3c is not None:
        _w3c.TraceContextTextMapPropagator().inject(headers)


@contextmanager
def start_span(
    name: str,
    *,
    kind: Kind = "internal",
    traceparent: str | None = None,
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> Generator[Span]:
    """A span around a block, current within it; a child of ``traceparent``, or else of the span that is under way.

    An exception that leaves the block marks it as failed.
    """
    if not is_tracing():
        yield _NO_SPAN
        return
    context = _w3c.TraceContextTextMapPropagator().extract({_FIELD: traceparent}) if traceparent else None
    tracer = _trace.get_tracer("headrace")
    with tracer.start_as_current_span(
        name, context=context, kind=_trace.SpanKind[kind.upper()], attributes=attributes
    ) as span:
        yield _OpenSpan(span)
