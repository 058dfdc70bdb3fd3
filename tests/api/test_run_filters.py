"""What ``filter[...]`` of a list of runs may say, over HTTP, in the client and on the command line."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx2
import pytest
from tests.api.test_runs import trigger
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import AsyncClient, ConfigurationError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("filter[state]=QUEUED", "filter[state] is no filter of this list; there are: filter[batch]"),
        ("filter[status]=DONE", "filter[status] is 'DONE', but must be of: PENDING_VERSION"),
        ("filter[isTest]=yes", "filter[isTest] is 'yes', but must be true or false"),
        ("filter[schedule]=x", "a schedule id"),
        ("filter[bulkAction]=x", "a bulk action id"),
        ("filter[createdAt][period]=soon", "a duration such as 1h30m"),
        ("filter[orderKey]=a%00", "NUL"),
        ("page[sise]=5", "page[size]"),
    ],
)
async def test_what_can_not_be_is_refused_with_what_can(client: httpx2.AsyncClient, query: str, said: str) -> None:
    answer = await client.get(f"/api/v1/runs?{query}")
    assert answer.status_code == 400
    assert said in answer.text.replace("\\", "")


async def test_the_words_of_the_wire(client: httpx2.AsyncClient, server: RunningServer) -> None:
    first = await trigger(client, "a", concurrencyKey="k,1", idempotencyKey="i", test=True, machine="micro")
    second = await trigger(client, "b", orderKey="o", region="eu", queue={"name": "q"})
    for query, meant in {
        "filter[concurrencyKey]=k,1": first,
        "filter[concurrencyKey]=x&filter[concurrencyKey]=k,1": first,
        "filter[idempotencyKey]=i": first,
        "filter[isTest]=true": first,
        "filter[isTest]=false": second,
        "filter[machine]=micro,small-1x": first,
        "filter[orderKey]=o": second,
        "filter[region]=eu": second,
        "filter[queue]=q": second,
    }.items():
        answer = await client.get(f"/api/v1/runs?{query}")
        assert [run["id"] for run in answer.json()["data"]] == [meant], query
    async with AsyncClient(server.url, api_key=server.key) as sdk:
        said: dict[str, Any]
        for said, meant in (({"is_test": True}, first), ({"order_key": ["o"]}, second), ({"task": ["b", "c"]}, second)):
            assert [run["id"] async for run in sdk.iterate_runs(**said, period="1h")] == [meant]
        for wrong in ({"taks": "a"}, {"period": "soon"}, {"created_from": "soon"}):
            with pytest.raises(ConfigurationError):
                await sdk.list_runs(**wrong)


async def test_the_command(client: httpx2.AsyncClient, server: RunningServer) -> None:
    first = await trigger(client, "a", idempotencyKey="i")
    await trigger(client, "b")
    env = clean_environment(api_url=server.url, api_key=server.key)

    async def run(*arguments: str) -> Any:
        return await anyio.to_thread.run_sync(lambda: run_headrace("run", "list", *arguments, env=env))

    told = await run("--idempotency-key", "i", "--period", "1h", "--json")
    assert [one["id"] for one in json.loads(told.stdout)["data"]] == [first], told.stderr
    assert (await run("--status", "DONE")).returncode == 2
    assert (await run("--created-to", "soon")).returncode == 2
    limited = json.loads((await run("--limit", "1", "--json")).stdout)
    rest = json.loads((await run("--after", limited["pagination"]["next"], "--json")).stdout)
    assert [one["id"] for one in rest["data"]] == [first]
