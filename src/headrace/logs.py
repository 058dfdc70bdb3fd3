"""Logs of the server and the worker: structured, to stderr, for people (console) or machines (json).

``set_up_logs(settings)`` once a process. headrace's own lines come from ``get_logger`` and are records of the standard
library's logging in any case: in a process that has its own ways with logs they go those, and nothing is ever printed
to stdout, as structlog does where nobody has set it up. What a task logs, through structlog or the standard library's
logging, carries the run that it belongs to, because ``add_context`` says how to find it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from headrace.settings import Settings

Context = Callable[[], Mapping[str, Any]]
"""Gives the fields that a line of log carries where it is written."""

_contexts: Final[list[Context]] = []


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a part of headrace, such as ``headrace.worker``: ``log.info("event", field=value)``."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, *_SHARED, _hand_over],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def set_up_logs(settings: Settings) -> None:
    """Sends structlog and the standard library's logging to stderr, as the settings say (format, level)."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*_SHARED, _hand_over],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def add_context(context: Context) -> None:
    """From now on every line carries the fields that ``context()`` gives where it is written; a line's own go first."""
    if context not in _contexts:
        _contexts.append(context)


@contextmanager
def of_store(name: str) -> Generator[None]:
    """Lines that are logged within it, and by the tasks that are begun there, carry ``store=name`` unless they say another."""
    with structlog.contextvars.bound_contextvars(store=name):
        yield


def _add_contexts(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for context in _contexts:
        for name, value in context().items():
            event.setdefault(name, value)
    return event


def _hand_over(logger: Any, method: str, event: EventDict) -> tuple[tuple[EventDict], dict[str, Any]]:
    """The arguments for the standard library's logger: an error goes along for handlers that aren't structlog's."""
    args, kwargs = structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, event)
    return args, {**kwargs, "exc_info": event.get("exc_info")}


_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    _add_contexts,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
]


def _renderers(settings: Settings) -> list[Processor]:
    if settings.log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
