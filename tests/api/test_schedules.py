"""Schedules over HTTP: in the shapes that published clients know, and what is wrong is said and leaves nothing behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from tests.api.support import execute
from tests.server_fixture import RunningServer

from headrace import Cron
from headrace.api.tokens import mint_token
from headrace.engine import schedules, workers
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.ids import format_schedule_id, task_schedule_id
from headrace.protocol.schedules import CreateSchedule

pytestmark = pytest.mark.anyio

SCHEDULES = "/api/v1/schedules"
PATIENCE = 30.0
NOBODY = "sched_06f3q1c2k8g5m0t7n400000002"
NIGHTLY = {"task": "report", "cron": "30 2 * * *", "deduplicationKey": "nightly", "timezone": "Europe/Berlin"}


async def create(client: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(SCHEDULES, json=NIGHTLY | body)
    assert response.status_code == 200, response.text
    return response.json()


async def retrieve(client: httpx2.AsyncClient, schedule_id: str) -> dict[str, Any]:
    response = await client.get(f"{SCHEDULES}/{schedule_id}")
    assert response.status_code == 200, response.text
    return response.json()


async def count(engine: Engine) -> int:
    return len(await execute(engine, "SELECT FROM headrace.schedules"))


@pytest.fixture
async def declared(engine: Engine) -> str:
    """The id of a schedule that a worker has declared."""
    tasks = [workers.TaskRegistration("coded", "task/coded", 3, cron=Cron("0 * * * *"))]
    await workers.register_worker(engine, "dev", name="test", tasks=tasks)
    return format_schedule_id(task_schedule_id(1, "coded"))


async def test_a_schedule_is_made_and_shown(client: httpx2.AsyncClient) -> None:
    made = await create(client, externalId="mine", catchUp="one", options={"tags": "a", "queue": {"name": "slow"}})
    assert made["id"].startswith("sched_")
    assert datetime.fromisoformat(made["nextRun"]) - datetime.now(UTC) < timedelta(days=1)
    assert made == {
        "id": made["id"],
        "type": "IMPERATIVE",
        "task": "report",
        "active": True,
        "deduplicationKey": "nightly",
        "externalId": "mine",
        "generator": {"type": "CRON", "expression": "30 2 * * *", "description": "At 02:30 every day"},
        "timezone": "Europe/Berlin",
        "nextRun": made["nextRun"],
        "environments": [{"id": "dev", "type": "DEVELOPMENT"}],
        "catchUp": "one",
        "options": {"tags": ["a"], "queue": {"name": "slow"}},
        "createdAt": made["createdAt"],
        "updatedAt": made["createdAt"],
    }
    shown = await retrieve(client, made["id"])
    upcoming = shown.pop("upcoming")
    assert shown == made
    assert upcoming[0] == made["nextRun"]
    assert upcoming == sorted(set(upcoming))
    assert len(upcoming) == 10


async def test_the_same_key_changes_the_schedule(client: httpx2.AsyncClient, engine: Engine) -> None:
    made = await create(client, externalId="mine")
    again = await create(client, cron="*/10 * * * * *", timezone=None)
    assert again["id"] == made["id"]
    assert (again["generator"]["expression"], again["timezone"]) == ("*/10 * * * * *", "UTC")
    assert "externalId" not in again
    assert await count(engine) == 1


async def test_an_update_changes_what_it_names(client: httpx2.AsyncClient) -> None:
    made = await create(client, externalId="mine")
    response = await client.put(f"{SCHEDULES}/{made['id']}", json={"task": "other", "cron": "0 3 * * *"})
    assert response.status_code == 200, response.text
    changed = response.json()
    assert (changed["task"], changed["generator"]["expression"]) == ("other", "0 3 * * *")
    assert (changed["timezone"], changed["externalId"]) == ("Europe/Berlin", "mine")
    response = await client.put(f"{SCHEDULES}/{made['id']}", json={"externalId": None})
    assert "externalId" not in response.json()


async def test_a_schedule_is_switched_off_and_on_and_deleted(client: httpx2.AsyncClient, engine: Engine) -> None:
    made = await create(client)
    off = (await client.post(f"{SCHEDULES}/{made['id']}/deactivate")).json()
    assert (off["active"], off["nextRun"]) == (False, None)
    assert (await retrieve(client, made["id"]))["upcoming"] == []
    on = (await client.post(f"{SCHEDULES}/{made['id']}/activate")).json()
    assert on["active"] is True
    assert on["nextRun"] >= made["nextRun"]
    response = await client.delete(f"{SCHEDULES}/{made['id']}")
    assert (response.status_code, response.json()) == (200, {"id": made["id"]})
    assert (await client.get(f"{SCHEDULES}/{made['id']}")).status_code == 404
    assert await count(engine) == 0


VERBS = (("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/activate"), ("POST", "/deactivate"))


async def test_a_schedule_that_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    for schedule_id in (NOBODY, "sched_x", NOBODY.replace("sched", "run")):
        for method, path in VERBS:
            response = await client.request(method, f"{SCHEDULES}/{schedule_id}{path}", json={})
            assert (response.status_code, response.json()) == (404, {"error": "Schedule not found"})
            assert response.headers["x-should-retry"] == "false"


async def test_a_schedule_of_another_environment_is_not_there(client: httpx2.AsyncClient, engine: Engine) -> None:
    answer = await schedules.create_schedule(engine, 2, CreateSchedule("t", "* * * * *", "k"))
    theirs = format_schedule_id(answer.schedule.id)  # pyright: ignore
    for method, path in VERBS:
        assert (await client.request(method, f"{SCHEDULES}/{theirs}{path}", json={})).status_code == 404
    assert (await client.get(SCHEDULES)).json()["data"] == []


async def test_pages_have_numbers(client: httpx2.AsyncClient) -> None:
    assert (await client.get(SCHEDULES)).json() == {
        "data": [],
        "pagination": {"currentPage": 1, "totalPages": 0, "count": 0},
    }
    made = [await create(client, deduplicationKey=str(n), task=f"t{n % 2}") for n in range(5)]
    newest = sorted((one["id"] for one in made), reverse=True)
    for page, expected in ((1, newest[:2]), (3, newest[4:]), (4, [])):
        answer = (await client.get(SCHEDULES, params={"page": page, "perPage": 2})).json()
        assert [one["id"] for one in answer["data"]] == expected
        assert answer["pagination"] == {"currentPage": page, "totalPages": 3, "count": 5}
    answer = (await client.get(SCHEDULES, params={"filter[task]": "t1"})).json()
    assert {one["task"] for one in answer["data"]} == {"t1"}
    assert answer["pagination"]["count"] == 2


async def test_a_wrong_page_is_refused(client: httpx2.AsyncClient) -> None:
    for query in ("page=0", "page=x", "page=1000001", "perPage=0", "perPage=101", "perPage=-1"):
        response = await client.get(f"{SCHEDULES}?{query}")
        assert response.status_code == 400
        assert "must be a whole number from 1 to" in response.json()["details"][0]["message"]


WRONG: list[tuple[dict[str, Any], int, str]] = [
    ({"cron": "61 * * * *"}, 422, "cron is '61 * * * *': its minute is '61', but can be *, 0 to 59"),
    ({"cron": "* * *"}, 422, "which has 3 fields, but must have five"),
    ({"cron": "0 0 31 2 *"}, 422, "no date ever matches"),
    ({"cron": ""}, 422, "which has 0 fields"),
    ({"cron": 5}, 400, 'Expected `str`, got `int` at "cron"'),
    ({"timezone": "Europe/Berln"}, 422, "Did you mean 'Europe/Berlin'?"),
    ({"catchUp": "some"}, 422, "catchUp is 'some', but must be one of: skip, one, all"),
    ({"task": ""}, 400, 'at "task"'),
    ({"task": "x" * 129}, 400, 'at "task"'),
    ({"task": "a\0"}, 400, "NUL"),
    ({"deduplicationKey": ""}, 400, 'at "deduplicationKey"'),
    ({"deduplicationKey": None}, 400, 'at "deduplicationKey"'),
    ({"externalId": "x" * 513}, 400, 'at "externalId"'),
    ({"options": {"tags": ["x"] * 11}}, 400, "a run has at most 10 tags"),
    ({"options": {"delay": "soon"}}, 422, "delay is 'soon'"),
    ({"options": {"ttl": "soon"}}, 422, "'soon' is no duration"),
    ({"options": {"maxAttempts": 0}}, 400, 'at "options.maxAttempts"'),
]


async def test_what_is_wrong_is_said_and_nothing_is_left(client: httpx2.AsyncClient, engine: Engine) -> None:
    for body, status, told in WRONG:
        response = await client.post(SCHEDULES, json=NIGHTLY | body)
        assert response.status_code == status, response.text
        assert told in response.json()["error"]
    assert await count(engine) == 0


async def test_what_is_wrong_changes_nothing(client: httpx2.AsyncClient) -> None:
    made = await create(client)
    for body, status, told in WRONG:
        if "deduplicationKey" in body:  # which an update does not know
            continue
        response = await client.put(f"{SCHEDULES}/{made['id']}", json=body)
        assert response.status_code == status, response.text
        assert told in response.json()["error"]
    kept = await retrieve(client, made["id"])
    del kept["upcoming"]
    assert kept == made


async def test_what_has_to_be_given_is_named(client: httpx2.AsyncClient) -> None:
    for missing in ("task", "cron", "deduplicationKey"):
        given = {name: value for name, value in NIGHTLY.items() if name != missing}
        response = await client.post(SCHEDULES, json=given)
        assert response.status_code == 400
        assert f"`{missing}`" in response.json()["error"]


async def test_what_code_declares_is_shown_and_refused_to_be_changed(client: httpx2.AsyncClient, declared: str) -> None:
    shown = await retrieve(client, declared)
    assert (shown["type"], shown["task"], "deduplicationKey" in shown) == ("DECLARATIVE", "coded", False)
    for response in (
        await client.put(f"{SCHEDULES}/{declared}", json={"cron": "* * * * *"}),
        await client.delete(f"{SCHEDULES}/{declared}"),
    ):
        assert response.status_code == 409
        assert response.headers["x-should-retry"] == "false"
        assert "declared in the code of its task" in response.json()["error"]
    assert await retrieve(client, declared) == shown
    assert (await client.post(f"{SCHEDULES}/{declared}/deactivate")).json()["active"] is False


async def test_time_zones_are_listed(client: httpx2.AsyncClient) -> None:
    names = (await client.get("/api/v1/timezones")).json()["timezones"]
    assert names[0] == "UTC"
    assert {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} < set(names)
    without = (await client.get("/api/v1/timezones", params={"excludeUtc": "true"})).json()["timezones"]
    assert without == names[1:]


@pytest.mark.parametrize(
    ("scope", "read", "write"),
    [("read:schedules", 200, 403), ("write:schedules", 403, 200), ("read:runs", 403, 403), ("admin", 200, 200)],
)
async def test_a_public_token_may_do_what_its_scopes_say(
    client: httpx2.AsyncClient, server: RunningServer, environment: Environment, scope: str, read: int, write: int
) -> None:
    made = await create(client)
    headers = {"authorization": f"Bearer {mint_token(environment, [scope])}"}
    path = f"{SCHEDULES}/{made['id']}"
    reads = [await client.get(target, headers=headers) for target in (SCHEDULES, path)]
    writes = [
        await client.post(SCHEDULES, json=NIGHTLY, headers=headers),
        await client.put(path, json={"cron": "* * * * *"}, headers=headers),
        await client.post(f"{path}/deactivate", headers=headers),
        await client.post(f"{path}/activate", headers=headers),
        await client.delete(path, headers=headers),
    ]
    assert {response.status_code for response in reads} == {read}
    assert {response.status_code for response in writes} == {write}
    async with httpx2.AsyncClient(base_url=server.url) as stranger:
        assert (await stranger.get(SCHEDULES)).status_code == 401
        assert (await stranger.get("/api/v1/timezones")).status_code == 200  # published clients send no key


async def test_the_server_makes_the_runs(client: httpx2.AsyncClient, engine: Engine) -> None:
    made = await create(client, cron="* * * * * *", externalId="mine")
    shown = made
    async with asyncio.timeout(PATIENCE):  # not so many looks: 500 have been answered before the first second was over
        while "lastRunId" not in shown:
            shown = await retrieve(client, made["id"])
            assert shown["nextRun"] >= made["nextRun"]
    run = (await client.get(f"/api/v3/runs/{shown['lastRunId']}")).json()
    assert run["taskIdentifier"] == "report"
    assert run["payload"]["scheduleId"] == made["id"]
    assert run["payload"]["timestamp"].replace("Z", ".000Z") == shown["lastRun"]
    assert run["schedule"] == {
        "id": made["id"],
        "externalId": "mine",
        "deduplicationKey": "nightly",
        "generator": {"type": "CRON", "expression": "* * * * * *", "description": "Every second"},
    }
    await client.delete(f"{SCHEDULES}/{made['id']}")
    assert "schedule" not in (await client.get(f"/api/v3/runs/{shown['lastRunId']}")).json()
