"""Waiting for a time, or for somebody: ``from headrace import wait``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from headrace.durable.ops import AwaitToken, MakeToken, TokenOutcome, Value, WaitTime
from headrace.durable.pending import Pending, Steps
from headrace.durable.port import current_port
from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError, WaitTimeout
from headrace.items import spell_duration
from headrace.protocol.packets import decode_packet
from headrace.token_values import Token

_OUTSIDE = "In a program of your own, use asyncio.sleep or a client."


def for_(duration: Duration, *, key: str = "") -> Pending[None]:
    """Waits for so long: ``await wait.for_("1h")``, ``await wait.for_(2.5)`` (seconds), or a timedelta.

    A run that waits for longer than a short while holds neither a worker's slot nor memory. ``key`` names the point in
    the journal where an edit of the function could mix it up with another wait. Raises ConfigurationError for what is no
    duration, NotInRunError outside of a run.
    """
    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise ConfigurationError(f"wait.for_({duration!r}): {error}") from None
    port = current_port("wait.for_()", _OUTSIDE)
    return Pending(port, _wait_time(WaitTime(port.names.take("wait", key or "for"), seconds=seconds)), "wait.for_()")


def until(moment: datetime, *, key: str = "") -> Pending[None]:
    """Waits until ``moment``: an aware datetime, or a naive one of local time. One that is over is no wait."""
    port = current_port("wait.until()", _OUTSIDE)
    name = port.names.take("wait", key or "until")
    return Pending(port, _wait_time(WaitTime(name, until=moment.astimezone(UTC))), "wait.until()")


def create_token(
    *,
    timeout: Duration | datetime | None = None,
    tags: Sequence[str] | str = (),
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
    key: str = "",
) -> Pending[Token]:
    """Makes a token that somebody else completes: a person, another system.

    Give its ``id`` to who holds an API key, its ``public_token`` to a browser, or its ``url`` to a system that can POST and
    nothing more. ``timeout`` is when it ends by itself (default: never). With an ``idempotency_key`` the token that was made
    with it before is given, for ``idempotency_key_ttl``.
    """
    port = current_port("wait.create_token()", "Use Client.create_token().")
    deadline = timeout.astimezone(UTC).isoformat() if isinstance(timeout, datetime) else _spell(timeout, "timeout")
    op = MakeToken(
        port.names.take("create-token", key or idempotency_key or ""),
        deadline,
        [tags] if isinstance(tags, str) else list(tags),
        idempotency_key,
        _spell(idempotency_key_ttl, "idempotency_key_ttl"),
    )
    return Pending(port, _make_token(op), "wait.create_token()")


def for_token(token: Token | str, *, key: str = "") -> Pending[Any]:
    """Waits for a token to be completed, and gives what it was completed with.

    Raises WaitTimeout where its time is over first. A token may be waited for before or after it is completed, and by
    several runs.
    """
    port = current_port("wait.for_token()", "Use Client.retrieve_token().")
    token_id = token.id if isinstance(token, Token) else token
    name = port.names.take("token", key or token_id)
    return Pending(port, _await_token(AwaitToken(name, token_id)), "wait.for_token()")


def _wait_time(op: WaitTime) -> Steps[None]:
    yield op


def _make_token(op: MakeToken) -> Steps[Token]:
    value: Value = yield op
    return msgspec.json.decode(value.data or b"", type=Token)


def _await_token(op: AwaitToken) -> Steps[Any]:
    outcome: TokenOutcome = yield op
    if outcome.status == "TIMED_OUT":
        raise WaitTimeout(f"nobody completed token {op.token_id} in time")
    return None if outcome.value.data is None else decode_packet(outcome.value.data, outcome.value.type)


def _spell(duration: Duration | None, what: str) -> str | None:
    if duration is None:
        return None
    try:
        return spell_duration(duration)
    except ValueError as error:
        raise ConfigurationError(f"{what} is {duration!r}: {error}") from None
