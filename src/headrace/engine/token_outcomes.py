"""What the engine answers about tokens: values to match on, as in ``outcomes``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from headrace.engine.outcomes import Packet
from headrace.protocol.tokens import TokenStatus


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as it stands. Times are aware, in UTC.

    ``output`` is None while it waits, once it timed out, and in lists; a packet without data is completion without an
    output. Outputs are JSON, in the row or in the payload store. ``run_id`` is the run that made it, if one did.
    """

    id: UUID
    environment_id: int
    status: TokenStatus
    run_id: UUID | None
    tags: list[str]
    idempotency_key: str | None
    idempotency_key_expires_at: datetime | None
    timeout_at: datetime | None
    created_at: datetime
    completed_at: datetime | None
    output: Packet | None = None


@dataclass(frozen=True, slots=True)
class TokenCreated:
    """A new token; or, where the same plan is run again, the one that it made before."""

    token: TokenView


@dataclass(frozen=True, slots=True)
class TokenExists:
    """The token that was there: its idempotency key hit it (``cached``), or this same request made it before.

    It may have ended.
    """

    token: TokenView
    cached: bool


@dataclass(frozen=True, slots=True)
class TokenElsewhere:
    """As TokenExists, of a token that another store has."""

    token_id: UUID
    cached: bool


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """A token that can't be made for what was asked: HTTP ``status`` and a sentence."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class TokenCompleted:
    """The token has ended: by this call where ``won``, else before it, and then what this call brought is not kept."""

    token: TokenView
    won: bool


@dataclass(frozen=True, slots=True)
class TokenMissing:
    """No such token in this environment."""


@dataclass(frozen=True, slots=True)
class TokensExpired:
    """A chunk of tokens whose time was over: how many, and the environments whose runs may be ready."""

    count: int
    environments: Collection[int]


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Which tokens to list; None leaves a column open. ``tags`` asks for any of them. Times are aware."""

    statuses: frozenset[TokenStatus] | None = None
    tags: list[str] | None = None
    token_id: UUID | None = None
    idempotency_key: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class TokenPage:
    """A page of tokens, newest first, and whether more lie behind and before it."""

    tokens: list[TokenView]
    has_older: bool
    has_newer: bool
    missing: Sequence[str] = ()
    """Names of the stores that did not answer: their tokens are not in it."""
