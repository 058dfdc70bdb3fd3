"""What completes one token and does nothing else: the signature in its callback URL, and its public token.

Both follow from the token's id and the signing secret of its environment, so neither is stored. The text that is signed
for a callback begins with a prefix that no JWT begins with: the one is never good as the other.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from uuid import UUID

from headrace.engine.environments import Environment
from headrace.engine.public_tokens import mint_public_token
from headrace.ids import format_token_id
from headrace.token_values import Token

LIFETIME: Final = 86_400
"""Seconds for which the public token of a token is good."""

_PREFIX: Final = b"headrace token callback: "


def describe_token(
    environment: Environment, token_id: UUID, api_url: str, *, is_cached: bool = False, issued_at: int | None = None
) -> Token:
    """What a program is told of a token that it made. ``api_url`` is where the world finds the server.

    The same each time for the same ``issued_at``: that is how a replay is told the same without any of it being stored.
    """
    public = mint_public_token(environment, [completion_scope(token_id)], LIFETIME, issued_at=issued_at)
    return Token(format_token_id(token_id), callback_url(environment, token_id, api_url), public, is_cached)


def completion_scope(token_id: UUID) -> str:
    """The scope that allows to complete one token."""
    return f"write:waitpoints:{format_token_id(token_id)}"


def callback_url(environment: Environment, token_id: UUID, api_url: str) -> str:
    """Where a POST completes a token without a key."""
    signature = sign_callback(environment, token_id)
    return f"{api_url.rstrip('/')}/api/v1/waitpoints/tokens/{format_token_id(token_id)}/callback/{signature}"


def sign_callback(environment: Environment, token_id: UUID) -> str:
    """The signature that a callback URL ends with: 64 hexadecimal digits."""
    text = _PREFIX + format_token_id(token_id).encode("ascii")
    return hmac.new(environment.signing_secret, text, hashlib.sha256).hexdigest()


def check_callback(environment: Environment, token_id: UUID, signature: str) -> bool:
    """Whether ``signature`` is the token's own. Takes as long whatever it is."""
    expected = sign_callback(environment, token_id).encode("ascii")
    return hmac.compare_digest(expected, signature.encode("utf-8", "surrogatepass"))
