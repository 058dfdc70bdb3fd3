"""Public tokens are made here: JWTs (HS256) for a browser, signed with the secret of one environment.

The server reads them (``headrace.api.tokens``); a worker makes them too, for tokens that its runs make.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import jwt

from headrace.engine.environments import Environment

# PyJWT's types name those of a library that is not there unless keys are asymmetric.
_encode = cast("Callable[..., str]", jwt.encode)  # pyright: ignore[reportUnknownMemberType]


def mint_public_token(
    environment: Environment, scopes: Sequence[str], lifetime: int, *, issued_at: int | None = None
) -> str:
    """A public token for ``scopes``, good for ``lifetime`` seconds from now, or from ``issued_at`` (Unix time)."""
    now = int(time.time()) if issued_at is None else issued_at
    claims = {**public_subject(environment), "scopes": list(scopes), "iat": now, "exp": now + lifetime}
    return _encode(claims, environment.signing_secret, algorithm="HS256")


def public_subject(environment: Environment) -> dict[str, Any]:
    """What every public token of an environment says of whom it is for."""
    return {"sub": str(environment.id), "pub": True}
