"""Tokens that runs wait for: created, completed, retrieved, listed; and completed by a callback URL that needs no key."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from headrace import ids
from headrace.api import filters, limits, offload
from headrace.api.batches import REQUEST_ID_HEADER, answer_conflict
from headrace.api.bodies import read_body, refuse_nul
from headrace.api.callers import Caller
from headrace.api.errors import AnsweredError, answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.api.tokens import wrap_token
from headrace.api.views import format_time
from headrace.engine import token_credentials, tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import KeyConflict, Packet
from headrace.engine.token_outcomes import (
    TokenCompleted,
    TokenCreated,
    TokenExists,
    TokenFilter,
    TokenMissing,
    TokenRefused,
    TokenView,
)
from headrace.payloads import STORED_TYPE
from headrace.protocol.packets import JSON
from headrace.protocol.runs import Pagination
from headrace.protocol.tokens import (
    TIMEOUT_CODE,
    CompleteToken,
    CreateToken,
    CreateTokenResponse,
    TokenDetail,
    TokenDone,
    TokenList,
    TokenListItem,
    TokenStatus,
)
from headrace.settings import Settings

_check_json: Final = msgspec.json.Decoder(Raw).decode
_UNSET_URL: Final = Settings().api_url


async def create_token(call: Call) -> Response:
    """A token; or the one that its idempotency key, or this same request before, made."""
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    request = await read_body(call, CreateToken)
    refuse_nul(await call.request.body())
    forbid_unless(call.caller.may("write", ("waitpoints", None)))
    outcome = await tokens.create_token(
        call.engine, call.environment_id, ids.mint_token_id(), request, request_id=request_id
    )
    match outcome:
        case TokenCreated(token):
            return _answer_created(call, token, is_cached=False)
        case TokenExists(token, cached):
            return _answer_created(call, token, is_cached=cached)
        case KeyConflict(message):
            return answer_conflict(message)
        case TokenRefused(status, message):
            return answer_error(status, message)


async def retrieve_token(call: Call) -> Response:
    """A token with its output, or the error of its timeout."""
    text = call.path_param("token_id")
    forbid_unless(call.caller.may("read", ("waitpoints", text)))
    token_id = ids.parse_token_id(text)
    token = await tokens.find_token(call.engine, call.environment_id, token_id) if token_id else None
    return answer_json(200, await _view_detail(call, token)) if token else answer_missing()


async def list_tokens(call: Call) -> Response:
    """A page of tokens, newest first: ``filter[...]`` chooses, ``page[...]`` leafs."""
    wanted = _read_filter(call)
    size, after, before = filters.read_page(call, ids.parse_token_id, "a token's id")
    forbid_unless(call.caller.may("read", ("waitpoints", None)))
    page = await tokens.list_tokens(call.engine, call.environment_id, wanted, after=after, before=before, limit=size)
    answer = TokenList(
        data=[TokenListItem(**_list_fields(call, token)) for token in page.tokens],
        pagination=Pagination(
            next=ids.format_token_id(page.tokens[-1].id) if page.tokens and page.has_older else UNSET,
            previous=ids.format_token_id(page.tokens[0].id) if page.tokens and page.has_newer else UNSET,
        ),
        warnings=filters.warn_missing(page.missing, "tokens"),
    )
    return answer_json(200, answer)


async def complete_token(call: Call) -> Response:
    """Ends a token with the JSON value in the body. One that has ended stays as it is, and the answer is the same."""
    request = await read_body(call, CompleteToken)
    forbid_unless(call.caller.may("write", ("waitpoints", call.path_param("token_id"))))
    return await _complete(call, None if isinstance(request.data, UnsetType) else bytes(request.data))


async def receive_callback(call: Call) -> Response:
    """Ends a token with the body: JSON where it says so, else text. Who calls was checked by ``identify_callback``."""
    return await _complete(call, _read_output(await _read_body(call), call.request.headers.get("content-type", "")))


async def identify_callback(engine: Engine, request: Request) -> Caller:
    """Whoever holds a token's callback URL may complete that token. Raises AnsweredError (404) for any other URL."""
    text, signature = str(request.path_params["token_id"]), str(request.path_params["hash"])
    token_id = ids.parse_token_id(text)
    environment = await tokens.find_token_environment(engine, token_id) if token_id else None
    if (
        environment is None
        or token_id is None
        or not token_credentials.check_callback(environment, token_id, signature)
    ):
        raise AnsweredError(answer_missing())
    return Caller(environment, frozenset({token_credentials.completion_scope(token_id)}))


async def _complete(call: Call, data: bytes | None) -> Response:
    token_id = ids.parse_token_id(call.path_param("token_id"))
    if token_id is None:
        return answer_missing()
    packet = await offload.offload_if_large(call.engine, call.caller.environment, Packet(data))
    outcome = await tokens.complete_token(call.engine, call.environment_id, token_id, packet)
    if not (isinstance(outcome, TokenCompleted) and outcome.won):
        await offload.delete_objects(call.engine, [packet])
    match outcome:
        case TokenCompleted():
            return answer_json(200, TokenDone())
        case TokenMissing():
            return answer_missing()


async def _read_body(call: Call) -> bytes:
    """The body, which may come without a length. Raises AnsweredError (413) as soon as it is too long."""
    body = bytearray()
    async for chunk in call.request.stream():
        body += chunk
        if len(body) > call.settings.body_max_size:
            raise AnsweredError(answer_error(413, "Request body too large"))
    return bytes(body)


def _read_output(body: bytes, content_type: str) -> bytes | None:
    """The output that a callback's body is, as JSON. Without a content type, what can be JSON is. Raises AnsweredError (400)."""
    media_type = content_type.partition(";")[0].strip().lower()
    is_json = media_type == JSON or media_type.endswith("+json")
    try:
        text = body.decode("utf-8")
        if not text.strip():
            return None
        if is_json or not media_type:
            try:
                _check_json(body)
            except (msgspec.DecodeError, RecursionError):
                if is_json:
                    raise
            else:
                return body
        return msgspec.json.encode(text)
    except UnicodeDecodeError:
        raise AnsweredError(answer_error(400, "The body must be JSON, or text in UTF-8")) from None
    except (msgspec.DecodeError, RecursionError):
        raise AnsweredError(answer_error(400, "Invalid JSON")) from None


def _read_filter(call: Call) -> TokenFilter:
    statuses = filters.read_list(call, "filter[status]")
    created_from, created_to = filters.read_created(call)
    return TokenFilter(
        statuses=None if statuses is None else frozenset(_parse_status(one) for one in statuses),
        tags=filters.read_list(call, "filter[tags]"),
        token_id=filters.read_id(call, "filter[id]", ids.parse_token_id, "a token's id"),
        idempotency_key=filters.read_text(call, "filter[idempotencyKey]"),
        created_from=created_from,
        created_to=created_to,
    )


def _parse_status(text: str) -> TokenStatus:
    try:
        return TokenStatus(text)
    except ValueError:
        raise limits.bad_query("filter[status]", f"filter[status] must be of: {', '.join(TokenStatus)}") from None


def _answer_created(call: Call, token: TokenView, *, is_cached: bool) -> Response:
    environment = call.caller.environment
    made = token_credentials.describe_token(environment, token.id, _public_url(call), is_cached=is_cached)
    answer = CreateTokenResponse(id=made.id, is_cached=is_cached, url=made.url, public_access_token=made.public_token)
    return answer_json(200, answer, wrap_token(environment, made.public_token))


async def _view_detail(call: Call, token: TokenView) -> TokenDetail:
    fields = _list_fields(call, token)
    if token.status is TokenStatus.TIMED_OUT and token.timeout_at is not None:
        error = {"code": TIMEOUT_CODE, "message": f"Waitpoint timed out at {format_time(token.timeout_at)}"}
        text = msgspec.json.encode(error).decode("utf-8")
        return TokenDetail(**fields, output=text, output_type=JSON, output_is_error=True)
    if token.output is None:
        return TokenDetail(**fields)
    data = token.output.data
    if token.output.type == STORED_TYPE and data is not None:
        data = await call.engine.payloads.get(call.caller.environment.slug, data.decode())
    if data is None:
        return TokenDetail(**fields, output_is_error=False)
    return TokenDetail(**fields, output=data.decode("utf-8"), output_type=JSON, output_is_error=False)


def _list_fields(call: Call, token: TokenView) -> dict[str, Any]:
    return {
        "id": ids.format_token_id(token.id),
        "url": token_credentials.callback_url(call.caller.environment, token.id, _public_url(call)),
        "status": str(token.status),
        "tags": token.tags,
        "created_at": format_time(token.created_at),
        "completed_at": _time_or_unset(token.completed_at),
        "timeout_at": _time_or_unset(token.timeout_at),
        "idempotency_key": token.idempotency_key or UNSET,
        "idempotency_key_expires_at": _time_or_unset(token.idempotency_key_expires_at),
        "run_id": ids.format_run_id(token.run_id) if token.run_id else UNSET,
    }


def _public_url(call: Call) -> str:
    """Where the world finds this server: as the setting says, or, where nobody set it, as this caller found it."""
    if call.settings.api_url != _UNSET_URL:
        return call.settings.api_url
    try:
        return str(call.request.base_url)
    except ValueError:  # a Host header that is none
        return call.settings.api_url


def _time_or_unset(moment: datetime | None) -> str | UnsetType:
    return format_time(moment) if moment else UNSET
