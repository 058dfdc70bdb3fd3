"""Items and options on their way to the wire: the server reads exactly what was meant."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.flow_driver import Driver, answer, body_of

from headrace.durations import parse_duration
from headrace.engine.items import delayed_until
from headrace.errors import BatchTriggerError, ConfigurationError, PayloadError
from headrace.items import LineEncoder, make_options, read_options, spell_duration
from headrace.protocol.ndjson import ItemDecoder, ParsedItem
from headrace.protocol.options import QueueOption, RetryOption, RunOptions
from headrace.sdk import AsyncClient, Client, Item
from headrace.sdk.flows import trigger_run
from headrace.sdk.inputs import count_items
from headrace.tasks import Retry, task


@task(id="items-double", queue="own")
def double(number: int) -> int:
    return number * 2


@task(id="items-idle")
def idle() -> None: ...


def read_back(encoder: LineEncoder, items: Sequence[Any]) -> list[Any]:
    """The items as the server's own codec reads the client's lines."""
    decoder = ItemDecoder(max_line=1 << 20)
    lines = decoder.feed(b"".join(encoder(index, item) for index, item in enumerate(items))) + decoder.finish()
    assert all(isinstance(line, ParsedItem) for line in lines)
    return [line.item for line in lines if isinstance(line, ParsedItem)]


def payload_of(item: Any) -> Any:
    return msgspec.UNSET if item.payload is msgspec.UNSET else msgspec.json.decode(item.payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(JSON, min_size=1))
def test_any_payloads_arrive_as_they_are(payloads: list[Any]):
    read = read_back(LineEncoder("t", {"tags": "a"}), payloads)
    assert [item.index for item in read] == [*range(len(payloads))]
    assert [payload_of(item) for item in read] == payloads
    assert all(item.options.tags == ["a"] and item.task == "t" for item in read)


def test_items_may_have_options_and_tasks_of_their_own():
    items = [1, Item(2, tags=["b"], delay="1m"), Item("x", task="other"), Item(task=idle), Item(3, queue="fast")]
    read = read_back(LineEncoder(double, {"tags": ["a"], "max_attempts": 2}), items)
    assert [(item.task, payload_of(item)) for item in read] == [
        ("items-double", 1),
        ("items-double", 2),
        ("other", "x"),
        ("items-idle", msgspec.UNSET),
        ("items-double", 3),
    ]
    assert [item.options.tags for item in read] == [["a"], ["b"], ["a"], ["a"], ["a"]]
    assert [item.options.max_attempts for item in read] == [2] * 5
    queues = [item.options.queue and item.options.queue.name for item in read]
    assert queues == ["own", "own", None, None, "fast"]


def test_a_raw_payload_laid_out_over_lines_stays_one_line():
    [item] = read_back(LineEncoder("t", {}), [msgspec.Raw(b'{\n  "a": "x\\ny"\n}')])
    assert payload_of(item) == {"a": "x\ny"}


def test_every_option_is_what_the_server_calls_it():
    wire = make_options(
        "t",
        {
            "delay": "1h30m",
            "tags": ("a", "b"),
            "max_attempts": 4,
            "queue": "q",
            "idempotency_key": "k",
            "idempotency_key_ttl": timedelta(days=30),
            "ttl": 90,
            "priority": 2,
            "concurrency_key": 5,
            "metadata": {"by": datetime(2026, 1, 1, tzinfo=UTC)},
            "max_duration": "5m",
            "retry": Retry(max_attempts=7, factor=3, min_delay="2s", jitter=False),
            "version": "v1",
            "machine": "small-1x",
            "test": True,
        },
    )
    options = read_options(msgspec.json.decode(msgspec.json.encode(wire)))
    assert options == RunOptions(
        delay="5400s",
        tags=["a", "b"],
        max_attempts=4,
        queue=QueueOption("q"),
        idempotency_key="k",
        idempotency_key_ttl="2592000s",
        ttl="90s",
        priority=2.0,
        concurrency_key="5",
        metadata={"by": "2026-01-01T00:00:00Z"},
        max_duration=300.0,
        retry=RetryOption(7, 3, 2000, 60_000, randomize=False),
        lock_to_version="v1",
        machine="small-1x",
        test=True,
    )


def test_options_that_are_none_are_not_given():
    assert make_options("t", {"delay": None, "queue": None}) == {}


@pytest.mark.parametrize(
    "given",
    [
        {"delya": 5},
        {"delay": "soon"},
        {"delay": -1},
        {"ttl": "x"},
        {"max_attempts": 0},
        {"max_attempts": "many"},
        {"machine": "huge"},
        {"tags": ["x"] * 11},
        {"tags": "x" * 129},
        {"queue": ""},
        {"idempotency_key": "k" * 2049},
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_sent(given: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        LineEncoder("t", given)
    with pytest.raises(ConfigurationError):
        LineEncoder("t", {})(0, Item(1, **given))
    with pytest.raises(ConfigurationError):
        Driver().run(trigger_run("t", 1, given))


@given(st.floats(0, 1e9))
def test_a_duration_is_spelt_so_that_it_is_read_back(seconds: float):
    assert parse_duration(spell_duration(seconds)) == pytest.approx(seconds, abs=0.001)


def test_a_naive_moment_is_local_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "TZ", "Asia/Kolkata")
    time.tzset()
    try:
        wire = make_options("t", {"delay": datetime(2026, 1, 1, 12, 0)})  # noqa: DTZ001 - the point
    finally:
        monkeypatch.undo()
        time.tzset()
    assert delayed_until(read_options(wire)) == datetime(2026, 1, 1, 6, 30, tzinfo=UTC)


def test_a_trigger_says_its_task_payload_and_options():
    driver = Driver(answer(200, {"id": "run_a"}))
    assert driver.run(trigger_run(double, 5, {"delay": 2.5})).id == "run_a"
    [request] = driver.sent
    assert request.path == "/api/v1/tasks/items-double/trigger"
    assert body_of(request) == {"payload": 5, "options": {"delay": "2.5s", "queue": {"name": "own"}}}


def test_an_id_with_a_slash_is_one_part_of_the_path():
    driver = Driver(answer(200, {"id": "run_a"}))
    driver.run(trigger_run("images/resize ü", None, {}))
    assert driver.paths == ["/api/v1/tasks/images%2Fresize%20%C3%BC/trigger"]


def test_a_task_without_payload_sends_none_and_null_is_a_payload():
    driver = Driver(answer(200, {"id": "run_a"}), answer(200, {"id": "run_b"}))
    driver.run(trigger_run(idle, None, {}), asks_for_all=False)
    driver.run(trigger_run("t", None, {}))
    assert [body_of(request) for request in driver.sent] == [{}, {"payload": None}]


def test_a_wrong_payload_is_not_sent():
    with pytest.raises(PayloadError, match="items-double"):
        Driver().run(trigger_run(double, "five", {}))


# What clients are given


@pytest.fixture
def client() -> Iterator[Client]:
    with Client("http://127.0.0.1:9", api_key="k") as made:
        made._http.close()
        made._http = httpx2.Client(transport=httpx2.MockTransport(refuse), base_url="http://nobody")
        yield made


def refuse(request: httpx2.Request) -> httpx2.Response:
    raise AssertionError(f"nothing was to be sent: {request}")


async def async_numbers() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (async_numbers(), "use AsyncClient"),
        ("abc", "items is one str"),
        (b"abc", "items is one bytes"),
        ({"a": 1}, "items is one dict"),
        (5, "items is a int"),
        (None, "items is a NoneType"),
    ],
)
def test_what_is_no_iterable_of_payloads_is_refused(client: Client, items: Any, told: str):
    with pytest.raises(TypeError, match=told):
        client.batch_trigger("t", items)


@pytest.mark.parametrize("items", [[], (), iter([]), range(0)])
def test_a_batch_without_items_is_refused_before_it_exists(client: Client, items: Any):
    with pytest.raises(BatchTriggerError, match="at least one item"):
        client.batch_trigger("t", items)


def test_what_the_first_item_raises_leaves_no_batch(client: Client):
    with pytest.raises(PayloadError, match="item 0"):
        client.batch_trigger(double, ["one"])  # type: ignore[list-item]


def test_a_shared_idempotency_key_is_refused_with_what_to_use(client: Client):
    with pytest.raises(ConfigurationError, match="batch_key="):
        client.batch_trigger("t", [1], idempotency_key="k")  # type: ignore[call-overload]


def test_a_wrong_key_time_is_refused(client: Client):
    with pytest.raises(ConfigurationError, match="batch_key_ttl"):
        client.batch_trigger("t", [1], batch_key="k", batch_key_ttl="soon")


def test_the_blocking_client_refuses_a_running_loop(client: Client):
    async def inside() -> None:
        for call in (
            lambda: client.trigger("t", 1),
            lambda: client.batch_trigger("t", [1]),
            lambda: client.retrieve_run("run_a"),
            lambda: client.run("run_a").result(),
            lambda: next(client.batch("batch_a").results()),
            lambda: client.trigger("t", 1, connection=object()),
            lambda: client.batch_trigger("t", [1], connection=object()),
        ):
            with pytest.raises(RuntimeError, match="use AsyncClient"):
                call()

    asyncio.run(inside())


def test_a_client_needs_a_key_and_a_url(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HEADRACE_API_KEY", raising=False)
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigurationError, match="HEADRACE_API_KEY"):
            kind("http://127.0.0.1:9")
        with pytest.raises(ConfigurationError, match="http://"):
            kind("127.0.0.1:9", api_key="k")


def test_a_client_takes_its_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADRACE_API_KEY", "from-environment")
    monkeypatch.setenv("HEADRACE_API_URL", "http://elsewhere:1")
    with Client() as client:
        assert str(client._http.base_url).rstrip("/") == "http://elsewhere:1"
        assert client._http.headers["authorization"] == "Bearer from-environment"
    with Client("http://here:2", api_key="given") as client:
        assert str(client._http.base_url).rstrip("/") == "http://here:2"
        assert client._http.headers["authorization"] == "Bearer given"


def test_only_what_is_there_already_is_counted():
    class LazyQuery:
        def __iter__(self) -> Iterator[int]:
            return iter([1])

        def __len__(self) -> int:
            raise AssertionError("the length of a query costs all its rows")

    assert [count_items(items) for items in ([1, 2], (1,), range(9), {1, 2}, {"a": 1}.keys())] == [2, 1, 9, 2, 1]
    assert [count_items(items) for items in (iter([1]), LazyQuery())] == [None, None]


def test_runs_are_listed_by_filters():
    asked: list[Any] = []

    def reply(request: httpx2.Request) -> httpx2.Response:
        asked.append(dict(request.url.params))
        return httpx2.Response(200, json={"data": [], "pagination": {}})

    with Client("http://nobody", api_key="k") as client:
        client._http.close()
        client._http = httpx2.Client(transport=httpx2.MockTransport(reply), base_url="http://nobody")
        client.list_runs(limit=5, status=["QUEUED", "FAILED"], task="t", tag="a,b", before="run_a")
    assert asked == [
        {
            "page[size]": "5",
            "page[before]": "run_a",
            "filter[status]": "QUEUED,FAILED",
            "filter[taskIdentifier]": "t",
            "filter[tag]": "a,b",
        }
    ]
