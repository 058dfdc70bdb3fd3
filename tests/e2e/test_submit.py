"""client.submit against a real server: all runs in one transaction, or none; once, whatever is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import execute_sql
from tests.e2e.client_jobs import ALL, double, fail
from tests.e2e.test_client import check_invariants
from tests.e2e.worker_thread import running_worker
from tests.server_fixture import RunningServer, running_server

from headrace import AsyncClient, BatchTriggerError, Client, Failed, Item, Ok
from headrace.sdk.effects import Broken, Flow, Send
from headrace.sdk.flows import SealedBatch
from headrace.sdk.submissions import submit_batch
from headrace.settings import Settings


@pytest.fixture
def client(server: RunningServer) -> Generator[Client]:
    with Client(server.url, api_key=server.key) as opened:
        yield opened


def count(url: str, table: str) -> int:
    return execute_sql(url, f"SELECT count(*) AS n FROM headrace.{table}")[0]["n"]


def lose_answers(flow: Flow[SealedBatch], number: int) -> Flow[SealedBatch]:
    """The flow, of whose requests the first so many are answered and the answers lost on the way. Nobody waits."""
    effect = next(flow)
    try:
        while True:
            answer: Any = None
            if isinstance(effect, Send):
                answer = yield effect
                if number > 0:
                    number -= 1
                    answer = Broken(OSError("the answer was lost"))
            effect = flow.send(answer)
    except StopIteration as stop:
        return stop.value


def test_a_batch_is_made_whole_and_its_results_come_in_order(client: Client, settings: Settings):
    batch = client.submit(double, [1, 2, Item("oh no", task=fail), Item(4, tags=["b"])], tags=["a"])
    assert batch.run_count == 4
    with running_worker(settings, *ALL):
        outcomes = list(batch.results())
    match outcomes:
        case [Ok(0, _, 2), Ok(1, _, 4), Failed(2, _, "FAILED"), Ok(3, _, 8)]:
            pass
        case _:
            pytest.fail(str(outcomes))
    assert [client.retrieve_run(outcomes[index].run_id)["tags"] for index in (0, 3)] == [["a"], ["b"]]
    ended = batch.wait(timeout=60)
    assert (ended["status"], ended["progress"]) == (
        "COMPLETED",
        {"accepted": 4, "settled": 4, "succeeded": 3, "failed": 1},
    )
    check_invariants(settings.database_url)


def test_a_lost_answer_makes_no_second_batch(client: Client, settings: Settings):
    made = client.run_flow(lose_answers(submit_batch(double, [1, 2, 3], {}), 2))
    assert made.run_count == 3
    assert (count(settings.database_url, "batches"), count(settings.database_url, "runs")) == (1, 3)


def test_two_calls_without_a_key_are_two_batches(client: Client, settings: Settings):
    assert client.submit(double, [1]).id != client.submit(double, [1]).id
    assert count(settings.database_url, "batches") == 2


def test_a_key_leads_back_to_its_batch_and_refuses_another(client: Client, settings: Settings):
    first = client.submit(double, [1, 2], batch_key="monday", batch_key_ttl="40d")
    again = client.submit(double, [1, 2], batch_key="monday", batch_key_ttl="40d")
    assert (again.id, again.run_count) == (first.id, 2)
    for other in ([1, 3], [1, 2, 3], [1, Item(2, tags=["b"])]):
        with pytest.raises(BatchTriggerError) as raised:
            client.submit(double, other, batch_key="monday", batch_key_ttl="40d")
        assert (raised.value.phase, raised.value.status) == ("create", 409)
    assert (count(settings.database_url, "batches"), count(settings.database_url, "runs")) == (1, 2)


def test_fifty_calls_with_one_key_at_once_make_one_batch(client: Client, settings: Settings):
    with ThreadPoolExecutor(10) as threads:
        calls = [threads.submit(client.submit, double, [1, 2, 3], batch_key="one") for _ in range(50)]
        assert len({call.result().id for call in calls}) == 1
    assert (count(settings.database_url, "batches"), count(settings.database_url, "runs")) == (1, 3)


@pytest.mark.parametrize(
    ("limits", "items"),
    [({"one_shot_max_items": 3}, [1, 2, 3, 4]), ({"body_max_size": 1024}, [Item("x" * 1100, task=fail), 1])],
)
def test_above_the_limit_nothing_is_made_and_batch_trigger_is_named(
    settings: Settings, limits: dict[str, int], items: list[Any]
):
    with (
        running_server(replace(settings, **limits)) as server,
        Client(server.url, api_key=server.key) as client,
    ):
        with pytest.raises(BatchTriggerError, match="batch_trigger"):
            client.submit(double, items)
        assert (count(settings.database_url, "batches"), count(settings.database_url, "runs")) == (0, 0)
        assert client.batch_trigger(double, items, start="seal").run_count == len(items)


def test_an_item_that_the_database_refuses_leaves_nothing(client: Client, settings: Settings):
    """Whatever fails in the middle of the transaction."""
    execute_sql(
        settings.database_url,
        "ALTER TABLE headrace.runs ADD CHECK (batch_index IS DISTINCT FROM 700)",
    )
    with pytest.raises(BatchTriggerError) as raised:
        client.run_flow(submit_batch(double, range(1000), {}, tries=1))
    assert raised.value.status == 500
    assert (count(settings.database_url, "batches"), count(settings.database_url, "runs")) == (0, 0)
    assert count(settings.database_url, "idempotency_keys") == 0


def test_the_async_client_submits_too(server: RunningServer, settings: Settings):
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def use() -> list[int]:
        async with AsyncClient(server.url, api_key=server.key) as client:
            batch = await client.submit(double, numbers(), batch_key="k")
            assert (await client.submit(double, [0, 1, 2], batch_key="k")).id == batch.id
            return [outcome.unwrap() async for outcome in batch.results()]

    with running_worker(settings, *ALL):
        assert asyncio.run(use()) == [0, 2, 4]
