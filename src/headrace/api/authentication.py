"""From the ``Authorization`` header to the caller: ``Bearer <secret key>`` or ``Bearer <public token>``."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from headrace.api import tokens
from headrace.api.callers import Caller
from headrace.api.errors import AnsweredError, answer_error, answer_json
from headrace.engine import environments, keys
from headrace.engine.engine import Engine


def require_authorization(request: Request) -> None:
    """Raises AnsweredError (401, problem+json) where there is no ``Authorization`` header at all."""
    if not request.headers.get("authorization"):
        raise AnsweredError(_answer_unauthenticated())


async def authenticate(engine: Engine, request: Request) -> Caller:
    """Who sent ``request``. Raises AnsweredError (401) where the header names no key or token that is good."""
    require_authorization(request)
    scheme, _, credential = request.headers["authorization"].strip().partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential:
        raise AnsweredError(answer_error(401, "Invalid or Missing API key"))
    if tokens.looks_like_token(credential):
        return await _read_public_token(engine, credential)
    environment = await keys.find_key_environment(engine, credential)
    if environment is None:
        raise AnsweredError(answer_error(401, "Invalid API key"))
    return Caller(environment)


async def _read_public_token(engine: Engine, token: str) -> Caller:
    subject = tokens.read_subject(token)
    if subject is not None:
        known = await environments.list_environments(engine)
        environment = next((one for one in known if str(one.id) == subject), None)
        scopes = tokens.check_token(environment, token) if environment else None
        if environment is not None and scopes is not None:
            return Caller(environment, scopes)
    raise AnsweredError(answer_error(401, "Public Access Token is invalid"))


def _answer_unauthenticated() -> Response:
    detail = "No authorization header provided"
    body = {"title": "Unauthorized", "status": 401, "type": "about:blank", "detail": detail, "error": detail}
    response = answer_json(401, body, {"www-authenticate": "Bearer"})
    response.headers["content-type"] = "application/problem+json"
    return response
