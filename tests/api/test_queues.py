"""Queues over HTTP: shown as the wire has it, declared, paused, limited; wrong input says what is wrong and leaves nothing."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from tests.api.support import execute, finish_all
from tests.server_fixture import RunningServer

from headrace.engine.engine import Engine
from headrace.engine.queues import declare_queue
from headrace.engine.workers import TaskRegistration, register_worker
from headrace.errors import ApiError, ConfigurationError
from headrace.protocol.queues import format_queue_id, parse_queue_id
from headrace.queues import Queue
from headrace.sdk import AsyncClient
from headrace.tasks import task

pytestmark = pytest.mark.anyio

LIMITED = Queue("gpu", concurrency_limit=4, key_limit=2, rate_limit=(10, "1m"), rate_by_key=True)


async def trigger(client: httpx2.AsyncClient, task_id: str, **options: Any) -> str:
    response = await client.post(f"/api/v1/tasks/{task_id}/trigger", json={"payload": 1, "options": options})
    assert response.status_code == 200, response.text
    return response.json()["id"]


async def post(client: httpx2.AsyncClient, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    response = await client.post(f"/api/v1/{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


async def test_a_queue_is_shown_as_published_clients_read_it(client: httpx2.AsyncClient, engine: Engine) -> None:
    await declare_queue(engine, 1, LIMITED)
    await trigger(client, "t", queue={"name": "gpu"}, concurrencyKey="a")
    answer = await client.get("/api/v1/queues/gpu?type=custom")
    assert answer.status_code == 200
    assert answer.json() == {
        "id": format_queue_id("gpu"),
        "name": "gpu",
        "type": "custom",
        "running": 0,
        "queued": 1,
        "paused": False,
        "concurrencyLimit": 4,
        "concurrency": {"current": 4, "base": 4, "override": None, "overriddenAt": None, "overriddenBy": None},
        "keyLimit": 2,
        "rateLimit": {"limit": 10, "period": 60.0, "perKey": True},
        "releaseConcurrencyOnWaitpoint": True,
        "version": "V1",
    }
    assert (await client.get(f"/api/v1/queues/{answer.json()['id']}")).json() == answer.json()


async def test_the_queue_of_a_task_is_found_by_the_task(client: httpx2.AsyncClient, engine: Engine) -> None:
    await trigger(client, "resize")
    await trigger(client, "resize")
    for path in ("resize?type=task", f"{quote('task%2Fresize', safe='')}?type=task", "task%252Fresize?type=custom"):
        found = (await client.get(f"/api/v1/queues/{path}")).json()
        assert (found["name"], found["type"], found["queued"], found["concurrencyLimit"]) == ("resize", "task", 2, None)
    lease = await register_worker(engine, "dev", name="w", tasks=[])
    from headrace.engine.claims import claim_runs  # noqa: PLC0415 - only here

    assert len(await claim_runs(engine, lease, tasks=["resize"], limit=1)) == 1  # pyright: ignore[reportArgumentType]
    found = (await client.get("/api/v1/queues/resize?type=task")).json()
    assert (found["running"], found["queued"]) == (1, 1)


async def test_queues_are_listed_by_page(client: httpx2.AsyncClient, engine: Engine) -> None:
    await execute(engine, "DELETE FROM headrace.tasks")  # those that each test here begins with
    for name in ("b", "a", "d"):
        await declare_queue(engine, 1, Queue(name, concurrency_limit=1))
    await trigger(client, "c")
    await register_worker(engine, "dev", name="w", tasks=[TaskRegistration("e", "task/e", 3)])
    first = (await client.get("/api/v1/queues?page=1&perPage=3")).json()
    rest = (await client.get("/api/v1/queues?page=2&perPage=3")).json()
    assert [(one["type"], one["name"]) for one in first["data"]] == [("custom", "a"), ("custom", "b"), ("custom", "d")]
    assert [(one["type"], one["name"]) for one in rest["data"]] == [("task", "c"), ("task", "e")]
    assert rest["pagination"] == {"currentPage": 2, "totalPages": 2, "count": 5}
    beyond = (await client.get("/api/v1/queues?page=9&perPage=3")).json()
    assert beyond == {"data": [], "pagination": {"currentPage": 9, "totalPages": 2, "count": 5}}
    assert len((await client.get("/api/v1/queues?perPage=5000")).json()["data"]) == 5


async def test_a_paused_queue_starts_nothing(client: httpx2.AsyncClient, engine: Engine) -> None:
    await trigger(client, "t", queue={"name": "slow"})
    await trigger(client, "t")
    paused = await post(client, "queues/slow/pause", {"type": "custom", "action": "pause"})
    assert (paused["paused"], paused["queued"]) == (True, 1)
    assert await finish_all(engine) == 1
    assert await finish_all(engine) == 0
    assert not (await post(client, "queues/slow/pause", {"type": "custom", "action": "resume"}))["paused"]
    assert await finish_all(engine) == 1


async def test_a_limit_goes_over_the_declared_one_until_it_is_reset(client: httpx2.AsyncClient, engine: Engine) -> None:
    await declare_queue(engine, 1, LIMITED)
    path = f"queues/{format_queue_id('gpu')}/concurrency"
    assert (await post(client, f"{path}/override", {"concurrencyLimit": 0}))["concurrency"]["current"] == 0
    over = (await post(client, f"{path}/override", {"concurrencyLimit": 7}))["concurrency"]
    assert (over["current"], over["base"], over["override"], over["overriddenBy"]) == (7, 4, 7, None)
    assert over["overriddenAt"].endswith("Z")
    declared = Queue("gpu", concurrency_limit=5)
    assert (await declare_queue(engine, 1, declared)).limit == 7  # new code does not take an operator's word back
    back = await post(client, f"{path}/reset", {})
    assert back["concurrency"] == {
        "current": 5,
        "base": 5,
        "override": None,
        "overriddenAt": None,
        "overriddenBy": None,
    }
    assert (await post(client, f"{path}/reset", {}, 400))["error"] == "Queue is not overridden"


async def test_a_percentage_is_of_the_environments_limit_and_follows_it(
    client: httpx2.AsyncClient, engine: Engine
) -> None:
    await declare_queue(engine, 1, LIMITED)
    path = f"queues/{format_queue_id('gpu')}"
    refused = await post(client, f"{path}/concurrency/override", {"percent": 50}, 400)
    assert "the environment has none" in refused["error"]
    assert (await post(client, "environment/concurrency", {"concurrencyLimit": 9}))["concurrencyLimit"] == 9
    assert (await post(client, f"{path}/concurrency/override", {"percent": 50}))["concurrencyLimit"] == 4
    await post(client, "environment/concurrency", {"concurrencyLimit": 100})
    assert (await client.get(f"/api/v1/{path}")).json()["concurrencyLimit"] == 50
    await post(client, "environment/concurrency", {"concurrencyLimit": 1})
    assert (await client.get(f"/api/v1/{path}")).json()["concurrencyLimit"] == 1
    told = (await post(client, f"{path}/concurrency/override", {"concurrencyLimit": 2}, 400))["error"]
    assert told == "concurrencyLimit is 2, but the highest limit of the environment is 1"
    assert (await post(client, "environment/concurrency", {"concurrencyLimit": None}))["concurrencyLimit"] is None


async def test_the_environment_is_paused_and_limited(client: httpx2.AsyncClient, engine: Engine) -> None:
    await trigger(client, "t")
    await trigger(client, "t")
    await post(client, "environment/pause", {"action": "pause"})
    assert await finish_all(engine) == 0
    state = (await client.get("/api/v1/environment")).json()
    assert (state["slug"], state["paused"], state["queued"], state["running"]) == ("dev", True, 2, 0)
    await post(client, "environment/pause", {"action": "resume"})
    await post(client, "environment/concurrency", {"concurrencyLimit": 1})
    assert await finish_all(engine) == 1


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (
            "queues/gpu/pause",
            {"type": "custom", "action": "stop"},
            "Invalid enum value 'stop', must be one of: pause, resume at \"action\"",
        ),
        (
            "queues/gpu/pause",
            {"type": "named", "action": "pause"},
            "Invalid enum value 'named', must be one of: custom, id, task at \"type\"",
        ),
        ("queues/gpu/concurrency/override", {"type": "custom"}, "Provide exactly one of"),
        ("queues/gpu/concurrency/override", {"type": "custom", "concurrencyLimit": 1, "percent": 5}, "exactly one of"),
        ("queues/gpu/concurrency/override", {"type": "custom", "concurrencyLimit": -1}, 'at "concurrencyLimit"'),
        ("queues/gpu/concurrency/override", {"type": "custom", "concurrencyLimit": 100_001}, "<= 100000"),
        ("queues/gpu/concurrency/override", {"type": "custom", "percent": 0}, 'at "percent"'),
        ("environment/concurrency", {"concurrencyLimit": -5}, 'at "concurrencyLimit"'),
        ("environment/concurrency", {}, "missing required field `concurrencyLimit`"),
        ("environment/pause", {"action": None}, 'at "action"'),
    ],
)
async def test_wrong_input_is_told_and_changes_nothing(
    client: httpx2.AsyncClient, engine: Engine, path: str, body: dict[str, Any], told: str
) -> None:
    await declare_queue(engine, 1, LIMITED)
    [before] = await execute(engine, "SELECT * FROM headrace.queues")
    assert told in (await post(client, path, body, 400))["error"]
    [after] = await execute(engine, "SELECT * FROM headrace.queues")
    assert dict(before) == dict(after)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"concurrencyLimit": -1}, 'at "concurrencyLimit"'),
        ({"keyLimit": 0}, 'at "keyLimit"'),
        ({"rateLimit": {"limit": 0, "period": 1}}, 'at "rateLimit.limit"'),
        ({"rateLimit": {"limit": 5, "period": "soon"}}, "'soon' is no duration"),
        ({"rateLimit": {"limit": 5, "period": 0}}, "must be from 1ms to 31d"),
        ({"rateLimit": {"limit": 5}}, "missing required field `period`"),
    ],
)
async def test_a_declaration_that_can_t_be_leaves_no_queue(
    client: httpx2.AsyncClient, engine: Engine, body: dict[str, Any], told: str
) -> None:
    answer = await client.put("/api/v1/queues/new", json={"type": "custom", **body})
    assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text
    assert not await execute(engine, "SELECT FROM headrace.queues")


@pytest.mark.parametrize("path", ["nothing?type=custom", "nothing?type=task", "queue_0?type=id", "nothing"])
async def test_a_queue_that_nobody_knows_is_not_found(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.get(f"/api/v1/queues/{path}")
    assert (answer.status_code, answer.json()) == (404, {"error": "Queue not found"})
    name, _, kind = path.partition("?type=")
    body = {"type": kind or "id", "action": "pause"}
    assert (await client.post(f"/api/v1/queues/{name}/pause", json=body)).status_code == 404


async def test_a_wrong_type_or_page_is_told(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/v1/queues/x?type=named")).json()["details"][0]["message"].startswith("type must be")
    for query in ("page=0", "perPage=0", "page=x"):
        assert (await client.get(f"/api/v1/queues?{query}")).status_code == 400


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\u0000b", " a"])
async def test_a_trigger_on_a_queue_that_can_t_be_is_refused(
    client: httpx2.AsyncClient, engine: Engine, name: str
) -> None:
    body = {"payload": 1, "options": {"queue": {"name": name}}}
    answer = await client.post("/api/v1/tasks/t/trigger", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert not await execute(engine, "SELECT FROM headrace.runs")


async def test_a_run_with_an_empty_concurrency_key_has_none(client: httpx2.AsyncClient, engine: Engine) -> None:
    await trigger(client, "t", concurrencyKey="")
    [row] = await execute(engine, "SELECT concurrency_key, options FROM headrace.runs")
    assert tuple(row) == (None, None)


async def test_the_client_does_what_the_routes_do(server: RunningServer, engine: Engine) -> None:
    @task(id="queues.mine")
    async def mine() -> None: ...

    async with AsyncClient(server.url, api_key=server.key) as client:
        made = await client.declare_queue(
            Queue("a/b", concurrency_limit=3, rate_limit=(5, 2), keep_slot_while_waiting=True)
        )
        assert (made["concurrencyLimit"], made["releaseConcurrencyOnWaitpoint"]) == (3, False)
        assert made["rateLimit"] == {"limit": 5, "period": 2.0, "perKey": False}
        assert (await client.retrieve_queue("a/b")) == made
        assert (await client.list_queues())["pagination"]["count"] == 1
        assert (await client.limit_queue("a/b", 1))["concurrencyLimit"] == 1
        assert (await client.reset_queue("a/b"))["concurrencyLimit"] == 3
        assert (await client.pause_queue("a/b"))["paused"]
        assert not (await client.resume_queue(Queue("a/b")))["paused"]
        await client.trigger(mine)
        assert (await client.pause_queue(mine))["name"] == "queues.mine"
        assert (await client.limit_environment(5))["concurrencyLimit"] == 5
        assert (await client.pause_environment())["paused"]
        assert not (await client.resume_environment())["paused"]
        assert (await client.retrieve_environment())["concurrencyLimit"] == 5
        assert (await client.limit_queue("a/b", percent=20))["concurrencyLimit"] == 1
        with pytest.raises(ApiError, match="Queue not found"):
            await client.retrieve_queue("nothing")
        wrongs: tuple[dict[str, Any], ...] = ({}, {"limit": 1, "percent": 5.0})
        for wrong in wrongs:
            with pytest.raises(ConfigurationError, match="and not both"):
                await client.limit_queue("a/b", **wrong)
        with pytest.raises(ConfigurationError, match="without a name"):
            await client.retrieve_queue(Queue(concurrency_limit=1))


@pytest.mark.parametrize("name", ["gpu", "task/resize", "a", "ü/€ 3", "x" * 128])
def test_an_id_spells_its_queue(name: str) -> None:
    made = format_queue_id(name)
    assert parse_queue_id(made) == name
    assert parse_queue_id(made.upper()) is None
    assert parse_queue_id(made + "0") != name


@pytest.mark.parametrize("text", ["", "queue_", "queue_!", "queue_0", "run_0", "queue_" + "0" * 1000, "queue_é"])
def test_what_is_no_id_spells_none(text: str) -> None:
    assert parse_queue_id(text) is None
