"""Public tokens: short-lived JWTs that a browser may hold, signed with the secret of one environment.

x-trigger-jwt: <HS256 of {"sub": "<environment id>", "pub": true, "scopes": ["read:batch:batch_..."], "exp": ...}>
x-trigger-jwt-claims: {"sub": "<environment id>", "pub": true}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import jwt
import msgspec

from headrace.engine.environments import Environment
from headrace.engine.public_tokens import mint_public_token, public_subject

LIFETIME: Final = 3600
"""Seconds for which a token that this server mints is good."""

_ALGORITHMS: Final = ["HS256"]

# PyJWT's types name those of a library that is not there unless keys are asymmetric.
_decode = cast("Callable[..., dict[str, Any]]", jwt.decode)  # pyright: ignore[reportUnknownMemberType]


def mint_token(environment: Environment, scopes: Sequence[str]) -> str:
    """A public token for ``scopes``, good for an hour."""
    return mint_public_token(environment, scopes, LIFETIME)


def token_headers(environment: Environment, scopes: Sequence[str]) -> dict[str, str]:
    """The two response headers that hand a caller its public token."""
    return wrap_token(environment, mint_token(environment, scopes))


def wrap_token(environment: Environment, token: str) -> dict[str, str]:
    """The two response headers for a public token that is made already."""
    return {
        "x-trigger-jwt": token,
        "x-trigger-jwt-claims": msgspec.json.encode(public_subject(environment)).decode(),
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
