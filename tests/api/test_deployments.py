"""Deployments over HTTP: listed, retrieved, promoted; and what a run says of its version."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from tests.api.support import create, item, stream
from tests.server_fixture import RunningServer

from headrace.api.tokens import mint_token
from headrace.engine.claims import claim_runs
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.engine.outcomes import WorkerLease
from headrace.engine.workers import TaskRegistration, register_worker

pytestmark = pytest.mark.anyio

MISSING = {"error": "Deployment not found"}


async def test_versions_are_listed_and_promoted(client: httpx2.AsyncClient, engine: Engine) -> None:
    assert (await get(client, "")).json() == {"data": [], "pagination": {}}
    for path in ("/current", "/latest", "/deployment_1", "/1.0"):
        answer = await get(client, path)
        assert (answer.status_code, answer.json()["error"]) == (404, MISSING["error"])
    await start_worker(engine, "1.0", "a", "b")
    await start_worker(engine, "1.1-rc.2", "b")
    [second, first] = (await get(client, "")).json()["data"]
    assert second | {"createdAt": "", "deployedAt": "", "lastSeenAt": "", "promotedAt": "", "id": ""} == {
        "id": "", "createdAt": "", "shortCode": "1.1-rc.2", "version": "1.1-rc.2", "runtime": "python", "runtimeVersion": "",
        "status": "DEPLOYED", "deployedAt": "", "lastSeenAt": "", "promotedAt": "", "tasks": ["b"], "currentTasks": ["b"],
        "isCurrent": True, "workers": 1,
    }  # fmt: skip
    assert (first["version"], first["tasks"], first["currentTasks"]) == ("1.0", ["a", "b"], ["a"])
    for path in ("/current", "/latest", f"/{second['id']}", "/1.1-rc.2"):
        found = (await get(client, path)).json()
        assert found["worker"]["tasks"] == [{"id": "b", "slug": "b", "filePath": "", "exportName": ""}]
        assert (found["id"], found["contentHash"], found["imagePlatform"]) == (second["id"], "1.1-rc.2", "")
    promoted = await client.post("/api/v1/deployments/1.0/promote")
    assert promoted.status_code == 200
    assert promoted.json() == {"id": first["id"], "version": "1.0", "shortCode": "1.0", "tasks": ["a", "b"]}
    assert (await get(client, "/current")).json()["version"] == "1.0"
    assert (await get(client, "/latest")).json()["version"] == "1.1-rc.2"
    assert (await client.post("/api/v1/deployments/1.0/promote", json={})).status_code == 200


async def test_pages_of_versions(client: httpx2.AsyncClient, engine: Engine) -> None:
    for number in range(5):
        await start_worker(engine, str(number))
    seen: list[str] = []
    query: dict[str, Any] = {"page[size]": 2}
    while True:
        page = (await client.get("/api/v1/deployments", params=query)).json()
        seen += [one["version"] for one in page["data"]]
        if "next" not in page["pagination"]:
            break
        query["page[after]"] = page["pagination"]["next"]
    assert seen == ["4", "3", "2", "1", "0"]
    assert (await client.get("/api/v1/deployments", params={"status": "FAILED"})).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"page[size]": "0"}, "from 1 to 100"),
        ({"page[size]": "101"}, "from 1 to 100"),
        ({"page[size]": "x"}, "from 1 to 100"),
        ({"page[after]": "run_1"}, "'run_1'"),
        ({"page[after]": "deployment_99999999999"}, "must be a deployment's id"),
    ],
)
async def test_a_wrong_page_is_400(client: httpx2.AsyncClient, query: dict[str, str], told: str) -> None:
    answer = await client.get("/api/v1/deployments", params=query)
    assert answer.status_code == 400
    assert told in answer.text


@pytest.mark.parametrize(("name", "status", "told"), [("9", 404, "'9'"), ("a b", 400, "'a b'"), ("-", 400, "letters")])
async def test_what_can_t_be_promoted(
    client: httpx2.AsyncClient, engine: Engine, name: str, status: int, told: str
) -> None:
    await start_worker(engine, "1")
    answer = await client.post(f"/api/v1/deployments/{name}/promote")
    assert answer.status_code == status
    assert told in answer.json()["error"]
    assert (await get(client, "/current")).json()["version"] == "1"


async def test_a_public_token_needs_to_write_deployments(
    server: RunningServer, engine: Engine, environment: Environment
) -> None:
    await start_worker(engine, "1")
    await start_worker(engine, "2")
    for scope, reads, writes in (
        ("read:deployments", 200, 403),
        ("write:deployments:1", 403, 200),
        ("write:deployments:2", 403, 403),
        ("read:runs", 403, 403),
    ):
        headers = {"authorization": f"Bearer {mint_token(environment, [scope])}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers) as holder:
            assert (await holder.get("/api/v1/deployments")).status_code == reads, scope
            assert (await holder.post("/api/v1/deployments/1/promote")).status_code == writes, scope


async def test_a_run_says_its_version_and_that_it_waits_for_one(client: httpx2.AsyncClient, engine: Engine) -> None:
    unknown = await trigger(client, "unknown", delay="1h")
    locked = await trigger(client, "t", lockToVersion="2")
    plain = await trigger(client, "t")
    read = {run_id: await retrieve(client, run_id) for run_id in (unknown, locked, plain)}
    assert [run["status"] for run in read.values()] == ["PENDING_VERSION", "PENDING_VERSION", "QUEUED"]
    assert [run.get("version") for run in read.values()] == [None, "2", None]
    assert [(run["isQueued"], run["isExecuting"]) for run in read.values()] == [(True, False)] * 3
    page = (await client.get("/api/v1/runs", params={"filter[status]": "PENDING_VERSION"})).json()["data"]
    assert [run["id"] for run in page] == sorted([unknown, locked], reverse=True)
    lease = await start_worker(engine, "1", "t", "unknown")
    assert (await retrieve(client, unknown))["status"] == "DELAYED"
    assert len(await claim(engine, lease)) == 1
    assert (await retrieve(client, plain))["version"] == "1"
    page = (await client.get("/api/v1/runs", params={"filter[version]": "1"})).json()["data"]
    assert [(run["id"], run["version"]) for run in page] == [(plain, "1")]
    page = (await client.get("/api/v1/runs", params={"filter[version]": "2,3"})).json()["data"]
    assert [run["id"] for run in page] == [locked]


@pytest.mark.parametrize(
    ("version", "told"),
    [("feature/x", "lockToVersion is 'feature/x'"), ("x" * 129, "lockToVersion has 129 characters"), ("", "lockToVersion is ''")],
)  # fmt: skip
async def test_a_wrong_version_to_lock_to_is_refused_and_leaves_nothing(
    client: httpx2.AsyncClient, version: str, told: str
) -> None:
    options = {"lockToVersion": version}
    for path, body in (
        ("/api/v1/tasks/t/trigger", {"options": options}),
        ("/api/v2/tasks/batch", {"items": [{"task": "t", "options": options}]}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code in (400, 422)
        assert told in answer.text
    batch = await create(client, 1)
    answer = await stream(client, batch, item(0, **options))
    assert 400 <= answer.status_code < 500
    assert told in answer.text
    assert (await client.get("/api/v1/runs")).json()["data"] == []


async def test_items_of_a_stream_are_locked_one_by_one(client: httpx2.AsyncClient, engine: Engine) -> None:
    batch = await create(client, 2)
    answer = await stream(client, batch, item(0) + item(1, lockToVersion="2"))
    assert answer.status_code == 200, answer.text
    lease = await start_worker(engine, "1", "t")
    assert [run.batch_index for run in await claim(engine, lease)] == [0]
    lease = await start_worker(engine, "2", "t")
    assert [run.batch_index for run in await claim(engine, lease)] == [1]


async def get(client: httpx2.AsyncClient, path: str) -> httpx2.Response:
    return await client.get(f"/api/v1/deployments{path}")


async def trigger(client: httpx2.AsyncClient, task: str, **options: Any) -> str:
    answer = await client.post(f"/api/v1/tasks/{task}/trigger", json={"payload": 1, "options": options})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def retrieve(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    return (await client.get(f"/api/v3/runs/{run_id}")).json()


async def start_worker(engine: Engine, version: str, *tasks: str) -> WorkerLease:
    known = [TaskRegistration(task, f"task/{task}", 3) for task in tasks or ("t",)]
    return await register_worker(engine, "dev", name="test", tasks=known, version=version)


async def claim(engine: Engine, lease: WorkerLease) -> list[Any]:
    claimed = await claim_runs(engine, lease, tasks=["t"], limit=10)
    assert isinstance(claimed, list)
    return claimed
