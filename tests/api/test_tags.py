"""POST /api/v1/runs/{id}/tags, and lists by tags that were added."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from tests.api.support import execute
from tests.api.test_metadata import trigger
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient
from headrace.engine.engine import Engine

pytestmark = pytest.mark.anyio


async def add(client: httpx2.AsyncClient, run_id: str, tags: Any) -> httpx2.Response:
    """The answer to more tags."""
    return await client.post(f"/api/v1/runs/{run_id}/tags", json={"tags": tags})


async def read(client: httpx2.AsyncClient, run_id: str) -> list[str]:
    """The tags that a run shows."""
    return (await client.get(f"/api/v3/runs/{run_id}")).json()["tags"]


async def find(client: httpx2.AsyncClient, tags: str) -> set[str]:
    """The runs that a list by tags shows."""
    response = await client.get("/api/v1/runs", params={"filter[tag]": tags})
    assert response.status_code == 200, response.text
    return {run["id"] for run in response.json()["data"]}


async def test_tags_are_united_with_those_that_are_there(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client, tags=["a"])
    for tags, message, after in (
        ("b", "Successfully set 1 new tags.", ["a", "b"]),
        (["c", "a", "c"], "Successfully set 1 new tags.", ["a", "b", "c"]),
        (["a", "", " "], "No new tags to add", ["a", "b", "c"]),
        ([], "No new tags to add", ["a", "b", "c"]),
        ("x" * 128, "Successfully set 1 new tags.", ["a", "b", "c", "x" * 128]),
    ):
        response = await add(client, run_id, tags)
        assert (response.status_code, response.json()) == (200, {"message": message})
        assert await read(client, run_id) == after
    bare = await trigger(client)
    assert (await add(client, bare, ["z"])).status_code == 200
    assert await read(client, bare) == ["z"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (
            {"tags": [f"t{n}" for n in range(10)]},
            422,
            "Runs can only have 10 tags, you're trying to set 11. These tags",
        ),
        ({"tags": ["ok", "x" * 129]}, 422, "a tag has at most 128 characters"),
        ({"tags": ["a\0b"]}, 422, "NUL"),
        ({"tags": [1]}, 400, "tags[0]"),
        ({"tags": None}, 400, "tags"),
        ({}, 400, "tags"),
        ([], 400, "object"),
    ],
)
async def test_what_is_wrong_is_said_and_adds_nothing(
    client: httpx2.AsyncClient, body: Any, status: int, told: str
) -> None:
    run_id = await trigger(client, tags=["mine"])
    response = await client.post(f"/api/v1/runs/{run_id}/tags", json=body)
    assert response.status_code == status, response.text
    assert told in response.text
    assert await read(client, run_id) == ["mine"]


async def test_there_are_no_tags_of_what_is_not_there_or_not_allowed(client: httpx2.AsyncClient) -> None:
    assert (await add(client, "run_nonesuch", "a")).status_code == 404
    made = await client.post("/api/v1/tasks/t/trigger", json={"payload": 1})
    headers = {"authorization": f"Bearer {made.headers['x-trigger-jwt']}"}
    url = f"/api/v1/runs/{made.json()['id']}/tags"
    assert (await client.post(url, json={"tags": "a"}, headers=headers)).status_code == 403
    assert (await client.post(url, json={"tags": "a"}, headers={"authorization": ""})).status_code == 401


async def test_tags_of_many_at_once_are_all_kept_up_to_ten(client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client)
    answers = await asyncio.gather(*(add(client, run_id, f"t{number}") for number in range(14)))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [422] * 4
    assert len(set(await read(client, run_id))) == 10


async def test_runs_are_found_by_any_of_the_tags_also_by_those_that_were_added_later(
    client: httpx2.AsyncClient,
) -> None:
    red, both, none = (
        await trigger(client, tags=["red"]),
        await trigger(client, tags=["red", "blue"]),
        await trigger(client),
    )
    assert await find(client, "red") == {red, both}
    assert await find(client, "blue,green") == {both}
    assert await find(client, "red,blue") == {red, both}
    for run_id in (none, red):
        assert (await add(client, run_id, "green")).status_code == 200
    assert await find(client, "green") == {red, none}
    assert await find(client, "blue,green") == {red, both, none}
    assert await find(client, "gre") == set()
    await client.post(f"/api/v2/runs/{none}/cancel")
    assert (await add(client, none, "late")).status_code == 200, "one that has ended takes tags as well"
    assert await find(client, "late") == {none}


async def test_what_else_a_trigger_said_stays_when_tags_are_added(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client, metadata={"a": 1}, test=True, maxAttempts=3)
    await add(client, run_id, "late")
    [row] = await execute(engine, "SELECT options::text AS options FROM headrace.runs")
    assert row["options"] == '{"tags": ["late"], "test": true, "metadata": {"a": 1}, "maxAttempts": 3}'


async def test_a_list_by_a_tag_reads_the_runs_that_have_it(client: httpx2.AsyncClient, engine: Engine) -> None:
    """The index knows the tag's runs, and no others: without statistics, and as the planner sees it with them."""
    await execute(
        engine, "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 't', 'q') ON CONFLICT DO NOTHING"
    )
    await execute(
        engine,
        "INSERT INTO headrace.runs (environment_id, lane_id, id, status, ready_at, created_at, updated_at, options)"
        " SELECT 1, (SELECT min(id) FROM headrace.lanes), overlay(gen_random_uuid()::text PLACING '00' FROM 35)::uuid, 'COMPLETED', now(), now(), now(),"
        """ CASE WHEN n % 500 = 0 THEN '{"tags": ["rare"]}' WHEN n % 4 = 0 THEN '{"tags": ["other", "more"]}' END::jsonb"""
        " FROM generate_series(1, 30000) n",
    )
    sql = """SELECT r.id FROM headrace.runs AS r
        WHERE r.options -> 'tags' IS NOT NULL AND r.options -> 'tags' ?| ARRAY['rare', 'none'] OFFSET 0"""
    for analyze in (False, True):
        if analyze:
            await execute(engine, "ANALYZE headrace.runs")
        plan = "\n".join(row[0] for row in await execute(engine, f"EXPLAIN ANALYZE {sql}"))
        assert "Bitmap Index Scan on runs_by_tag" in plan, plan
        assert "rows=60" in plan


async def test_clients_add_tags(server: RunningServer, client: httpx2.AsyncClient) -> None:
    run_id = await trigger(client)
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        await sdk.add_tags(run_id, "a")
        await sdk.add_tags(run_id, ["b", "a"])
        assert (await sdk.retrieve_run(run_id))["tags"] == ["a", "b"]
        assert [run["id"] for run in (await sdk.list_runs(tag="b"))["data"]] == [run_id]
        with pytest.raises(ApiError, match="10 tags"):
            await sdk.add_tags(run_id, [f"t{number}" for number in range(9)])
