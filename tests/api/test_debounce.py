"""Debounce over HTTP: one run, what it was given, and the objects of large payloads; the client and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.api.support import create, execute, item, stream
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import AsyncClient, Debounce
from headrace.engine.engine import Engine
from headrace.settings import Settings

pytestmark = pytest.mark.anyio

LARGE = 10_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, offload_threshold=2048)


async def post(client: httpx2.AsyncClient, payload: Any = 1, **debounce: Any) -> httpx2.Response:
    options = {"debounce": {"key": "k", "delay": "1h", **debounce}}
    return await client.post("/api/v1/tasks/t/trigger", json={"payload": payload, "options": options})


async def test_the_second_trigger_is_answered_with_the_first_ones_run(client: httpx2.AsyncClient) -> None:
    first, second = await post(client, "a"), await post(client, "b")
    assert (first.status_code, first.json()["isCached"]) == (200, False)
    assert (second.status_code, second.json()) == (200, {"id": first.json()["id"], "isCached": True})
    third = await post(client, "c", mode="trailing")
    assert third.json() == second.json()
    run = (await client.get(f"/api/v3/runs/{first.json()['id']}")).json()
    assert (run["payload"], "delayedUntil" in run) == ("c", True)


@pytest.mark.parametrize(
    ("given", "status", "told"),
    [
        ({"delay": "2027-01-01T00:00:00Z"}, 422, "debounce.delay is '2027-01-01T00:00:00Z': give a duration"),
        ({"maxDelay": "1h"}, 422, "debounce.maxDelay is '1h', but must be more than debounce.delay, '1h'"),
        ({"mode": "both"}, 400, "mode"),
        ({"key": "k" * 513}, 400, "512"),
        ({"key": ""}, 400, "key"),
        ({"delay": 5}, 400, "delay"),
    ],
)
async def test_what_can_not_be_is_refused_and_leaves_nothing(
    client: httpx2.AsyncClient, engine: Engine, given: dict[str, Any], status: int, told: str
) -> None:
    answer = await post(client, **given)
    assert (answer.status_code, told in answer.text) == (status, True), answer.text
    assert await execute(engine, "SELECT FROM headrace.runs") == []


async def test_items_of_batches_may_be_debounced(client: httpx2.AsyncClient, engine: Engine) -> None:
    debounce = {"key": "k", "delay": "1h"}
    body = {"items": [{"task": "t", "options": {"debounce": debounce}}] * 2}
    answer = await client.post("/api/v2/tasks/batch", json=body)
    assert answer.status_code in (200, 202), answer.text
    answer = await stream(client, await create(client, 1), item(0, 1, debounce=debounce))
    assert (answer.status_code, answer.json()["sealed"]) == (200, True)
    assert len(await execute(engine, "SELECT FROM headrace.runs")) == 1


async def test_an_item_whose_debounce_can_not_be_is_refused(client: httpx2.AsyncClient, engine: Engine) -> None:
    answer = await stream(client, await create(client, 1), item(0, 1, debounce={"key": "k", "delay": "soon"}))
    assert (answer.status_code, "debounce.delay is 'soon'" in answer.text) == (422, True)
    assert await execute(engine, "SELECT FROM headrace.runs") == []


async def test_of_large_payloads_only_the_one_that_counts_is_kept(
    client: httpx2.AsyncClient, server: RunningServer
) -> None:
    def stored() -> int:
        files = Path(server.settings.data_dir).rglob("*")
        return sum(1 for file in files if file.is_file() and file.stat().st_size >= LARGE)

    run_id = (await post(client, "a" * LARGE)).json()["id"]
    assert stored() == 1
    for mode, kept in (("leading", "a"), ("trailing", "b"), ("trailing", "c")):
        assert (await post(client, ("b" if kept == "a" else kept) * LARGE, mode=mode)).json()["id"] == run_id
        assert stored() == 1
        assert (await client.get(f"/api/v3/runs/{run_id}")).json()["payload"] == kept * LARGE


async def test_the_client_and_the_command(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        handles = [
            await sdk.trigger("t", n, debounce=Debounce("k", "1h", "trailing", max_delay="2h")) for n in range(3)
        ]
        assert len({handle.id for handle in handles}) == 1
        assert (await handles[0].retrieve())["payload"] == 2
    env = clean_environment(api_url=server.url, api_key=server.key)
    asked = ("run", "trigger", "t", "--debounce-key", "k", "--debounce-mode", "trailing")
    told = run_headrace(*asked, "--debounce-delay", "1h", "--json", env=env)
    assert (told.returncode, json.loads(told.stdout)["id"]) == (0, handles[0].id), told.stderr
    assert run_headrace(*asked, env=env).returncode == 2
