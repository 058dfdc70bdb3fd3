"""How a route runs: one table row a route, and the same checks in the same order for all of them.

no credential at all -> content type (streams) -> credential -> content length -> handler
handler: params -> query -> headers -> body -> authorization -> the work
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from headrace.api import limits
from headrace.api.authentication import authenticate, require_authorization
from headrace.api.callers import Caller
from headrace.api.errors import answer_error, answer_exception
from headrace.engine.engine import Engine
from headrace.ids import parse_batch_id, parse_run_id, parse_token_id
from headrace.protocol.openapi import Operation
from headrace.settings import Settings
from headrace.store.store import name_store
from headrace.timeouts import answers_within

EXPOSED_HEADERS: Final = ("x-trigger-jwt", "x-trigger-jwt-claims", "x-should-retry", "retry-after", "x-ratelimit-reset")


_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Call:
    """One request that passed the checks before its handler: what it needs to do its work."""

    engine: Engine
    request: Request
    caller: Caller
    stopping: asyncio.Event

    @property
    def settings(self) -> Settings:
        """The settings of this server."""
        return self.engine.settings

    @property
    def environment_id(self) -> int:
        """The environment that the caller's credential belongs to: the only one whose things exist for it."""
        return self.caller.environment.id

    @property
    def traceparent(self) -> str | None:
        """The trace that the caller is in (W3C Trace Context); None where there is none, or it is malformed."""
        text = self.request.headers.get("traceparent", "")
        return text if _TRACEPARENT.fullmatch(text) else None

    def path_param(self, name: str) -> str:
        """A part of the path, decoded."""
        return str(self.request.path_params[name])


LONGEST_WAIT: Final = 30.0
"""Longest wait of a long poll, in seconds."""

_READS: Final = ("GET", "HEAD")

Handler = Callable[[Call], Awaitable[Response]]
Limit = Callable[[Settings], int]
Identify = Callable[[Engine, Request], Awaitable[Caller]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table of routes: what it is on the wire, what runs, and what is checked before that.

    ``max_body`` gives the longest body in bytes (then a Content-Length is demanded); None takes a stream, or no body.
    ``identify`` finds out who calls, by the ``Authorization`` header unless another way is named.
    """

    operation: Operation
    handle: Handler
    max_body: Limit | None = None
    precheck: Callable[[Request], Response | None] | None = None
    wrong_method: str = "Method not allowed"
    identify: Identify = authenticate


def find_owner(engine: Engine, texts: Iterable[object]) -> Engine:
    """That of the store which owns what a path names; home's, where it names nothing that a store owns."""
    for text in texts:
        for parse in (parse_run_id, parse_batch_id, parse_token_id):
            if (found := parse(str(text))) is not None:
                return engine.at(found)
    return engine.home


def build_routes(engine: Engine, stopping: asyncio.Event, endpoints: Sequence[Endpoint]) -> list[Route]:
    """Starlette's routes of a table: one a path, whatever the number of its methods."""
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.operation.path, []).append(endpoint)
    return [
        Route(path, _PathApp(engine, stopping, rows), middleware=[_cors(rows)], name=path)
        for path, rows in by_path.items()
    ]


def _cors(rows: Sequence[Endpoint]) -> Middleware:
    # Any origin may ask: what protects a route is its credential, which no browser sends by itself.
    return Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=[row.operation.method for row in rows],
        allow_headers=["*"],
        expose_headers=list(EXPOSED_HEADERS),
        max_age=300,
    )


class _PathApp:
    """All methods of one path."""

    def __init__(self, engine: Engine, stopping: asyncio.Event, rows: Sequence[Endpoint]) -> None:
        self._engine = engine
        self._stopping = stopping
        self._rows = {row.operation.method: row for row in rows}
        if "GET" in self._rows:
            self._rows["HEAD"] = self._rows["GET"]
        self._allow = ", ".join(self._rows)
        self._wrong_method = rows[0].wrong_method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        endpoint = self._rows.get(request.method)
        if endpoint is None:
            response = answer_error(405, self._wrong_method, {"allow": self._allow})
        else:
            try:
                response = await self._run(endpoint, request)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the last floor: each gets an answer
                response = answer_exception(error, endpoint.operation.path)
        await response(scope, receive, send)

    async def _run(self, endpoint: Endpoint, request: Request) -> Response:
        if endpoint.operation.needs_key:
            require_authorization(request)
        refusal = endpoint.precheck(request) if endpoint.precheck else None
        if refusal is not None:
            return refusal
        caller = await endpoint.identify(self._engine, request)
        structlog.contextvars.bind_contextvars(environment=caller.environment.slug)
        if endpoint.max_body is not None:
            limits.check_content_length(request, endpoint.max_body(self._engine.settings))
        handling = endpoint.handle(Call(self._engine, request, caller, self._stopping))
        owner = find_owner(self._engine, request.path_params.values())
        if owner is self._engine.home or (endpoint.max_body is None and request.method not in _READS):
            return await handling
        # a store that is silent is answered for: with several, one of them holds up nobody for long
        patience = self._engine.settings.store_patience
        waits = request.method not in _READS or "wait" in request.query_params
        try:
            return await answers_within(handling, patience + LONGEST_WAIT if waits else patience)
        except TimeoutError as error:
            name_store(error, owner.name)
            raise
