"""Public tokens: short-lived JWTs that a browser may hold, signed with the secret of one environment.

x-trigger-jwt: <HS256 of {"sub": "<environment id>", "pub": true, "scopes": ["read:batch:batch_..."], "exp": ...}>
x-trigger-jwt-claims: {"sub": "<environment id>", "pub": true}
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import jwt
import msgspec

from headrace.engine.environments import Environment

LIFETIME: Final = 3600
"""Seconds for which a token that this server mints is good."""

_ALGORITHMS: Final = ["HS256"]

# PyJWT's types name those of a library that is not there unless keys are asymmetric.
_encode = cast("Callable[..., str]", jwt.encode)  # pyright: ignore[reportUnknownMemberType]
_decode = cast("Callable[..., dict[str, Any]]", jwt.decode)  # pyright: ignore[reportUnknownMemberType]


def mint_token(environment: Environment, scopes: Sequence[str]) -> str:
    """A public token for ``scopes``, good for an hour."""
    now = int(time.time())
    claims = {**_subject(environment), "scopes": list(scopes), "iat": now, "exp": now + LIFETIME}
    return _encode(claims, environment.signing_secret, algorithm="HS256")


def token_headers(environment: Environment, scopes: Sequence[str]) -> dict[str, str]:
    """The two response headers that hand a caller its public token."""
    return {
        "x-trigger-jwt": mint_token(environment, scopes),
        "x-trigger-jwt-claims": msgspec.json.encode(_subject(environment)).decode(),
    }


def looks_like_token(credential: str) -> bool:
    """Whether a credential has the shape of a JWT; no API key holds a dot."""
    return credential.count(".") == 2


def read_subject(token: str) -> str | None:
    """The environment id that a token *claims*: only good for finding the secret that then checks the token."""
    try:
        claims = _decode(token, options={"verify_signature": False}, algorithms=_ALGORITHMS)
    except jwt.InvalidTokenError:
        return None
    subject = claims.get("sub")
    return subject if isinstance(subject, str) else None


def check_token(environment: Environment, token: str) -> frozenset[str] | None:
    """The scopes of a token that this environment signed, that is public and still good; None of any other."""
    try:
        claims = _decode(token, environment.signing_secret, algorithms=_ALGORITHMS, options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        return None
    scopes: Any = claims.get("scopes", [])
    if claims.get("pub") is not True or claims.get("sub") != str(environment.id) or not isinstance(scopes, list):
        return None
    return frozenset(scope for scope in cast("list[Any]", scopes) if isinstance(scope, str))


def _subject(environment: Environment) -> dict[str, Any]:
    return {"sub": str(environment.id), "pub": True}
