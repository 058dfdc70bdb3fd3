"""Tokens: what a run waits for until somebody outside says that it is done, or its time is over.

A token ends once: by the first completion, or by the sweep. Whoever ends it wakes, in the same transaction, the runs that
wait for it. A wait is written by ``lock_token``, then a pending point of the journal: whoever ends the token either comes
before, and is seen, or after, and sees the point. Both lock the token before they lock a run.
"""

from __future__ import annotations

import contextlib
import operator
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from headrace.durations import Duration
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, read_environment
from headrace.engine.foreign_keys import reserve_keys
from headrace.engine.forwards import ask_owner
from headrace.engine.idempotency import (
    REQUEST_SCOPE,
    KeyClaim,
    KeyMovedError,
    claim_keys,
    fingerprint_request,
    hash_key,
)
from headrace.engine.outcomes import JSON_TYPE, KeyConflict, Packet
from headrace.engine.token_outcomes import (
    TokenCompleted,
    TokenCreated,
    TokenElsewhere,
    TokenExists,
    TokenFilter,
    TokenMissing,
    TokenPage,
    TokenRefused,
    TokensExpired,
    TokenView,
)
from headrace.engine.waits import complete_targets
from headrace.protocol.tokens import CreateToken, TokenStatus, read_key, read_key_ttl, read_tags, read_timeout
from headrace.settings import Settings
from headrace.store.merged import Chosen, merge_chosen
from headrace.store.router import Gathered
from headrace.store.statements import Plan, Record, query

TOKEN_SCOPE: Final = "token"  # noqa: S105 - the scope of tokens' idempotency keys
SWEEP_CHUNK: Final = 1_000

CreateAnswer = TokenCreated | TokenExists | TokenRefused | KeyConflict

_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class _Order:
    """What one token is to be. ``ends`` is a date, or seconds from now; None is never."""

    ends: float | datetime | None
    tags: list[str]
    key: str | None
    key_ttl: float | None

    @classmethod
    def read(
        cls,
        timeout: Duration | datetime | None,
        tags: Iterable[str] | str | None,
        key: str | None,
        key_ttl: Duration | None,
    ) -> _Order:
        """Checks what was asked for. Raises ValueError saying what is allowed."""
        return cls(read_timeout(timeout), read_tags(tags), read_key(key), read_key_ttl(key_ttl))


async def create_token(
    engine: Engine, environment_id: int, token_id: UUID, request: CreateToken, *, request_id: str | None = None
) -> CreateAnswer:
    """Makes one token with a newly minted id; or finds the one that its key, or this same request before, made."""
    engine = engine.at(token_id)
    try:
        order = _Order.read(request.timeout, request.tags, request.idempotency_key, request.idempotency_key_ttl)
    except ValueError as error:
        return TokenRefused(422, str(error))
    settings = engine.settings
    claims = claim_token(token_id, order.key, order.key_ttl, settings)
    if request_id is not None:
        claims.append(_claim_request(token_id, request, request_id, settings))
    while True:
        await reserve_keys(engine, environment_id, claims)
        plan = _make_token(environment_id, settings, token_id, order, None)
        if request_id is not None:
            plan = _make_once(environment_id, _claim_request(token_id, request, request_id, settings), plan)
        with contextlib.suppress(KeyMovedError):
            return await _find_elsewhere(engine, environment_id, await engine.store.run_plan(plan))


def claim_token(token_id: UUID, key: str | None, key_ttl: Duration | None, settings: Settings) -> list[KeyClaim]:
    """What a token claims: its idempotency key, where it has one. Raises ValueError saying what is allowed."""
    key, ttl = read_key(key), read_key_ttl(key_ttl)
    return [KeyClaim(TOKEN_SCOPE, key, token_id, settings.idempotency_key_ttl if ttl is None else ttl)] if key else []


def make_token(
    environment_id: int,
    settings: Settings,
    *,
    token_id: UUID,
    timeout: Duration | datetime | None = None,
    tags: Iterable[str] | str | None = None,
    idempotency_key: str | None = None,
    idempotency_key_ttl: Duration | None = None,
    run_id: UUID | None = None,
) -> Plan[TokenCreated | TokenExists | TokenElsewhere | TokenRefused]:
    """Plan: one token, unless its idempotency key stands for one already. TokenRefused where what is asked for can't be.

    ``token_id`` is the caller's: run again with the same one, the plan does nothing and finds what it made. ``timeout`` is
    a duration from now or a date, also as text; None waits for ever. ``run_id`` is the run that makes it.
    """
    try:
        order = _Order.read(timeout, tags, idempotency_key, idempotency_key_ttl)
    except ValueError as error:
        return TokenRefused(422, str(error))
    return (yield from _make_token(environment_id, settings, token_id, order, run_id))


def lock_token(environment_id: int, token_id: UUID) -> Plan[TokenView | None]:
    """Plan: the token as it stands, kept so until the transaction ends; None where this environment has none with that id.

    Where it still waits, the caller writes its pending point now. It locks no run before this.
    """
    rows = yield from query("lock_token", environment_id, token_id)
    return _read_token(rows[0]) if rows else None


async def complete_token(
    engine: Engine, environment_id: int, token_id: UUID, output: Packet
) -> TokenCompleted | TokenMissing:
    """Ends a token with an output in JSON, and wakes who waits for it. One that has ended stays as it is."""
    return await ask_owner(engine, token_id, lambda owner: _complete_there(owner, environment_id, token_id, output))


async def _complete_there(
    engine: Engine, environment_id: int, token_id: UUID, output: Packet
) -> TokenCompleted | TokenMissing:
    answer = await engine.store.run_plan(end_token(environment_id, token_id, output))
    if isinstance(answer, TokenCompleted) and answer.won:
        engine.notices.runs_ready(environment_id)
        engine.notices.runs_done(environment_id)
    return answer


def end_token(environment_id: int, token_id: UUID, output: Packet) -> Plan[TokenCompleted | TokenMissing]:
    """Plan: ``complete_token``, for a transaction of the caller's, who tells of it after the commit."""
    output_type = None if output.type == JSON_TYPE else output.type
    rows = yield from query("complete_token", environment_id, token_id, output.data, output_type)
    if rows:
        yield from complete_targets(environment_id, [token_id])
        return TokenCompleted(_read_token(rows[0]), won=True)
    found = yield from _find_token(environment_id, token_id)
    return TokenCompleted(found, won=False) if found else TokenMissing()


def expire_tokens(limit: int = SWEEP_CHUNK) -> Plan[TokensExpired]:
    """Plan: ends a chunk of the tokens whose time is over, in all environments, and wakes who waits for them.

    To be asked again while ``count`` is ``limit``. A token that is being completed at this moment is left out.
    """
    rows = yield from query("expire_tokens", limit)
    expired: defaultdict[int, list[UUID]] = defaultdict(list)
    for row in rows:
        expired[row["environment_id"]].append(row["id"])
    for environment_id in sorted(expired):
        yield from complete_targets(environment_id, sorted(expired[environment_id]))
    return TokensExpired(len(rows), expired.keys())


async def find_token(engine: Engine, environment_id: int, token_id: UUID) -> TokenView | None:
    """The token as it stands, or None where this environment has none with that id."""
    rows = await ask_owner(
        engine, token_id, lambda owner: owner.store.fetch("find_token", environment_id, token_id), operator.not_
    )
    return _read_token(rows[0]) if rows else None


async def find_token_environment(engine: Engine, token_id: UUID) -> Environment | None:
    """The environment that a token belongs to: for whoever comes with its id and a signature only."""
    rows = await ask_owner(
        engine, token_id, lambda owner: owner.store.fetch("find_token_environment", token_id), operator.not_
    )
    return read_environment(rows[0]) if rows else None


async def list_tokens(
    engine: Engine,
    environment_id: int,
    wanted: TokenFilter,
    *,
    after: UUID | None = None,
    before: UUID | None = None,
    limit: int = 25,
) -> TokenPage:
    """A page of tokens, newest first: those older than ``after``, or those newer than ``before`` (not both)."""
    low, high = (before or _FIRST_ID), (after or _LAST_ID)
    if wanted.token_id is not None:
        low = max(low, UUID(int=max(wanted.token_id.int - 1, 0)))
        high = min(high, UUID(int=min(wanted.token_id.int + 1, _LAST_ID.int)))
    arguments = [
        environment_id,
        low,
        high,
        None if wanted.statuses is None else sorted(wanted.statuses),
        wanted.tags,
        wanted.idempotency_key,
        wanted.created_from,
        wanted.created_to,
        limit + 1,
    ]

    async def ask(one: Engine) -> Chosen[Record]:
        rows = await one.store.fetch("list_tokens:back" if before else "list_tokens", *arguments)
        return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None

    if wanted.token_id is not None:
        asked = Gathered([await ask_owner(engine, wanted.token_id, ask, lambda chosen: not chosen[0])], [])
    else:
        asked = await engine.stores.gather(ask)
    rows, last = merge_chosen(asked.answers, limit, lambda row: row["id"], newest_first=not before)
    tokens, more = [_read_token(row) for row in rows], last is not None
    if before:
        return TokenPage(tokens[::-1], has_older=True, has_newer=more, missing=asked.missing)
    return TokenPage(tokens, has_older=more, has_newer=after is not None, missing=asked.missing)


def _make_token(
    environment_id: int, settings: Settings, token_id: UUID, order: _Order, run_id: UUID | None
) -> Plan[TokenCreated | TokenExists | TokenElsewhere]:
    key_ttl = None
    if order.key is not None:
        if made := (yield from _find_token(environment_id, token_id)):
            return TokenCreated(made)  # before the key is asked: it may stand for another one by now
        [claim] = claim_token(token_id, order.key, order.key_ttl, settings)
        key_ttl = claim.ttl
        [holder] = yield from claim_keys(environment_id, [claim])
        if holder.target_id != token_id:
            return (yield from _find_holder(environment_id, holder.target_id, cached=True))
    timeout, timeout_at = (None, order.ends) if isinstance(order.ends, datetime) else (order.ends, None)
    rows = yield from query(
        "insert_token", environment_id, token_id, run_id, order.tags, order.key, key_ttl, timeout, timeout_at
    )
    return TokenCreated(_read_token(rows[0]) if rows else (yield from _get_token(environment_id, token_id)))


def _claim_request(token_id: UUID, request: CreateToken, request_id: str, settings: Settings) -> KeyClaim:
    fingerprint = fingerprint_request([TOKEN_SCOPE, "create", request])
    return KeyClaim(REQUEST_SCOPE, request_id, token_id, settings.request_key_ttl, fingerprint)


def _make_once(
    environment_id: int, claim: KeyClaim, plan: Plan[TokenCreated | TokenExists | TokenElsewhere]
) -> Plan[TokenCreated | TokenExists | TokenElsewhere | KeyConflict]:
    """Plan: ``plan``, unless this same request was served before."""
    [holder] = yield from claim_keys(environment_id, [claim])
    if holder.target_id != claim.target_id:
        if holder.fingerprint != claim.fingerprint:
            return KeyConflict("This request id was used before, for another request. Use a new one for each request.")
        return (yield from _find_holder(environment_id, holder.target_id, cached=False))
    answer = yield from plan
    if not isinstance(answer, TokenCreated):
        there = answer.token.id if isinstance(answer, TokenExists) else answer.token_id
        yield from query("retarget_key", environment_id, REQUEST_SCOPE, hash_key(claim.key), there)
    return answer


def _find_holder(environment_id: int, token_id: UUID, *, cached: bool) -> Plan[TokenExists | TokenElsewhere]:
    """Plan: the token that a key stands for."""
    token = yield from _find_token(environment_id, token_id)
    return TokenExists(token, cached) if token else TokenElsewhere(token_id, cached)


async def _find_elsewhere(engine: Engine, environment_id: int, answer: CreateAnswer | TokenElsewhere) -> CreateAnswer:
    """``answer``, with the token itself where a key stands for one of another store."""
    if not isinstance(answer, TokenElsewhere):
        return answer
    found = await find_token(engine, environment_id, answer.token_id)
    assert found is not None, "reserve_keys has looked"
    return TokenExists(found, answer.cached)


def _find_token(environment_id: int, token_id: UUID) -> Plan[TokenView | None]:
    rows = yield from query("find_token", environment_id, token_id)
    return _read_token(rows[0]) if rows else None


def _get_token(environment_id: int, token_id: UUID) -> Plan[TokenView]:
    """Plan: a token that is there: this plan was run before."""
    [row] = yield from query("find_token", environment_id, token_id)
    return _read_token(row)


def _read_token(row: Record) -> TokenView:
    values: dict[str, Any] = dict(row)
    status = TokenStatus(values.pop("status"))
    output = None
    if "output" in values:  # a list leaves it out
        kept = Packet(values.pop("output"), values.pop("output_type") or JSON_TYPE)
        output = kept if status is TokenStatus.COMPLETED else None
    return TokenView(**values, status=status, output=output)
