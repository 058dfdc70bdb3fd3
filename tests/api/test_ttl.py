"""Times to live over HTTP, and ``headrace environment ttl``."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.api.support import create, execute, item, stream
from tests.api.test_runs import trigger
from tests.e2e.commands import clean_environment, run_headrace

from headrace.engine.engine import Engine
from headrace.engine.sweeps import sweep_once
from headrace.settings import Settings

pytestmark = pytest.mark.anyio


async def test_an_expired_run_as_it_is_shown(client: httpx2.AsyncClient, engine: Engine) -> None:
    run_id = await trigger(client, ttl="10m")
    await execute(engine, "UPDATE headrace.runs SET expires_at = now()")
    await sweep_once(engine)
    run = (await client.get(f"/api/v3/runs/{run_id}")).json()
    assert (run["status"], run["isFailed"], run["isCompleted"], run["ttl"]) == ("EXPIRED", True, True, "600s")
    assert run["expiredAt"] == run["finishedAt"]
    assert run["error"]["message"] == "The run was not started within its time to live."
    result = (await client.get(f"/api/v1/runs/{run_id}/result")).json()
    assert (result["ok"], result["error"]["code"]) == (False, "TASK_RUN_EXPIRED")
    listed = (await client.get("/api/v1/runs?filter[status]=EXPIRED")).json()["data"]
    assert [one["id"] for one in listed] == [run_id]


@pytest.mark.parametrize(
    ("ttl", "status", "told"),
    [
        ("soon", 422, "ttl: 'soon' is no duration"),
        ("40000d", 422, "at most 36500 days"),
        (-1, 400, "ttl"),
        ({}, 400, "ttl"),
    ],
)
async def test_what_is_no_time_to_live_is_refused_and_leaves_nothing(
    client: httpx2.AsyncClient, engine: Engine, ttl: Any, status: int, told: str
) -> None:
    answer = await client.post("/api/v1/tasks/t/trigger", json={"options": {"ttl": ttl}})
    assert (answer.status_code, told in answer.text) == (status, True), answer.text
    answer = await client.post("/api/v2/tasks/batch", json={"items": [{"task": "t", "options": {"ttl": ttl}}]})
    assert (answer.status_code, told in answer.text) == (status, True), answer.text
    assert await execute(engine, "SELECT FROM headrace.batches") == []
    answer = await stream(client, await create(client, 1), item(0, 1, ttl=ttl))
    assert answer.status_code in {400, 422}
    assert await execute(engine, "SELECT FROM headrace.runs") == []


async def test_the_command_of_environments(engine: Engine, settings: Settings) -> None:
    env = clean_environment(database_url=settings.database_url)

    def told(*arguments: str) -> Any:
        answer = run_headrace("environment", *arguments, "--json", env=env)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    assert told("ttl", "dev", "--default", "10m", "--max", "1d") == [
        {"environment": "dev", "defaultTtl": "600s", "maxTtl": "86400s"}
    ]
    told("ttl", "dev", "--default", "none")
    assert told("list")[0] == {"environment": "dev", "defaultTtl": None, "maxTtl": "86400s"}
    [row] = await execute(engine, "SELECT default_ttl, max_ttl FROM headrace.environments WHERE slug = 'dev'")
    assert tuple(row) == (None, 86_400)
    for arguments, code in (
        (("dev", "--default", "soon"), 2),
        (("nowhere", "--max", "1d"), 4),
        (("dev", "--default", "2d"), 3),
    ):
        assert run_headrace("environment", "ttl", *arguments, env=env).returncode == code
