"""Bulk actions over HTTP, the clients and the command; what can't be makes none."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
import pytest
from tests.api.support import execute, finish_all, until
from tests.api.test_runs import NOBODY, trigger
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, ConfigurationError
from headrace.api import tokens
from headrace.engine import keys, sweeps
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment

pytestmark = pytest.mark.anyio

PATH = "/api/v1/bulk-actions"
NO_ACTION = "bulk_06f3q1c2k8g5m0t7n400000002"


async def create(client: httpx2.AsyncClient, **body: Any) -> str:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"].startswith("bulk_")
    return answer.json()["id"]


async def carry_out(client: httpx2.AsyncClient, action_id: str) -> dict[str, Any]:
    """The action once a server has carried it out."""

    async def look() -> dict[str, Any] | None:
        action = (await client.get(f"{PATH}/{action_id}")).json()
        return None if action["status"] == "PENDING" else action

    return await until(look, 20)


async def listed(client: httpx2.AsyncClient, query: str) -> list[str]:
    answer = await client.get(f"/api/v1/runs?{query}")
    assert answer.status_code == 200, answer.text
    return sorted(run["id"] for run in answer.json()["data"])


async def test_a_cancel_by_filter(client: httpx2.AsyncClient) -> None:
    meant = sorted([await trigger(client, tags=["out"]) for _ in range(3)])
    await trigger(client, tags=["in"])
    action_id = await create(client, action="cancel", filter={"tag": "out"}, name="the wrong ones")
    action = await carry_out(client, action_id)
    assert action.keys() == {"id", "name", "type", "status", "counts", "createdAt", "completedAt", "selecting"}
    assert (action["id"], action["name"], action["type"], action["status"], action["selecting"]) == (
        action_id,
        "the wrong ones",
        "CANCEL",
        "COMPLETED",
        False,
    )
    assert action["counts"] == {"total": 3, "success": 3, "failure": 0}
    assert await listed(client, "filter[status]=CANCELED") == meant
    assert await listed(client, f"filter[bulkAction]={action_id}") == meant


async def test_a_replay_by_ids(client: httpx2.AsyncClient, engine: Engine) -> None:
    first = [await trigger(client, payload=number) for number in range(3)]
    await finish_all(engine)
    action_id = await create(client, action="replay", runIds=first[:2])
    assert (await carry_out(client, action_id))["counts"] == {"total": 2, "success": 2, "failure": 0}
    made = (await client.get(f"/api/v1/runs?filter[bulkAction]={action_id}")).json()["data"]
    assert sorted(run["replayedFrom"] for run in made) == sorted(first[:2])


@pytest.mark.parametrize(
    ("given", "hits"),
    [
        ({"status": ["QUEUED", "DELAYED", "PENDING_VERSION"]}, {"a", "b"}),
        ({"taskIdentifier": "a"}, {"a"}),
        ({"queue": {"type": "custom", "name": "q"}}, {"b"}),
        ({"queue": [{"type": "task", "name": "a"}, "q"]}, {"a", "b"}),
        ({"tag": ["x", "y"]}, {"a", "b"}),
        ({"isTest": True}, {"b"}),
        ({"concurrencyKey": "k,1"}, {"a"}),
        ({"idempotencyKey": "i"}, {"b"}),
        ({"machine": "micro"}, {"b"}),
        ({"period": "1h"}, {"a", "b"}),
        ({"to": 1_000_000}, set()),
        ({"from": "2020-01-01T00:00:00Z", "tag": "x"}, {"a"}),
    ],
)
async def test_what_a_filter_says(client: httpx2.AsyncClient, given: dict[str, Any], hits: set[str]) -> None:
    runs = {
        "a": await trigger(client, "a", tags=["x"], concurrencyKey="k,1"),
        "b": await trigger(
            client, "b", tags=["y"], queue={"name": "q"}, test=True, idempotencyKey="i", machine="micro"
        ),
    }
    await carry_out(client, await create(client, action="cancel", filter=given))
    assert await listed(client, "filter[status]=CANCELED") == sorted(runs[one] for one in hits)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"action": "cancel"}, 400, "neither was"),
        ({"action": "cancel", "filter": {"tag": "x"}, "runIds": [NOBODY]}, 400, "both were"),
        ({"action": "cancel", "filter": {}}, 400, "at least one"),
        ({"action": "cancel", "filter": {"tag": [" "]}}, 400, "at least one"),
        ({"action": "cancel", "filter": {"tagg": "x"}}, 400, "tagg"),
        (
            {"action": "cancel", "filter": {"status": "DONE"}},
            400,
            "filter.status is 'DONE', but must be of: PENDING_VERSION",
        ),
        ({"action": "cancel", "filter": {"period": "soon"}}, 400, "filter.period is 'soon', but must be a duration"),
        ({"action": "cancel", "filter": {"from": "soon"}}, 400, "filter.from is 'soon', but must be an ISO 8601"),
        ({"action": "cancel", "filter": {"batch": NOBODY}}, 400, "filter.batch"),
        ({"action": "cancel", "filter": {"schedule": "x"}}, 400, "filter.schedule"),
        ({"action": "cancel", "filter": {"bulkAction": "x"}}, 400, "filter.bulkAction"),
        ({"action": "cancel", "filter": {"tag": "a\0b"}}, 400, "NUL"),
        ({"action": "retry", "filter": {"tag": "x"}}, 400, "action"),
        ({"action": "cancel", "runIds": []}, 400, "runIds"),
        ({"action": "cancel", "runIds": ["x"]}, 400, "runIds[0] is 'x'"),
        ({"action": "cancel", "runIds": [NOBODY] * 501}, 400, "Too many runIds (501). Maximum is 500"),
        ({"action": "cancel", "runIds": [NOBODY]}, 422, NOBODY),
        ({"action": "cancel", "filter": {"tag": "x"}, "name": "n" * 256}, 400, "name"),
        ({"action": "replay", "filter": {"tag": "x"}, "targetRegion": "eu"}, 400, "targetRegion"),
        ({"filter": {"tag": "x"}}, 400, "action"),
    ],
)
async def test_what_can_not_be_makes_no_action(
    client: httpx2.AsyncClient, engine: Engine, body: Any, status: int, said: str
) -> None:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert not await execute(engine, "SELECT FROM headrace.bulk_actions")


async def test_a_fourth_replay_at_a_time_is_refused(client: httpx2.AsyncClient, engine: Engine) -> None:
    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(7305, 1)")  # nobody sweeps
        for _ in range(3):
            await create(client, action="replay", filter={"tag": "x"})
        answer = await client.post(PATH, json={"action": "replay", "filter": {"tag": "x"}})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (429, "false")
        await create(client, action="cancel", filter={"tag": "x"})


async def test_an_action_is_aborted(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client, tags=["x"])
    async with engine.store.connect() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(7305, 1)")  # nobody sweeps
        action_id = await create(client, action="cancel", filter={"tag": "x"})
        for _ in range(2):
            answer = await client.post(f"{PATH}/{action_id}/abort")
            assert (answer.status_code, answer.json()) == (200, {"id": action_id})
    await sweeps.sweep_once(engine)
    assert (await client.get(f"{PATH}/{action_id}")).json()["status"] == "ABORTED"
    assert (await client.get(f"/api/v3/runs/{run_id}")).json()["isQueued"]
    done = await create(client, action="cancel", filter={"tag": "x"})
    await carry_out(client, done)
    answer = await client.post(f"{PATH}/{done}/abort")
    assert (answer.status_code, "COMPLETED" in answer.json()["error"]) == (400, True)
    assert (await client.post(f"{PATH}/{NO_ACTION}/abort")).status_code == 404
    assert (await client.post(f"{PATH}/x/abort")).status_code == 404


async def test_actions_are_listed_in_pages(client: httpx2.AsyncClient) -> None:
    made = [await create(client, action="cancel", filter={"tag": str(number)}) for number in range(5)]
    made = sorted(made, reverse=True)
    first = (await client.get(f"{PATH}?page[size]=2")).json()
    assert [action["id"] for action in first["data"]] == made[:2]
    assert first["pagination"] == {"next": made[1]}
    second = (await client.get(f"{PATH}?page[size]=2&page[after]={made[1]}")).json()
    assert [action["id"] for action in second["data"]] == made[2:4]
    back = (await client.get(f"{PATH}?page[size]=2&page[before]={second['pagination']['previous']}")).json()
    assert [action["id"] for action in back["data"]] == made[:2]
    assert "previous" not in back["pagination"]
    assert (await client.get(f"{PATH}?page[size]=0")).status_code == 400
    assert (await client.get(f"{PATH}?page[after]=x")).status_code == 400
    assert (await client.get(f"{PATH}?filter[status]=PENDING")).status_code == 400


async def test_who_may(client: httpx2.AsyncClient, engine: Engine, environment: Environment) -> None:
    action_id = await create(client, action="cancel", filter={"tag": "x"})
    other = await keys.create_key(engine, "prod", "other")
    headers = {"authorization": f"Bearer {other.secret}"}
    assert (await client.get(f"{PATH}/{action_id}", headers=headers)).status_code == 404
    assert (await client.post(f"{PATH}/{action_id}/abort", headers=headers)).status_code == 404
    assert (await client.get(PATH, headers=headers)).json()["data"] == []
    for scope, read, write in (("read:runs", 200, 403), ("write:runs:run_x", 403, 403), ("write:runs", 403, 202)):
        token = {"authorization": f"Bearer {tokens.mint_token(environment, [scope])}"}
        assert (await client.get(f"{PATH}/{action_id}", headers=token)).status_code == read
        assert (await client.get(PATH, headers=token)).status_code == read
        answer = await client.post(PATH, json={"action": "cancel", "filter": {"tag": "x"}}, headers=token)
        assert answer.status_code == write


async def test_a_request_that_is_sent_again_makes_one_action(client: httpx2.AsyncClient) -> None:
    headers = {"x-trigger-request-idempotency-key": "r"}
    body = {"action": "cancel", "filter": {"period": "1h"}}
    answers = [await client.post(PATH, json=body, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    other = await client.post(PATH, json={**body, "action": "replay"}, headers=headers)
    assert other.status_code == 409


async def test_clients(client: httpx2.AsyncClient, server: RunningServer, engine: Engine) -> None:
    runs = [await trigger(client, tags=["x"]) for _ in range(3)]
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        action_id = await sdk.bulk_cancel(tag="x", status="QUEUED,PENDING_VERSION", name="n")
        action = await sdk.await_bulk_action(action_id, timeout="60s")
        assert (action["status"], action["counts"]["success"], action["name"]) == ("COMPLETED", 3, "n")
        replayed = await sdk.await_bulk_action(await sdk.bulk_replay(runs[:1]), timeout="60s")
        assert replayed["counts"]["success"] == 1
        listed = await sdk.list_bulk_actions(limit=1)
        assert [one["id"] for one in listed["data"]] == [replayed["id"]]
        made = [run async for run in sdk.iterate_runs(bulk_action=replayed["id"])]
        assert [run["replayedFrom"] for run in made] == runs[:1]
        with pytest.raises(ApiError, match="COMPLETED"):
            await sdk.abort_bulk_action(action_id)
        for wrong in ({}, {"tagg": "x"}, {"period": "soon"}):
            with pytest.raises(ConfigurationError):
                await sdk.bulk_cancel(**wrong)
        with pytest.raises(ConfigurationError):
            await sdk.bulk_cancel(runs, tag="x")


async def test_the_command(client: httpx2.AsyncClient, server: RunningServer) -> None:
    runs = [await trigger(client, tags=["x"]) for _ in range(2)]
    env = clean_environment(api_url=server.url, api_key=server.key)

    async def run(*arguments: str) -> Any:
        return await anyio.to_thread.run_sync(lambda: run_headrace("bulk", *arguments, env=env))

    told = await run("cancel", "--tag", "x", "--wait", "--json")
    assert told.returncode == 0, told.stderr
    action = json.loads(told.stdout)
    assert action["counts"] == {"total": 2, "success": 2, "failure": 0}
    assert (await run("cancel", runs[0], "--wait")).returncode == 1  # it had ended
    shown = await run("show", action["id"])
    assert "COMPLETED" in shown.stdout
    assert action["id"] in (await run("list")).stdout
    assert (await run("abort", action["id"])).returncode == 2
    assert (await run("show", NO_ACTION)).returncode == 4
    assert (await run("replay")).returncode == 2
    assert (await run("replay", "--created-from", "soon")).returncode == 2
    assert (await run("replay", "--status", "DONE")).returncode == 2
