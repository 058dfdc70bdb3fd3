"""Tokens over HTTP: created, completed by key, by public token and by callback URL, retrieved, listed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import jwt
import pytest
from tests.api.support import RawStream, execute, until
from tests.engine.waiters import make_waiter, read_run, run_later
from tests.server_fixture import RunningServer, running_server

from headrace import ids
from headrace.api.access import AccessLog
from headrace.api.tokens import mint_token
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, find_environment
from headrace.engine.token_credentials import sign_callback
from headrace.engine.tokens import expire_tokens
from headrace.settings import Settings

pytestmark = pytest.mark.anyio

TOKENS = "/api/v1/waitpoints/tokens"
NOBODY = "waitpoint_06f3q1c2k8g5m0t7n400000002"
DONE = {"success": True}
JSON = {"content-type": "application/json"}


async def create(client: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    """A new token, as the answer to its creation has it."""
    response = await client.post(TOKENS, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def retrieve(client: httpx2.AsyncClient, token_id: str) -> dict[str, Any]:
    """A token as it stands."""
    response = await client.get(f"{TOKENS}/{token_id}")
    assert response.status_code == 200, response.text
    return response.json()


def error_of(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def bearer(environment: Environment, *scopes: str) -> dict[str, str]:
    return {"authorization": f"Bearer {mint_token(environment, scopes)}"}


# Created


async def test_a_new_token(client: httpx2.AsyncClient, server: RunningServer) -> None:
    response = await client.post(TOKENS, json={"timeout": "1h", "tags": ["a", "b"], "idempotencyKey": "k"})
    assert response.status_code == 200
    made = response.json()
    assert made.keys() == {"id", "isCached", "url", "publicAccessToken"}
    assert ids.parse_token_id(made["id"])
    assert made["isCached"] is False
    assert made["url"].startswith(f"{server.url}{TOKENS}/{made['id']}/callback/")
    assert response.headers["x-trigger-jwt"] == made["publicAccessToken"]
    claims = jwt.decode(made["publicAccessToken"], options={"verify_signature": False})
    assert claims["scopes"] == [f"write:waitpoints:{made['id']}"]
    assert claims["exp"] - claims["iat"] == 86_400
    assert json.loads(response.headers["x-trigger-jwt-claims"]) == {"sub": claims["sub"], "pub": True}

    token = await retrieve(client, made["id"])
    assert {**token, "createdAt": 0, "timeoutAt": 0, "idempotencyKeyExpiresAt": 0} == {
        "id": made["id"],
        "url": made["url"],
        "status": "WAITING",
        "tags": ["a", "b"],
        "createdAt": 0,
        "timeoutAt": 0,
        "idempotencyKey": "k",
        "idempotencyKeyExpiresAt": 0,
    }
    assert token["createdAt"] < token["timeoutAt"] < token["idempotencyKeyExpiresAt"]


async def test_nothing_need_be_said(client: httpx2.AsyncClient) -> None:
    made = await create(client)
    assert (await retrieve(client, made["id"])).keys() == {"id", "url", "status", "tags", "createdAt"}
    assert (await retrieve(client, (await create(client, tags="one"))["id"]))["tags"] == ["one"]


async def test_a_key_gives_the_token_that_is_there(client: httpx2.AsyncClient, engine: Engine) -> None:
    first = await create(client, idempotencyKey="k")
    again = await create(client, idempotencyKey="k", timeout="1h")
    assert (again["id"], again["url"], again["isCached"]) == (first["id"], first["url"], True)
    key = await keys.create_key(engine, "prod", "test")
    other = await client.post(TOKENS, json={"idempotencyKey": "k"}, headers={"authorization": f"Bearer {key.secret}"})
    assert other.json()["isCached"] is False
    assert other.json()["id"] != first["id"]


async def test_a_request_that_is_sent_again_makes_no_second_token(client: httpx2.AsyncClient) -> None:
    headers = {"x-trigger-request-idempotency-key": "r1"}
    first = await client.post(TOKENS, json={"tags": ["a"]}, headers=headers)
    again = await client.post(TOKENS, json={"tags": ["a"]}, headers=headers)
    assert (again.json()["id"], again.json()["isCached"]) == (first.json()["id"], False)
    other = await client.post(TOKENS, json={"tags": ["b"]}, headers=headers)
    assert other.status_code == 409
    assert other.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "Request body is empty"),
        (b"{", 400, "Invalid JSON"),
        (b"null", 400, "Invalid JSON"),
        (b"[]", 400, "Validation error: Expected `object`, got `array`"),
        (b'{"timeout": 90}', 400, 'Validation error: Expected `str | null`, got `int` at "timeout"'),
        (b'{"timeout": "a\\u0000b"}', 400, "Validation error: strings must not hold a NUL character"),
        (
            json.dumps({"idempotencyKey": "x" * 2049}).encode(),
            400,
            'Validation error: idempotencyKey must be 2048 characters or less at "idempotencyKey"',
        ),
        (
            b'{"timeout": "soon"}',
            422,
            "timeout is 'soon': give a duration such as '30s', '1h30m' or '7d', or an ISO 8601 date",
        ),
        (b'{"idempotencyKey": "k", "idempotencyKeyTTL": "x"}', 422, "'x' is no duration"),
        (json.dumps({"tags": ["t"] * 11}).encode(), 422, "a token has at most 10 tags, 11 were given"),
        (json.dumps({"tags": "t" * 129}).encode(), 422, "a tag has at most 128 characters"),
        (b'"' + b"x" * 131_072 + b'"', 413, "Request body too large"),
    ],
)
async def test_what_can_not_be_created(
    client: httpx2.AsyncClient, engine: Engine, body: bytes, status: int, said: str
) -> None:
    response = await client.post(TOKENS, content=body, headers=JSON)
    assert response.status_code == status
    assert response.json()["error"].startswith(said)
    assert not await execute(engine, "SELECT FROM headrace.tokens")


# Completed


@pytest.mark.parametrize("data", [{"approved": True, "by": ["a"]}, "text", 1.5, None, False, "\0"])
async def test_a_token_is_completed_with_any_json(client: httpx2.AsyncClient, engine: Engine, data: Any) -> None:
    made = await create(client, timeout="1h")
    run_id = await make_waiter(engine, _uuid(made))
    response = await client.post(f"{TOKENS}/{made['id']}/complete", json={"data": data})
    assert (response.status_code, response.json()) == (200, DONE)
    token = await retrieve(client, made["id"])
    assert (token["status"], token["outputType"], token["outputIsError"]) == ("COMPLETED", "application/json", False)
    assert json.loads(token["output"]) == data
    assert token["completedAt"] >= token["createdAt"]
    assert await read_run(engine, run_id) == ("QUEUED", 1, 0)


async def test_a_completion_without_data_has_no_output(client: httpx2.AsyncClient) -> None:
    made = await create(client)
    assert (await client.post(f"{TOKENS}/{made['id']}/complete", json={})).json() == DONE
    token = await retrieve(client, made["id"])
    assert (token["status"], token["outputIsError"]) == ("COMPLETED", False)
    assert not {"output", "outputType"} & token.keys()


async def test_the_first_completion_counts_whoever_comes_after(client: httpx2.AsyncClient) -> None:
    made = await create(client)
    for data in (1, 2):
        assert (await client.post(f"{TOKENS}/{made['id']}/complete", json={"data": data})).json() == DONE
    async with httpx2.AsyncClient() as nobody:
        assert (await nobody.post(made["url"], json=3)).json() == DONE
    assert (await retrieve(client, made["id"]))["output"] == "1"


async def test_a_token_that_timed_out_stays_so(client: httpx2.AsyncClient, engine: Engine) -> None:
    made = await create(client, timeout="2030-01-02T03:04:05.678Z")
    await run_later(engine, "10 years", expire_tokens())
    assert (await client.post(f"{TOKENS}/{made['id']}/complete", json={"data": 1})).json() == DONE
    token = await retrieve(client, made["id"])
    assert (token["status"], token["outputIsError"], token["outputType"]) == ("TIMED_OUT", True, "application/json")
    assert json.loads(token["output"]) == {
        "code": "TRIGGER_WAITPOINT_TIMEOUT",
        "message": "Waitpoint timed out at 2030-01-02T03:04:05.678Z",
    }


async def test_the_server_itself_ends_what_is_due(client: httpx2.AsyncClient) -> None:
    made = await create(client, timeout="0.2s")

    async def timed_out() -> bool:
        return (await retrieve(client, made["id"]))["status"] == "TIMED_OUT"

    await until(timed_out)


async def test_fifty_completions_at_once_have_one_winner(client: httpx2.AsyncClient) -> None:
    made = await create(client)
    answers = await asyncio.gather(
        *(client.post(f"{TOKENS}/{made['id']}/complete", json={"data": number}) for number in range(50))
    )
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, DONE)] * 50
    output = (await retrieve(client, made["id"]))["output"]
    assert 0 <= int(output) < 50
    await asyncio.gather(*(client.post(f"{TOKENS}/{made['id']}/complete", json={"data": 99}) for _ in range(5)))
    assert (await retrieve(client, made["id"]))["output"] == output


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "Request body is empty"),
        (b'{"data": ', 400, "Invalid JSON"),
        (b'{"data": [}]}', 400, "Invalid JSON"),
        (b'{"data": "\xff"}', 400, "Invalid JSON"),
        (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "Invalid JSON"),
        (b"[1]", 400, "Validation error: Expected `object`, got `array`"),
        (b'{"data": "' + b"x" * 3 * 2**20 + b'"}', 413, "Request body too large"),
    ],
)
async def test_what_completes_nothing(client: httpx2.AsyncClient, body: bytes, status: int, said: str) -> None:
    made = await create(client)
    response = await client.post(f"{TOKENS}/{made['id']}/complete", content=body, headers=JSON)
    assert error_of(response) == (status, said)
    assert (await retrieve(client, made["id"]))["status"] == "WAITING"


async def test_what_is_not_there_or_another_environments(client: httpx2.AsyncClient, engine: Engine) -> None:
    made = await create(client)
    key = await keys.create_key(engine, "prod", "test")
    foreign = {"authorization": f"Bearer {key.secret}"}
    for token_id, headers in (
        (NOBODY, {}),
        ("nonsense", {}),
        (made["id"].replace("waitpoint_", "run_"), {}),
        (made["id"], foreign),
    ):
        for response in (
            await client.get(f"{TOKENS}/{token_id}", headers=headers),
            await client.post(f"{TOKENS}/{token_id}/complete", json={"data": 1}, headers=headers),
        ):
            assert error_of(response) == (404, "Not found")
            assert response.headers["x-should-retry"] == "false"
    assert (await client.get(TOKENS, headers=foreign)).json()["data"] == []
    assert (await retrieve(client, made["id"]))["status"] == "WAITING"


# Large outputs


async def test_a_large_output_lies_in_the_payload_store(client: httpx2.AsyncClient, engine: Engine) -> None:
    made, other = await create(client), await create(client)
    large = "x" * engine.settings.offload_threshold
    async with httpx2.AsyncClient() as nobody:
        assert (await nobody.post(made["url"], content=large, headers={"content-type": "text/plain"})).json() == DONE
    assert (await client.post(f"{TOKENS}/{other['id']}/complete", json={"data": large})).json() == DONE
    rows = await execute(engine, "SELECT output_type, length(output) AS size FROM headrace.tokens")
    assert [(row["output_type"], row["size"] < 200) for row in rows] == [("application/store", True)] * 2
    for token_id in (made["id"], other["id"]):
        token = await retrieve(client, token_id)
        assert json.loads(token["output"]) == large
        assert token["outputType"] == "application/json"
    # what came too late, or for nobody, is uploaded for nothing and taken away again
    kept = _list_objects(engine)
    for token_id, status in ((made["id"], 200), (NOBODY, 404)):
        assert (await client.post(f"{TOKENS}/{token_id}/complete", json={"data": large})).status_code == status
    assert len(kept) == 2
    assert _list_objects(engine) == kept


def _list_objects(engine: Engine) -> set[str]:
    from pathlib import Path  # noqa: PLC0415

    return {str(file) for file in (Path(engine.settings.data_dir) / "payloads").rglob("*") if file.is_file()}


# Callbacks


@pytest.mark.parametrize(
    ("content_type", "body", "output"),
    [
        ("application/json", b'{"a": 1.10}', '{"a": 1.10}'),
        ("application/json; charset=utf-8", b" 1 ", " 1 "),
        ("application/cloudevents+json", b"[]", "[]"),
        ("text/plain", b"yes", '"yes"'),
        ("text/plain", b'{"a": 1}', '"{\\"a\\": 1}"'),
        ("application/x-www-form-urlencoded", b"a=1&b=2", '"a=1&b=2"'),
        ("text/xml", "<ä/>".encode(), '"<ä/>"'),
        ("", b'{"a": 1}', '{"a": 1}'),
        ("", b"no json", '"no json"'),
        ("application/json", b"", None),
        ("text/plain", b"  \n", None),
        ("", b"", None),
    ],
)
async def test_the_body_of_a_callback_is_the_output(
    client: httpx2.AsyncClient, engine: Engine, content_type: str, body: bytes, output: str | None
) -> None:
    made = await create(client)
    run_id = await make_waiter(engine, _uuid(made))
    async with httpx2.AsyncClient() as nobody:
        headers = {"content-type": content_type} if content_type else {}
        response = await nobody.post(made["url"], content=body, headers=headers)
    assert (response.status_code, response.json()) == (200, DONE)
    token = await retrieve(client, made["id"])
    assert (token["status"], token.get("output")) == ("COMPLETED", output)
    assert await read_run(engine, run_id) == ("QUEUED", 1, 0)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "said"),
    [
        ("application/json", b"{", 400, "Invalid JSON"),
        ("application/json", b"[" * 100_000, 400, "Invalid JSON"),
        ("application/json", b'"\xff"', 400, "The body must be JSON, or text in UTF-8"),
        ("image/png", b"\x89PNG", 400, "The body must be JSON, or text in UTF-8"),
        ("text/plain", b"x" * (3 * 2**20 + 1), 413, "Request body too large"),
    ],
)
async def test_a_bad_callback_leaves_the_token_waiting(
    client: httpx2.AsyncClient, content_type: str, body: bytes, status: int, said: str
) -> None:
    made = await create(client)
    async with httpx2.AsyncClient() as nobody:
        response = await nobody.post(made["url"], content=body, headers={"content-type": content_type})
        assert error_of(response) == (status, said)
        assert (await retrieve(client, made["id"]))["status"] == "WAITING"
        assert (await nobody.post(made["url"])).json() == DONE


async def test_a_callback_needs_no_length_and_is_cut_when_too_long(
    client: httpx2.AsyncClient, server: RunningServer
) -> None:
    made = await create(client)
    target = f"POST {made['url'].removeprefix(server.url)}"
    headers = {"content-type": "text/plain", "transfer-encoding": "chunked", "authorization": ""}
    too_long = await RawStream.request(server, target, headers)
    for _ in range(4):
        await too_long.send(b"x" * 2**20)
    status, _, body = await too_long.read_response()
    assert (status, body) == (413, {"error": "Request body too large"})
    assert (await retrieve(client, made["id"]))["status"] == "WAITING"
    stream = await RawStream.request(server, target, headers)
    await stream.send(b"in ")
    await stream.send(b"pieces")
    status, _, body = await stream.end()
    assert (status, body) == (200, DONE)
    assert (await retrieve(client, made["id"]))["output"] == '"in pieces"'


async def test_any_other_callback_url_is_nobodys(client: httpx2.AsyncClient, engine: Engine) -> None:
    """A wrong signature and an unknown token are answered in the same words, before the body is read."""
    made, other = await create(client), await create(client)
    head, _, signature = made["url"].rpartition("/")
    token_id = _uuid(made)
    prod = await find_environment(engine, "prod")
    assert prod is not None
    wrong = [
        *(f"{head}/{signature[:at]}{'0' if signature[at] != '0' else '1'}{signature[at + 1 :]}" for at in (0, 31, 63)),
        f"{head}/{signature[:-1]}",
        f"{head}/{signature}0",
        f"{head}/{signature.upper()}",
        f"{head}/%ff%00",
        f"{head}/%F0%9F%94%91",
        f"{head}/{sign_callback(prod, token_id)}",
        f"{head}/{made['publicAccessToken']}",
        f"{head}/{made['publicAccessToken'].rpartition('.')[2]}",
        made["url"].replace(made["id"], other["id"]),
        made["url"].replace(made["id"], NOBODY),
        made["url"].replace(made["id"], "nonsense"),
        made["url"].replace("waitpoint_", "run_"),
    ]
    async with httpx2.AsyncClient() as nobody:
        answers = [await nobody.post(url, content=b"{", headers=JSON) for url in wrong]
        # a key that is good does not stand in for the signature
        answers += [await client.post(url, json=1) for url in wrong]
    seen = {(answer.status_code, answer.text, answer.headers["x-should-retry"]) for answer in answers}
    assert seen == {(404, '{"error":"Not found"}', "false")}
    for token in (made, other):
        assert (await retrieve(client, token["id"]))["status"] == "WAITING"


async def test_a_callback_takes_post_only_and_from_any_origin(client: httpx2.AsyncClient) -> None:
    made = await create(client)
    async with httpx2.AsyncClient() as nobody:
        assert (await nobody.get(made["url"])).status_code == 405
        asked = {"origin": "https://example.com", "access-control-request-method": "POST"}
        allowed = await nobody.options(made["url"], headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "*"
    assert (await retrieve(client, made["id"]))["status"] == "WAITING"


async def test_a_callback_of_any_environment_finds_its_token(client: httpx2.AsyncClient, engine: Engine) -> None:
    key = await keys.create_key(engine, "prod", "test")
    headers = {"authorization": f"Bearer {key.secret}"}
    made = (await client.post(TOKENS, json={}, headers=headers)).json()
    async with httpx2.AsyncClient() as nobody:
        assert (await nobody.post(made["url"], json=1)).json() == DONE
    assert (await client.get(f"{TOKENS}/{made['id']}", headers=headers)).json()["output"] == "1"


async def test_the_access_log_does_not_name_the_signature(caplog: pytest.LogCaptureFixture) -> None:

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404})

    async def swallow(message: Any) -> None: ...

    path = f"{TOKENS}/{NOBODY}/callback/secret/secret\nsecret"
    await AccessLog(answer)({"type": "http", "method": "POST", "path": path}, swallow, swallow)
    assert f"{NOBODY}/callback/" in caplog.text
    assert "secret" not in caplog.text


async def test_the_url_is_the_one_that_the_world_sees(settings: Settings, database_url: str) -> None:
    from dataclasses import replace  # noqa: PLC0415

    with running_server(replace(settings, api_url="https://runs.example.com/")) as server:
        async with httpx2.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {server.key}"}) as client:
            made = await create(client)
            assert made["url"].startswith(f"https://runs.example.com{TOKENS}/{made['id']}/callback/")
            path = made["url"].removeprefix("https://runs.example.com")
            assert (await client.post(path)).json() == DONE


@pytest.mark.parametrize("host", ["[", "a b", "example.com:x"])
async def test_a_host_that_is_none_breaks_nothing(client: httpx2.AsyncClient, host: str) -> None:
    response = await client.post(TOKENS, json={}, headers={"host": host})
    assert response.status_code in {200, 400}


# Public tokens


async def test_a_public_token_completes_its_own_token_and_does_nothing_else(
    client: httpx2.AsyncClient, server: RunningServer
) -> None:
    mine, other = await create(client), await create(client)
    headers = {"authorization": f"Bearer {mine['publicAccessToken']}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=headers) as browser:
        for refused in (
            await browser.post(f"{TOKENS}/{other['id']}/complete", json={"data": 1}),
            await browser.post(f"{TOKENS}/{NOBODY}/complete", json={"data": 1}),
            await browser.get(f"{TOKENS}/{mine['id']}"),
            await browser.get(TOKENS),
            await browser.post(TOKENS, json={}),
            await browser.get("/api/v1/runs"),
            await browser.post("/api/v1/tasks/t/trigger", json={}),
        ):
            assert error_of(refused) == (403, "Unauthorized")
        done = await browser.post(f"{TOKENS}/{mine['id']}/complete", json={"data": "by a browser"})
        assert (done.status_code, done.json()) == (200, DONE)
    assert (await retrieve(client, mine["id"]))["output"] == '"by a browser"'
    assert (await retrieve(client, other["id"]))["status"] == "WAITING"


async def test_scopes(client: httpx2.AsyncClient, engine: Engine, environment: Environment) -> None:
    made = await create(client)

    async def ask(*scopes: str) -> list[int]:
        headers = bearer(environment, *scopes)
        return [
            (await client.get(f"{TOKENS}/{made['id']}", headers=headers)).status_code,
            (await client.get(TOKENS, headers=headers)).status_code,
            (await client.post(TOKENS, json={}, headers=headers)).status_code,
            (await client.post(f"{TOKENS}/{made['id']}/complete", json={}, headers=headers)).status_code,
        ]

    assert await ask() == [403] * 4
    assert await ask("read:runs", "write:runs", f"write:waitpoints:{NOBODY}", "write:batch") == [403] * 4
    assert await ask(f"read:waitpoints:{made['id']}") == [200, 403, 403, 403]
    assert await ask("read:waitpoints") == [200, 200, 403, 403]
    assert (await retrieve(client, made["id"]))["status"] == "WAITING"
    assert await ask(f"write:waitpoints:{made['id']}") == [403, 403, 403, 200]
    assert await ask("write:waitpoints") == [403, 403, 200, 200]
    assert await ask("admin") == [200] * 4


async def test_a_public_token_of_another_environment_is_not_good_here(
    client: httpx2.AsyncClient, engine: Engine
) -> None:
    made = await create(client)
    prod = await find_environment(engine, "prod")
    assert prod is not None
    headers = bearer(prod, f"write:waitpoints:{made['id']}")
    response = await client.post(f"{TOKENS}/{made['id']}/complete", json={}, headers=headers)
    assert error_of(response) == (404, "Not found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", TOKENS),
        ("GET", TOKENS),
        ("GET", f"{TOKENS}/{NOBODY}"),
        ("POST", f"{TOKENS}/{NOBODY}/complete"),
    ],
)
async def test_all_but_the_callback_need_a_credential(server: RunningServer, method: str, path: str) -> None:
    async with httpx2.AsyncClient(base_url=server.url) as nobody:
        content = b"{}" if method == "POST" else None
        response = await nobody.request(method, path, content=content)
        assert error_of(response) == (401, "No authorization header provided")
        response = await nobody.request(method, path, content=content, headers={"authorization": "Bearer x"})
        assert error_of(response) == (401, "Invalid API key")


# Listed


async def test_tokens_are_listed_in_pages(client: httpx2.AsyncClient) -> None:
    newest_first = sorted([(await create(client))["id"] for _ in range(5)], reverse=True)

    async def page(query: str) -> tuple[list[str], dict[str, str]]:
        response = await client.get(f"{TOKENS}?{query}")
        assert response.status_code == 200, response.text
        return [token["id"] for token in response.json()["data"]], response.json()["pagination"]

    assert await page("") == (newest_first, {})
    assert await page("page[size]=2") == (newest_first[:2], {"next": newest_first[1]})
    assert await page(f"page[size]=2&page[after]={newest_first[1]}") == (
        newest_first[2:4],
        {"next": newest_first[3], "previous": newest_first[2]},
    )
    assert await page(f"page[size]=2&page[after]={newest_first[3]}") == (
        newest_first[4:],
        {"previous": newest_first[4]},
    )
    assert (await page(f"page[size]=2&page[before]={newest_first[2]}"))[0] == newest_first[:2]


async def test_lists_are_filtered(client: httpx2.AsyncClient, engine: Engine) -> None:
    plain, tagged = await create(client), await create(client, tags=["a", "b"], idempotencyKey="k,1")
    done = await create(client, tags=["b"])
    await client.post(f"{TOKENS}/{done['id']}/complete", json={"data": 1})
    sql = "UPDATE headrace.tokens SET created_at = created_at - interval '2 hours' WHERE id = $1"
    await execute(engine, sql, _uuid(plain))

    async def found(**query: str) -> set[str]:
        response = await client.get(TOKENS, params={f"filter{name}": value for name, value in query.items()})
        assert response.status_code == 200, response.text
        assert all("output" not in token for token in response.json()["data"])
        return {token["id"] for token in response.json()["data"]}

    async def found_by(name: str, value: str) -> set[str]:
        return await found(**{name: value})

    assert await found() == {plain["id"], tagged["id"], done["id"]}
    assert await found_by("[status]", "COMPLETED") == {done["id"]}
    assert await found_by("[status]", "WAITING,TIMED_OUT") == {plain["id"], tagged["id"]}
    assert await found_by("[tags]", "a,z") == {tagged["id"]}
    assert await found_by("[idempotencyKey]", "k,1") == {tagged["id"]}
    assert await found_by("[id]", done["id"]) == {done["id"]}
    assert await found_by("[createdAt][period]", "1h") == {tagged["id"], done["id"]}
    created = (await retrieve(client, plain["id"]))["createdAt"]
    assert await found_by("[createdAt][from]", created) == {plain["id"], tagged["id"], done["id"]}
    assert await found_by("[createdAt][from]", "2100-01-01") == set()
    assert await found_by("[createdAt][to]", "2000-01-01T00:00:00Z") == set()
    both = {"[status]": "WAITING", "[tags]": "b"}
    assert await found(**both) == {tagged["id"]}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("filter[status]", "HAPPY", "filter[status] must be of: WAITING, COMPLETED, TIMED_OUT"),
        ("filter[id]", "run_1", "filter[id] must be a token's id"),
        ("filter[tags]", "a\0", "filter[tags] must not hold a NUL character"),
        ("filter[idempotencyKey]", "\0", "filter[idempotencyKey] must not hold a NUL character"),
        ("filter[createdAt][period]", "long", "filter[createdAt][period] must be a duration such as 1h30m"),
        (
            "filter[createdAt][from]",
            "yesterday",
            "filter[createdAt][from] must be an ISO 8601 date, or milliseconds since 1970",
        ),
        ("page[size]", "0", "page[size] must be from 1 to 100"),
        ("page[size]", "101", "page[size] must be from 1 to 100"),
        ("page[size]", "x", "page[size] must be a whole number"),
        ("page[after]", "x", "page[after] must be a token's id"),
    ],
)
async def test_a_query_that_can_not_be(client: httpx2.AsyncClient, name: str, value: str, said: str) -> None:
    response = await client.get(TOKENS, params={name: value})
    assert error_of(response) == (400, "Query Error")
    assert response.json()["details"][0]["message"] == said


async def test_the_document_says_that_the_callback_needs_no_key(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    callback = paths[f"{TOKENS}/{{token_id}}/callback/{{hash}}"]["post"]
    assert "security" not in callback
    assert [row["name"] for row in callback["parameters"]] == ["token_id", "hash"]
    assert paths[f"{TOKENS}/{{token_id}}/complete"]["post"]["security"]


def _uuid(token: dict[str, Any]) -> Any:
    return ids.parse_token_id(token["id"])
