"""Both clients against a real server and a real worker."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.conftest import execute_sql
from tests.e2e.client_jobs import ALL, Image, Thumb, double, fail, idle, resize, slow
from tests.e2e.worker_thread import running_worker
from tests.invariants import assert_invariants_on
from tests.processes import API_KEY, ServerProcess, wait_until
from tests.server_fixture import RunningServer, running_server

from headrace import (
    ApiError,
    AsyncClient,
    BatchTriggerError,
    Client,
    Failed,
    Item,
    Ok,
    PayloadError,
    ResultTimeoutError,
    RunFailedError,
)
from headrace.cli.cutting_proxy import CuttingProxy
from headrace.ids import format_batch_id
from headrace.settings import Settings

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
IMAGE = Image("http://x", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


@pytest.fixture
def client(server: RunningServer) -> Generator[Client]:
    with Client(server.url, api_key=server.key) as opened:
        yield opened


@pytest.fixture
def worker(settings: Settings) -> Generator[None]:
    with running_worker(settings, *ALL):
        yield


def count_indexes(url: str) -> tuple[int, int]:
    row = execute_sql(
        url,
        "SELECT count(*) AS runs, count(DISTINCT batch_index) AS indexes FROM headrace.runs WHERE batch_id IS NOT NULL",
    )[0]
    return row["runs"], row["indexes"]


def check_invariants(url: str) -> None:
    async def check() -> None:
        connection = await asyncpg.connect(url)
        try:
            await assert_invariants_on(connection)
        finally:
            await connection.close()

    asyncio.run(check())


# Runs


@pytest.mark.usefixtures("worker")
def test_a_run_gives_its_result_as_the_annotation_says(client: Client):
    handle = client.trigger(resize, IMAGE, tags=["a"])
    assert handle.result(timeout=60) == Thumb("http://x/thumb", IMAGE.taken, 1)
    assert handle.status() == "COMPLETED"
    assert handle.retrieve()["tags"] == ["a"]
    assert client.run(handle.id, resize).result() == handle.result()
    assert client.trigger(idle).result(timeout=60) == "idle"
    assert client.trigger("e2e-double", 4).result(timeout=60) == 8


@pytest.mark.usefixtures("worker")
def test_a_run_that_fails_raises_its_error(client: Client):
    with pytest.raises(RunFailedError, match="ValueError: no good") as raised:
        client.trigger(fail, "no good").result(timeout=60)
    assert raised.value.status == "FAILED"
    assert raised.value.error is not None
    assert "raise ValueError(text)" in str(raised.value.error["stackTrace"])
    shown = client.retrieve_run(raised.value.run_id)
    assert [attempt["number"] for attempt in shown["attempts"]] == [1, 2]


def test_a_result_that_takes_too_long(client: Client):
    handle = client.trigger(double, 1)
    with pytest.raises(ResultTimeoutError, match="it goes on"):
        handle.result(timeout=0.2)
    assert handle.status() == "PENDING_VERSION", "no worker had the task yet"


def test_options_do_what_they_say(client: Client):
    delayed = client.trigger(double, 1, delay="30d", tags="later", metadata={"by": "me"}, max_duration="5m")
    shown = delayed.retrieve()
    assert (shown["status"], shown["tags"], shown["metadata"]) == ("PENDING_VERSION", ["later"], {"by": "me"})
    assert shown["queue"] == "numbers"
    assert client.trigger(double, 1, queue="other").retrieve()["queue"] == "other"
    first = client.trigger(double, 1, idempotency_key="k", idempotency_key_ttl="40d")
    assert client.trigger(double, 2, idempotency_key="k").id == first.id
    assert [run["id"] for run in client.list_runs(tag="later")["data"]] == [delayed.id]
    assert len(client.list_runs(status=["QUEUED", "PENDING_VERSION"], limit=2)["data"]) == 2


def test_what_the_server_does_not_take(client: Client, server: RunningServer):
    with pytest.raises(PayloadError):
        client.trigger(double, "two")  # type: ignore[call-overload]
    with pytest.raises(ApiError) as raised:
        client.retrieve_run("run_none")
    assert raised.value.status == 404
    with Client(server.url, api_key="wrong") as stranger, pytest.raises(ApiError) as raised:
        stranger.trigger(double, 1)
    assert raised.value.status == 401


# Batches


@pytest.mark.usefixtures("worker")
def test_a_list_is_a_batch_with_results_in_order(client: Client, settings: Settings):
    batch = client.batch_trigger(double, [*range(50)])
    assert batch.run_count == 50
    assert [outcome.unwrap() for outcome in batch.results()] == [number * 2 for number in range(50)]
    assert batch.wait(timeout=60)["status"] == "COMPLETED"
    assert batch.retrieve()["progress"]["succeeded"] == 50
    check_invariants(settings.database_url)


@pytest.mark.usefixtures("worker")
def test_a_long_generator_is_streamed_in_segments_to_one_run_an_index(client: Client, settings: Settings):
    batch = client.batch_trigger(double, (number for number in range(45_000)))
    assert batch.run_count == 45_000
    assert count_indexes(settings.database_url) == (45_000, 45_000)
    total = 0
    for index, outcome in enumerate(client.batch(batch.id, double).results()):
        assert (outcome.index, outcome.unwrap()) == (index, index * 2)
        total += 1
    assert total == 45_000
    check_invariants(settings.database_url)


@pytest.mark.usefixtures("worker")
def test_results_of_a_batch_that_is_read_at_once_are_all_there(client: Client):
    """However the end of the batch and the looks of the client fall."""
    for seconds in (0.0, 0.01, 0.05, 0.15):
        assert [one.unwrap() for one in client.batch_trigger(slow, [seconds] * 3).results()] == [seconds] * 3
        completed = client.batch_trigger(slow, [seconds] * 3).as_completed()
        assert sorted(one.index for one in completed) == [0, 1, 2]


@pytest.mark.usefixtures("worker")
def test_what_ends_first_comes_first(client: Client):
    outcomes = client.batch_trigger(slow, [1.5, 0.0, 0.0]).as_completed()
    assert [outcome.index for outcome in outcomes][-1] == 0


@pytest.mark.usefixtures("worker")
def test_a_mixed_batch_with_options_and_failures(client: Client):
    items = [
        1,
        Item(2, tags=["b"]),
        Item("oh no", task=fail),
        Item(IMAGE, task=resize),
        Item(task=idle),
        Item(7, task="e2e-double"),
    ]
    outcomes = list(client.batch_trigger(double, items, tags=["a"]).results())
    match outcomes:
        case [
            Ok(value=2),
            Ok(value=4),
            Failed(2, _, "FAILED", error),
            Ok(value=Thumb()),
            Ok(value="idle"),
            Ok(value=14),
        ]:
            assert (error["name"], error["message"]) == ("ValueError", "oh no")
        case _:
            pytest.fail(str(outcomes))
    assert client.retrieve_run(outcomes[1].run_id)["tags"] == ["b"]
    assert client.retrieve_run(outcomes[0].run_id)["tags"] == ["a"]


@pytest.mark.usefixtures("worker")
def test_items_of_one_key_have_one_run_and_each_an_outcome(client: Client):
    items = [Item(1, idempotency_key="same"), Item(2, idempotency_key="same"), 3]
    outcomes = list(client.batch_trigger(double, items).results())
    assert [outcome.index for outcome in outcomes] == [0, 1, 2]
    assert [outcome.unwrap() for outcome in outcomes] == [2, 2, 6]
    assert outcomes[0].run_id == outcomes[1].run_id


def test_a_batch_key_leads_back_to_its_batch(client: Client, settings: Settings):
    first = client.batch_trigger(double, [1, 2, 3], batch_key="monday", batch_key_ttl="40d")
    again = client.batch_trigger(double, [1, 2, 3], batch_key="monday", batch_key_ttl="40d")
    assert (again.id, again.run_count) == (first.id, 3)
    assert count_indexes(settings.database_url) == (3, 3)
    with pytest.raises(BatchTriggerError) as raised:
        client.batch_trigger(double, [1, 2, 3, 4], batch_key="monday", batch_key_ttl="40d")
    assert (raised.value.phase, raised.value.status) == ("create", 409)


def test_a_batch_that_was_left_half_streamed_is_completed_by_its_key(client: Client, settings: Settings):
    def half() -> Iterator[int]:
        yield from range(5)
        raise LookupError("the cursor is gone")

    with pytest.raises(LookupError):
        client.batch_trigger(double, half(), batch_key="k")
    batch = client.batch_trigger(double, iter(range(10)), batch_key="k")
    assert batch.run_count == 10
    assert count_indexes(settings.database_url) == (10, 10)
    assert execute_sql(settings.database_url, "SELECT count(*) AS n FROM headrace.batches")[0]["n"] == 1


@pytest.mark.parametrize("run_count", [3, 30])
def test_a_count_that_is_wrong_is_an_error_and_no_seal(client: Client, settings: Settings, run_count: int):
    with pytest.raises(BatchTriggerError) as raised:
        client.batch_trigger(double, iter(range(10)), run_count=run_count)
    assert raised.value.status == 422
    assert raised.value.batch_id is not None
    assert execute_sql(settings.database_url, "SELECT sealed_at FROM headrace.batches")[0]["sealed_at"] is None


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("way", ["results", "as_completed"])
def test_a_stream_that_fails_leaves_nothing_running_where_runs_start_at_the_seal(settings: Settings, way: str):
    """And whoever waits for the batch gets the error once it is aborted."""

    def items() -> Iterator[int]:
        yield from range(100)
        raise LookupError("the cursor is gone")

    with (
        running_server(replace(settings, seal_timeout=0.5)) as server,
        Client(server.url, api_key=server.key) as client,
    ):
        with pytest.raises(LookupError, match="the cursor is gone"):
            client.batch_trigger(double, items(), start="seal")
        row = execute_sql(settings.database_url, "SELECT id, accepted FROM headrace.batches")[0]
        handle = client.batch(format_batch_id(row["id"]), double)
        with pytest.raises(BatchTriggerError, match="never sealed"):
            list(getattr(handle, way)())
        assert handle.wait(timeout=30)["status"] == "ABORTED"
        started = "SELECT count(*) AS n FROM headrace.runs WHERE started_at IS NOT NULL"
        assert execute_sql(settings.database_url, started)[0]["n"] == 0


# When things break


def test_a_connection_that_is_cut_in_mid_stream_is_resumed(server: RunningServer, settings: Settings):
    with (
        CuttingProxy(urlsplit(server.url).port or 0, cut_after=1_500_000) as proxy,
        Client(proxy.url, api_key=server.key) as client,
    ):
        batch = client.batch_trigger("t", ("x" * 1000 for _ in range(3_000)))
    assert proxy.cuts == 1
    assert batch.run_count == 3_000
    assert count_indexes(settings.database_url) == (3_000, 3_000)
    check_invariants(settings.database_url)


def test_a_server_that_is_killed_in_mid_stream_costs_nothing_but_time(database_url: str, tmp_path: Path):
    process = ServerProcess(database_url, str(tmp_path))
    process.start()
    killed = threading.Event()

    def kill() -> None:
        wait_until(lambda: execute_sql(database_url, "SELECT 1 FROM headrace.runs LIMIT 1"), "the first runs")
        process.kill()
        process.start()
        killed.set()

    def items() -> Iterator[str]:
        for number in range(6_000):
            yield "x" * 1000
            if number == 4_000:
                assert killed.wait(30)

    thread = threading.Thread(target=kill)
    try:
        with Client(process.url, api_key=API_KEY) as client:
            thread.start()
            batch = client.batch_trigger("t", items())
        assert batch.run_count == 6_000
        assert count_indexes(database_url) == (6_000, 6_000)
        check_invariants(database_url)
    finally:
        thread.join(30)
        process.stop()


# The other client


@pytest.mark.usefixtures("worker")
def test_the_async_client_does_the_same(server: RunningServer, settings: Settings):
    async def numbers() -> AsyncIterator[int]:
        for number in range(21_000):
            if number % 1000 == 0:
                await asyncio.sleep(0)
            yield number

    async def use() -> None:
        async with AsyncClient(server.url, api_key=server.key) as client:
            handle = await client.trigger(resize, IMAGE)
            assert await handle.result(timeout=60) == Thumb("http://x/thumb", IMAGE.taken, 1)
            assert await handle.status() == "COMPLETED"
            with pytest.raises(RunFailedError):
                await (await client.trigger(fail, "x")).result(timeout=60)
            small = await client.batch_trigger(double, [1, 2, 3])
            assert [outcome.unwrap() async for outcome in small.results()] == [2, 4, 6]
            batch = await client.batch_trigger(double, numbers())
            assert batch.run_count == 21_000
            outcomes = [outcome async for outcome in batch.as_completed()]
            assert sorted(outcome.index for outcome in outcomes) == [*range(21_000)]
            assert (await batch.wait(timeout=60))["status"] == "COMPLETED"
            assert (await client.retrieve_batch(batch.id))["runCount"] == 21_000
            assert len((await client.list_runs(limit=5, batch=small.id))["data"]) == 3
            with pytest.raises(BatchTriggerError, match="exceeds"):
                await client.batch_trigger(double, iter(range(9)), run_count=5)

    asyncio.run(use())
    check_invariants(settings.database_url)


def test_many_calls_at_once_on_one_async_client(server: RunningServer, settings: Settings):
    async def use() -> list[Any]:
        async with AsyncClient(server.url, api_key=server.key) as client:
            return await asyncio.gather(*(client.trigger(double, number) for number in range(200)))

    handles = asyncio.run(use())
    assert len({handle.id for handle in handles}) == 200


# The example


def test_the_quickstart_runs_as_it_stands(server: RunningServer, settings: Settings):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")},
        "HEADRACE_API_URL": server.url,
        "HEADRACE_API_KEY": server.key,
        "HEADRACE_DATABASE_URL": settings.database_url,
        "HEADRACE_DATA_DIR": settings.data_dir,
        "HEADRACE_POLL_INTERVAL": "0.1",
    }
    command = [sys.executable, "-m", "headrace", "worker", str(QUICKSTART / "tasks.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            ended = subprocess.run(
                [sys.executable, "send.py"],
                cwd=QUICKSTART,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            worker.terminate()
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "invoice 1: 12.5",
        "100 invoices: 4950.0",
        "reminded of 1 in attempt 2",
    ]
