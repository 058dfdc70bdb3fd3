"""Schedules from the command line and from both clients, on a real server."""

from __future__ import annotations

import json

import pytest
from tests.e2e.commands import clean_environment, run_headrace
from tests.server_fixture import RunningServer

from headrace import ApiError, AsyncClient, Client, ConfigurationError, Cron, task

NOBODY = "sched_06f3q1c2k8g5m0t7n400000002"


@task(id="scheduled-by-client", queue="slow", cron=Cron("0 2 * * *"))
def report() -> None: ...


@pytest.fixture
def env(server: RunningServer) -> dict[str, str]:
    """What a user's shell says of headrace, with a server that answers to it."""
    return clean_environment(api_url=server.url, api_key=server.key)


def test_a_schedule_is_made_shown_changed_switched_and_deleted(env):
    made = run_headrace(
        "schedule", "create", "report", "30 2 * * *", "--key", "nightly", "--timezone", "Europe/Berlin", "--external-id", "mine",
        "--catch-up", "one", "--options", '{"tags": ["nightly"], "ttl": "1h"}', "--json", env=env,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    schedule = json.loads(made.stdout)
    assert (schedule["task"], schedule["timezone"], schedule["catchUp"]) == ("report", "Europe/Berlin", "one")
    assert schedule["options"] == {"tags": ["nightly"], "ttl": "3600s"}

    shown = run_headrace("schedule", "show", schedule["id"], env=env)
    assert shown.returncode == 0
    for words in ("At 02:30 every day", "Europe/Berlin", schedule["nextRun"], "nightly", "mine", "one", "3600s"):
        assert words in shown.stdout

    changed = run_headrace("schedule", "update", schedule["id"], "--cron", "0 3 * * *", "--json", env=env)
    assert json.loads(changed.stdout)["generator"]["expression"] == "0 3 * * *"
    assert json.loads(changed.stdout)["externalId"] == "mine"

    off = run_headrace("schedule", "deactivate", schedule["id"], env=env | {"HEADRACE_SCHEDULE_ID": "x"})
    assert off.returncode == 0
    assert "active       no" in off.stdout
    on = run_headrace("schedule", "activate", "--json", env=env | {"HEADRACE_SCHEDULE_ID": schedule["id"]})
    assert json.loads(on.stdout)["active"] is True

    for cron in ("0 4 * * *", "0 5 * * *"):  # without a key, the task has one
        other = json.loads(run_headrace("schedule", "create", "bare", cron, "--json", env=env).stdout)
    assert (other["deduplicationKey"], other["generator"]["expression"]) == ("bare", "0 5 * * *")
    pages = json.loads(run_headrace("schedule", "list", "--json", env=env).stdout)["pagination"]
    assert pages["count"] == 2

    listed = run_headrace("schedule", "list", env=env)
    for words in (schedule["id"], "report", "0 3 * * *", "yes", "nightly"):
        assert words in listed.stdout
    assert json.loads(run_headrace("schedule", "list", "--task", "other", "--json", env=env).stdout)["data"] == []

    gone = run_headrace("schedule", "delete", schedule["id"], env=env)
    assert (gone.returncode, gone.stdout) == (0, f"Schedule {schedule['id']} is deleted.\n")
    missing = run_headrace("schedule", "show", schedule["id"], env=env)
    assert missing.returncode == 4
    assert f"There is no schedule {schedule['id']}" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "t", "61 * * * *", "--key", "k"), "its minute is '61', but can be *, 0 to 59"),
        (("create", "t", "* * * * *", "--key", "k", "--timezone", "Berlin"), "timezone is 'Berlin'"),
        (("create", "t", "* * * * *", "--key", "k", "--catch-up", "some"), "skip, one, all"),
        (("create", "t", "* * * * *", "--key", "k", "--options", "tags"), "--options is no JSON object"),
        (("create", "t", "* * * * *", "--key", "k", "--options", '{"tag": "x"}'), "There is no option 'tag'"),
        (("create", "t"), "CRON"),
        (("list", "--limit", "0"), "perPage must be a whole number from 1 to 100"),
    ],
)
def test_what_is_wrong_is_said(env, arguments, told):
    refused = run_headrace("schedule", *arguments, env=env)
    assert refused.returncode == 2
    assert told in refused.stderr


def test_the_client(server: RunningServer) -> None:
    with Client(server.url, api_key=server.key) as client:
        made = client.create_schedule(
            report, "0 9 * * MON-FRI", deduplication_key="k", timezone="Europe/Berlin", tags=["a"]
        )
        assert made["options"] == {"tags": ["a"]}  # the task's own queue is looked up at each tick
        assert client.create_schedule("other", "0 9 * * *", deduplication_key="k")["id"] == made["id"]
        changed = client.update_schedule(made["id"], cron="0 10 * * *", priority=5)
        assert (changed["task"], changed["options"]) == ("other", {"priority": 5.0})
        assert client.deactivate_schedule(made["id"])["active"] is False
        assert client.activate_schedule(made["id"])["active"] is True
        assert client.retrieve_schedule(made["id"])["upcoming"][0] == changed["nextRun"]
        assert [one["id"] for one in client.list_schedules(task="other")["data"]] == [made["id"]]
        assert client.list_schedules(page=2, per_page=1)["pagination"]["totalPages"] == 1
        assert client.list_timezones()[0] == "UTC"
        client.delete_schedule(made["id"])
        with pytest.raises(ApiError, match="Schedule not found"):
            client.retrieve_schedule(made["id"])
        with pytest.raises(ConfigurationError, match="its minute is '61'"):
            client.create_schedule("t", "61 * * * *", deduplication_key="k")
        with pytest.raises(ApiError, match="timezone is 'Berlin'"):
            client.create_schedule("t", "* * * * *", deduplication_key="k", timezone="Berlin")


@pytest.mark.anyio
async def test_the_client_for_an_event_loop(server: RunningServer) -> None:
    async with AsyncClient(server.url, api_key=server.key) as client:
        made = await client.create_schedule("t", "0 9 * * *", deduplication_key="k", catch_up="all", external_id="mine")
        changed = await client.update_schedule(made["id"], external_id="yours")
        assert (changed["externalId"], changed["catchUp"]) == ("yours", "all")
        assert (await client.deactivate_schedule(made["id"]))["active"] is False
        assert (await client.activate_schedule(made["id"]))["active"] is True
        assert (await client.retrieve_schedule(made["id"]))["id"] == made["id"]
        assert (await client.list_schedules())["pagination"]["count"] == 1
        assert "Europe/Berlin" in await client.list_timezones()
        await client.delete_schedule(made["id"])
        with pytest.raises(ApiError):
            await client.delete_schedule(NOBODY)
