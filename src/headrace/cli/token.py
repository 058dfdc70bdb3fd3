"""``headrace token``: tokens that runs wait for: list them, make one, complete one, look at one."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import OK, USAGE, CommandError
from headrace.cli.output import (
    format_value,
    out,
    print_fields,
    print_json,
    print_next_page,
    print_table,
    print_warnings,
)
from headrace.errors import ConfigurationError

token_app: Final = App(name="token", help="List, create and complete tokens that runs wait for.")

TokenId = Annotated[str, Parameter(help="Id of the token, waitpoint_...", env_var="HEADRACE_TOKEN_ID")]


@token_app.command(name="list")
def list_(
    *,
    status: Annotated[
        str | None,
        Parameter(help="Of WAITING, COMPLETED and TIMED_OUT, with commas between", env_var="HEADRACE_TOKEN_STATUS"),
    ] = None,
    tag: Annotated[
        str | None, Parameter(help="Tags, with commas between: any of them", env_var="HEADRACE_TOKEN_TAG")
    ] = None,
    key: Annotated[str | None, Parameter(help="An idempotency key", env_var="HEADRACE_TOKEN_KEY")] = None,
    period: Annotated[
        str | None, Parameter(help="Made within this long, such as 24h", env_var="HEADRACE_TOKEN_PERIOD")
    ] = None,
    limit: Annotated[int, Parameter(help="Most tokens to list, 1 to 100", env_var="HEADRACE_TOKEN_LIMIT")] = 25,
    after: Annotated[
        str | None, Parameter(help="The cursor that the page before gave", env_var="HEADRACE_TOKEN_AFTER")
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """List tokens, the newest first."""
    with open_client(api_url, api_key) as client:
        page = client.list_tokens(limit=limit, after=after, status=status, tag=tag, idempotency_key=key, period=period)
    print_warnings(page)
    if json:
        print_json(page)
        return OK
    print_table(
        ["id", "status", "tags", "created", "timeout", "completed"],
        [
            [
                token["id"],
                token["status"],
                ", ".join(token["tags"]),
                token["createdAt"],
                token.get("timeoutAt"),
                token.get("completedAt"),
            ]
            for token in page["data"]
        ],
    )
    print_next_page(page)
    return OK


@token_app.command
def create(
    *,
    timeout: Annotated[
        str | None,
        Parameter(help="A duration such as 7d, or an ISO 8601 date; default: none", env_var="HEADRACE_TOKEN_TIMEOUT"),
    ] = None,
    tags: Annotated[
        str | None, Parameter(help="At most 10 tags, with commas between", env_var="HEADRACE_TOKEN_TAGS")
    ] = None,
    key: Annotated[
        str | None,
        Parameter(help="Idempotency key: while it holds, it gives the same token", env_var="HEADRACE_TOKEN_KEY"),
    ] = None,
    key_ttl: Annotated[
        str | None, Parameter(help="How long the key holds (default 30d)", env_var="HEADRACE_TOKEN_KEY_TTL")
    ] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Make a token. Whoever has its URL can complete it with a POST, without a key."""
    named = [tag.strip() for tag in (tags or "").split(",")]
    with open_client(api_url, api_key) as client:
        try:
            token = client.create_token(timeout=timeout, tags=named, idempotency_key=key, idempotency_key_ttl=key_ttl)
        except ConfigurationError as error:
            raise CommandError(str(error).removeprefix("create_token: "), USAGE) from None
    if json:
        print_json(
            {"id": token.id, "url": token.url, "publicAccessToken": token.public_token, "isCached": token.is_cached}
        )
        return OK
    print_fields({"id": token.id, "url": token.url, "note": "it was there already" if token.is_cached else None})
    return OK


@token_app.command
def complete(
    token_id: TokenId,
    output: Annotated[
        str | None,
        Parameter(
            help="What whoever waits is given, as JSON; - is stdin; default: nothing",
            env_var="HEADRACE_TOKEN_OUTPUT",
            allow_leading_hyphen=True,
        ),
    ] = None,
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Complete a token, and let go on who waits for it. The first completion counts; a later one changes nothing."""
    text = sys.stdin.read() if output == "-" else output
    value = _read_json(text) if text is not None else None
    with open_client(api_url, api_key) as client, told_when_missing(f"token {token_id}"):
        client.complete_token(token_id, value)
        token = client.retrieve_token(token_id)
    if json:
        print_json(token)
    else:
        out.print(f"Token {token_id} is {token['status']}.", markup=False)
    return OK


@token_app.command
def show(
    token_id: TokenId,
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Show a token: its status, its URL, and its output or the error of its timeout."""
    with open_client(api_url, api_key) as client, told_when_missing(f"token {token_id}"):
        token: dict[str, Any] = client.retrieve_token(token_id)
    if json:
        print_json(token)
        return OK
    print_fields(
        {
            "id": token["id"],
            "status": token["status"],
            "tags": ", ".join(token["tags"]) or None,
            "key": token.get("idempotencyKey"),
            "created": token["createdAt"],
            "timeout": token.get("timeoutAt"),
            "completed": token.get("completedAt"),
            "run": token.get("runId"),
            "url": token["url"],
            "error" if token.get("outputIsError") else "output": format_value(token.get("output")),
        }
    )
    return OK


def _read_json(text: str) -> msgspec.Raw:
    """The text as JSON, as it stands: numbers keep their digits."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        return msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CommandError(f"The output is no JSON: {error}. A text is JSON in quotes: '\"yes\"'.", USAGE) from None
