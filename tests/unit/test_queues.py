"""Queues as the code says them: what a Queue takes and refuses, and what a task makes of it."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from headrace import Queue, task
from headrace.errors import ConfigurationError
from headrace.tasks import registry


@pytest.fixture(autouse=True)
def _own_registry() -> Generator[None]:
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


def test_a_rate_is_read_as_a_duration() -> None:
    assert Queue("q", rate_limit=(10, timedelta(minutes=1))) == Queue("q", rate_limit=(10, "60s"))
    assert Queue("q", rate_limit=(10, 1)).rate == (10, 1.0)
    assert Queue("q").rate is None


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"concurrency_limit": -1}, "concurrency_limit must be a whole number from 0 to 100000, but is -1"),
        ({"concurrency_limit": True}, "but is True"),
        ({"concurrency_limit": 1.5}, "but is 1.5"),
        ({"concurrency_limit": 100_001}, "but is 100001"),
        ({"key_limit": 0}, "key_limit must be a whole number from 1 to"),
        ({"rate_limit": 5}, r'rate_limit must be \(starts, time\), such as \(10, "1s"\), but is 5'),
        ({"rate_limit": (0, 1)}, "the starts of a rate_limit must be a whole number from 1 to"),
        ({"rate_limit": (1, "soon")}, "'soon' is no duration"),
        ({"rate_limit": (1, 0)}, "must be from 1ms to 31d"),
        ({"rate_limit": (1, "32d")}, "must be from 1ms to 31d"),
        ({"rate_by_key": True}, "rate_by_key is given without a rate_limit"),
        ({"name": ""}, "1 to 128 characters, 0 were given"),
        ({"name": "x" * 129}, "1 to 128 characters, 129 were given"),
        ({"name": "a\tb"}, "is printable"),
        ({"name": "a "}, "neither begins nor ends with a space"),
    ],
)
def test_what_can_t_be_is_refused_where_it_stands(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Queue(**said)


def test_a_task_without_a_word_has_a_queue_of_its_own_without_limits() -> None:
    @task(id="q.plain")
    async def plain() -> None: ...

    assert (plain.queue, plain.limits) == ("task/q.plain", Queue("task/q.plain"))


def test_a_task_with_a_name_says_nothing_of_the_queue() -> None:
    @task(id="q.named", queue="images")
    async def named() -> None: ...

    assert (named.queue, named.limits) == ("images", None)


def test_a_queue_without_a_name_is_the_tasks_own() -> None:
    @task(id="q.limited", queue=Queue(concurrency_limit=1, keep_slot_while_waiting=True))
    async def limited() -> None: ...

    assert limited.queue == "task/q.limited"
    assert limited.limits == Queue("task/q.limited", concurrency_limit=1, keep_slot_while_waiting=True)


def test_tasks_share_a_queue() -> None:
    gpu = Queue("gpu", concurrency_limit=2)

    @task(id="q.one", queue=gpu)
    async def one() -> None: ...

    @task(id="q.two", queue=gpu)
    def two() -> None: ...

    assert one.limits is not None
    assert one.limits == two.limits == gpu


@pytest.mark.parametrize("queue", ["", "a\nb", "x" * 129])
def test_a_name_that_can_t_be_is_refused(queue: str) -> None:
    with pytest.raises(ConfigurationError, match=r"task 'q\.wrong': a queue's name"):

        @task(id="q.wrong", queue=queue)
        async def wrong() -> None: ...


def test_a_task_says_what_a_failed_run_does_to_those_behind_it() -> None:
    @task(id="q.skips", order="skip_failed")
    async def skips() -> None: ...

    assert skips.order == "skip_failed"
    wrong: Any = "loose"
    with pytest.raises(ConfigurationError, match="order is 'loose', but must be 'strict' or 'skip_failed'"):

        @task(id="q.wrong", order=wrong)
        async def other() -> None: ...
