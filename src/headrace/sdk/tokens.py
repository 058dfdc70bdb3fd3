"""Tokens, from outside of a run: made, handed on, completed, looked at. The calls of both clients over one body."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import msgspec

from headrace.durations import Duration
from headrace.errors import ConfigurationError
from headrace.protocol.tokens import read_key, read_key_ttl, read_tags, read_timeout
from headrace.sdk.effects import Flow, Send
from headrace.sdk.flows import RawJson, make_headers, make_query, quote, retrieve
from headrace.sdk.inputs import Filter
from headrace.sdk.retries import read_object, send_patiently
from headrace.token_values import Token
from headrace.values import encode_json

T = TypeVar("T")

_PATH = "/api/v1/waitpoints/tokens"


class TokenCalls:
    """What Client does with tokens."""

    def create_token(
        self: _Blocking,
        *,
        timeout: Duration | datetime | None = None,
        tags: Iterable[str] | str = (),
        idempotency_key: str | None = None,
        idempotency_key_ttl: Duration | None = None,
    ) -> Token:
        """Makes a token, for runs to wait for (``wait.for_token``) until somebody completes it or its time is over.

        ``timeout`` is a duration ("7d", seconds) or a date; without one it waits for ever. ``tags``: at most 10, to find it
        by. ``idempotency_key`` makes a second call give the first one's token while it holds (default 30 days).

        >>> with Client() as client:                            # doctest: +SKIP
        ...     token = client.create_token(timeout="7d", tags=["approval"])
        ...     send_mail(f"To approve, POST to {token.url}")

        Raises ConfigurationError on what can't be, ApiError and ConnectionFailedError where the server does not take it.
        """
        return self.run_flow(create_token(timeout, tags, idempotency_key, idempotency_key_ttl))

    def complete_token(self: _Blocking, token: Token | str, output: Any = None) -> None:
        """Completes a token (or the token with an id): whoever waits for it goes on, with ``output`` as JSON.

        The first completion counts. One that comes later, or after the timeout, is no error and changes nothing. Raises
        PayloadError where ``output`` is no JSON value, ApiError 404 where there is no such token.
        """
        self.run_flow(complete_token(token, output))

    def retrieve_token(self: _Blocking, token: Token | str) -> dict[str, Any]:
        """``GET /api/v1/waitpoints/tokens/{id}``, with ``output`` as the value that it is.

        ``status`` is WAITING, COMPLETED or TIMED_OUT; of the last, ``output`` is the error. Raises ApiError 404.
        """
        return self.run_flow(retrieve_token(token))

    def list_tokens(
        self: _Blocking,
        *,
        limit: int = 25,
        after: str | None = None,
        before: str | None = None,
        status: Filter = None,
        tag: Filter = None,
        idempotency_key: str | None = None,
        period: str | None = None,
    ) -> dict[str, Any]:
        """A page of tokens, newest first: ``data``, and ``pagination`` with the cursors for ``after`` and ``before``.

        A filter is one value, or several: in a list, or with commas between. ``period`` ("24h") asks for those made within
        that time. ``limit`` is 1 to 100.
        """
        return self.run_flow(list_tokens(limit, after, before, status, tag, idempotency_key, period))


class AsyncTokenCalls:
    """What AsyncClient does with tokens."""

    async def create_token(
        self: _Awaiting,
        *,
        timeout: Duration | datetime | None = None,
        tags: Iterable[str] | str = (),
        idempotency_key: str | None = None,
        idempotency_key_ttl: Duration | None = None,
    ) -> Token:
        """See Client.create_token."""
        return await self.run_flow(create_token(timeout, tags, idempotency_key, idempotency_key_ttl))

    async def complete_token(self: _Awaiting, token: Token | str, output: Any = None) -> None:
        """See Client.complete_token."""
        await self.run_flow(complete_token(token, output))

    async def retrieve_token(self: _Awaiting, token: Token | str) -> dict[str, Any]:
        """See Client.retrieve_token."""
        return await self.run_flow(retrieve_token(token))

    async def list_tokens(
        self: _Awaiting,
        *,
        limit: int = 25,
        after: str | None = None,
        before: str | None = None,
        status: Filter = None,
        tag: Filter = None,
        idempotency_key: str | None = None,
        period: str | None = None,
    ) -> dict[str, Any]:
        """See Client.list_tokens."""
        return await self.run_flow(list_tokens(limit, after, before, status, tag, idempotency_key, period))


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def create_token(
    timeout: Duration | datetime | None, tags: Iterable[str] | str, key: str | None, key_ttl: Duration | None
) -> Flow[Token]:
    """Flow: a new token, or the one that its key stands for."""
    try:
        kept, ends, ttl = read_tags(tags), read_timeout(timeout), read_key_ttl(key_ttl)
        body: dict[str, Any] = {"tags": kept} if kept else {}
        if key := read_key(key):
            body["idempotencyKey"] = key
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"create_token: {error}") from None
    if ends is not None:
        body["timeout"] = ends.astimezone(UTC).isoformat() if isinstance(ends, datetime) else _spell_seconds(ends)
    if ttl is not None:
        body["idempotencyKeyTTL"] = _spell_seconds(ttl)
    answer = yield from send_patiently(Send("POST", _PATH, json=body, headers=make_headers()))
    made = read_object(answer, "id", "url", "publicAccessToken", "isCached")
    return Token(made["id"], made["url"], made["publicAccessToken"], made["isCached"])


def complete_token(token: Token | str, output: Any) -> Flow[None]:
    """Flow: completes a token. Safe to repeat: the first completion counts."""
    body = {"data": RawJson(encode_json(output))}
    request = Send("POST", f"{_PATH}/{quote(_token_id(token))}/complete", json=body, headers=make_headers())
    read_object((yield from send_patiently(request)), "success")


def retrieve_token(token: Token | str) -> Flow[dict[str, Any]]:
    """Flow: a token as it stands, its output as a value."""
    found = yield from retrieve(f"{_PATH}/{quote(_token_id(token))}")
    if "output" in found:
        found["output"] = msgspec.json.decode(found["output"])
    return found


def list_tokens(
    limit: int,
    after: str | None,
    before: str | None,
    status: Filter,
    tag: Filter,
    idempotency_key: str | None,
    period: str | None,
) -> Flow[dict[str, Any]]:
    """Flow: a page of tokens."""
    query = {
        "page[size]": limit,
        "page[after]": after,
        "page[before]": before,
        "filter[status]": _join(status),
        "filter[tags]": _join(tag),
        "filter[idempotencyKey]": idempotency_key,
        "filter[createdAt][period]": period,
    }
    answer = yield from send_patiently(Send("GET", _PATH + make_query(query)))
    return read_object(answer, "data", "pagination")


def _token_id(token: Token | str) -> str:
    return token if isinstance(token, str) else token.id


def _spell_seconds(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _join(values: Filter) -> str | None:
    return values if values is None or isinstance(values, str) else ",".join(values)
