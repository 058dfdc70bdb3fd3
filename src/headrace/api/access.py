"""The access log: one line a request, with nothing in it that is secret (no header, no query, no body, no signature)."""

from __future__ import annotations

import re
import time
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace.logs import get_logger

log = get_logger("headrace.access")

_SIGNATURE: Final = re.compile(r"(?<=/callback/).*", re.DOTALL)
"""What follows there is all that it takes to complete a token."""


class AccessLog:
    """ASGI middleware that logs each request when it has ended, and names its environment in what others log for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        structlog.contextvars.clear_contextvars()
        started = time.perf_counter()
        try:
            await self._app(scope, receive, note_status)
        finally:
            seconds = round(time.perf_counter() - started, 6)
            path = _SIGNATURE.sub("...", scope["path"])
            log.info("request", method=scope["method"], path=path, status=status, seconds=seconds)
