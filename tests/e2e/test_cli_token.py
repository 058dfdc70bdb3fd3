"""Tokens from the command line and from both clients, on a real server."""

from __future__ import annotations

import json

import httpx2
import pytest
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, Client

NOBODY = "waitpoint_06f3q1c2k8g5m0t7n400000002"


@pytest.fixture
def env(server: RunningServer) -> dict[str, str]:
    """What a user's shell says of headrace, with a server that answers to it."""
    return clean_environment(api_url=server.url, api_key=server.key)


def test_a_token_is_made_completed_and_shown(env):
    made = run_headrace(
        "token", "create", "--timeout", "7d", "--tags", "approval, urgent", "--key", "k", "--key-ttl", "1d", "--json",
        env=env,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    token = json.loads(made.stdout)
    assert token.keys() == {"id", "url", "publicAccessToken", "isCached"}
    assert token["isCached"] is False

    again = run_headrace("token", "create", env=env | {"HEADRACE_TOKEN_KEY": "k"})
    assert again.returncode == 0
    assert token["id"] in again.stdout
    assert token["url"] in again.stdout
    assert "it was there already" in again.stdout

    shown = run_headrace("token", "show", token["id"], env=env)
    assert shown.returncode == 0
    for line in ("WAITING", "approval, urgent", token["url"]):
        assert line in shown.stdout
    assert "output" not in shown.stdout

    answer = '{"approved": true, "price": 1.10}'
    completed = run_headrace("token", "complete", token["id"], answer, env=env)
    assert (completed.returncode, completed.stdout) == (0, f"Token {token['id']} is COMPLETED.\n")
    late = run_headrace("token", "complete", token["id"], "2", "--json", env=env)
    assert late.returncode == 0
    assert json.loads(late.stdout)["output"] == {"approved": True, "price": 1.1}
    shown = run_headrace("token", "show", token["id"], env=env)
    assert 'output     {"approved":true,"price":1.1}' in shown.stdout


def test_tokens_are_listed_and_a_callback_completes_one(env):
    made = [json.loads(run_headrace("token", "create", "--json", "--tags", tag, env=env).stdout) for tag in "ab"]
    newest_first = sorted((token["id"] for token in made), reverse=True)
    # a person has the URL and nothing else
    assert httpx2.post(made[0]["url"], json={"approved": True}).json() == {"success": True}

    listed = run_headrace("token", "list", env=env)
    assert listed.returncode == 0
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
        [token_id, "COMPLETED" if token_id == made[0]["id"] else "WAITING"] for token_id in newest_first
    ]
    waiting = run_headrace("token", "list", "--status", "WAITING", "--json", env=env)
    assert [token["id"] for token in json.loads(waiting.stdout)["data"]] == [made[1]["id"]]
    tagged = run_headrace("token", "list", "--tag", "a,z", "--period", "1h", "--json", env=env)
    assert [token["id"] for token in json.loads(tagged.stdout)["data"]] == [made[0]["id"]]
    page = run_headrace("token", "list", "--limit", "1", env=env)
    assert f"more  --after {newest_first[0]}" in page.stdout
    rest = run_headrace("token", "list", "--after", newest_first[0], "--json", env=env)
    assert [token["id"] for token in json.loads(rest.stdout)["data"]] == newest_first[1:]


def test_an_output_may_come_from_stdin_or_be_left_out(env):
    for arguments, stdin, expected in ((["-"], '["from stdin"]\n', ["from stdin"]), ([], "", None), (["-1"], "", -1)):
        token_id = json.loads(run_headrace("token", "create", "--json", env=env).stdout)["id"]
        ended = run_headrace("token", "complete", token_id, *arguments, "--json", env=env, stdin=stdin)
        assert ended.returncode == 0, ended.stderr
        token = json.loads(ended.stdout)
        assert (token["status"], token["output"]) == ("COMPLETED", expected)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", NOBODY), 4, f"There is no token {NOBODY}"),
        (("complete", NOBODY), 4, f"There is no token {NOBODY}"),
        (("complete", "nonsense", "1"), 4, "There is no token nonsense"),
        (("complete", NOBODY, "yes"), 2, "The output is no JSON"),
        (("create", "--timeout", "soon"), 2, "timeout is 'soon': give a duration such as"),
        (("list", "--status", "HAPPY"), 2, "filter[status] must be of: WAITING, COMPLETED, TIMED_OUT"),
        (("list", "--limit", "1000"), 2, "from 1 to 100"),
        (("list", "--api-key", "hr_dev_wrong_key_wrong_key"), 3, "headrace keys create"),
    ],
)
def test_what_is_wrong_is_said_with_a_code(env, arguments, code, said):
    ended = run_headrace("token", *arguments, env=env)
    assert said in ended.stderr
    assert (ended.returncode, ended.stdout) == (code, "")
    assert "Traceback" not in ended.stderr


def test_the_client_makes_completes_and_looks_at_tokens(server: RunningServer) -> None:
    with Client(server.url, api_key=server.key) as client:
        token = client.create_token(timeout="1h", tags=["a"], idempotency_key="k", idempotency_key_ttl="1d")
        again = client.create_token(idempotency_key="k")
        assert (again.id, again.url, again.is_cached, token.is_cached) == (token.id, token.url, True, False)
        assert client.retrieve_token(token)["status"] == "WAITING"
        client.complete_token(token, {"approved": True})
        client.complete_token(token.id, {"approved": False})
        found = client.retrieve_token(token.id)
        assert (found["status"], found["output"]) == ("COMPLETED", {"approved": True})
        assert [one["id"] for one in client.list_tokens(status="COMPLETED", tag="a")["data"]] == [token.id]
        assert client.list_tokens(status=["WAITING", "TIMED_OUT"])["data"] == []
        with pytest.raises(ApiError, match="Not found"):
            client.complete_token(NOBODY)


@pytest.mark.anyio
async def test_the_async_client_does_the_same(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as client:
        token = await client.create_token(timeout=3600, tags="a", idempotency_key="k")
        assert (await client.create_token(idempotency_key="k")).is_cached
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token.public_token}"}) as browser:
            answer = await browser.post(token.url.partition("/callback/")[0] + "/complete", json={"data": 1})
        assert answer.status_code == 200
        await client.complete_token(token, 2)
        assert (await client.retrieve_token(token))["output"] == 1
        assert [one["id"] for one in (await client.list_tokens(idempotency_key="k"))["data"]] == [token.id]
