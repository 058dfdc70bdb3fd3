"""Tasks of which one call takes several runs of an order key, each with an outcome of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from headrace import ConfigurationError, Retry, step, task
from headrace.engine import cancels
from headrace.engine.engine import Engine
from headrace.protocol.statuses import RunStatus
from tests.invariants import assert_invariants, fetch_sql
from tests.worker.helpers import await_end, look, read_output, trigger, until, working

pytestmark = pytest.mark.anyio

CALLS: list[list[int]] = []
GATES: list[asyncio.Event] = []


@task(id="coalesced", coalesce=4, retry=Retry(max_attempts=2, min_delay=0))
async def doubled(numbers: list[int]) -> Sequence[int | Exception]:
    CALLS.append(numbers)
    await GATES[0].wait()
    if 99 in numbers:
        raise ValueError("99 is in it")
    return [ValueError(f"{number} is odd") if number % 2 else 2 * number for number in numbers]


@task(id="coalesced.short", coalesce=4, retry=Retry(max_attempts=1))
async def one_for_all(numbers: list[int]) -> list[int]:
    return [sum(numbers)]


@task(id="coalesced.durable", coalesce=4, retry=Retry(max_attempts=1))
async def durable(numbers: list[int]) -> list[int]:
    await step("of whom?", len, numbers)
    return numbers


@pytest.fixture(autouse=True)
def fresh() -> None:
    CALLS.clear()
    GATES[:] = [asyncio.Event()]


async def test_runs_of_a_key_that_are_ready_share_a_call_and_each_has_its_own_outcome(engine: Engine) -> None:
    ids = [await trigger(engine, doubled, number, order_key="a", max_attempts=1) for number in (2, 3, 4, 6, 8)]
    other = await trigger(engine, doubled, 10, order_key="b")
    alone = await trigger(engine, doubled, 12)
    async with working(engine, doubled):
        await until(lambda: len(CALLS) == 3, "each key and the run without one have a call")
        assert sorted(CALLS) == [[2, 3, 4, 6], [10], [12]]
        GATES[0].set()
        ends = [await await_end(engine, run_id) for run_id in ids]
        assert [end.status.value for end in ends] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED", "COMPLETED"]
        assert [read_output(end) for end in ends if end.status is RunStatus.COMPLETED] == [4, 8, 12, 16]
        assert (ends[1].error or {})["message"] == "3 is odd"
        assert [read_output(await await_end(engine, run_id)) for run_id in (other, alone)] == [20, 24]
        assert [8] in CALLS
    await assert_invariants(engine)


async def test_a_call_that_raises_fails_each_of_its_runs_and_they_go_on_in_their_order(engine: Engine) -> None:
    GATES[0].set()
    ids = [await trigger(engine, doubled, number, order_key="a") for number in (2, 99, 4)]
    async with working(engine, doubled):
        ends = [await await_end(engine, run_id) for run_id in ids]
        assert {end.status for end in ends} == {RunStatus.FAILED}
        assert {(end.error or {})["message"] for end in ends} == {"99 is in it"}
    assert CALLS[0] == [2, 99, 4]
    assert [number for call in CALLS[1:] for number in call] == [2, 99, 4], "the second attempts, in order"


async def test_a_run_that_is_canceled_leaves_the_call_to_the_others(engine: Engine) -> None:
    ids = [await trigger(engine, doubled, number, order_key="a") for number in (2, 4)]
    async with working(engine, doubled) as worker:
        await until(lambda: CALLS == [[2, 4]], "the call is under way")
        await cancels.cancel_run(engine, 1, ids[0])
        await until(lambda: worker.status.executing == 1, "its slot is free")
        GATES[0].set()
        assert read_output(await await_end(engine, ids[1])) == 8
        assert (await look(engine, ids[0])).status is RunStatus.CANCELED
        last = await trigger(engine, doubled, 6, order_key="a")
        assert read_output(await await_end(engine, last)) == 12


async def test_a_call_that_nobody_is_there_for_ends(engine: Engine) -> None:
    ids = [await trigger(engine, doubled, number, order_key="a") for number in (2, 4)]
    async with working(engine, doubled) as worker:
        await until(lambda: CALLS == [[2, 4]], "the call is under way")
        for run_id in ids:
            await cancels.cancel_run(engine, 1, run_id)
        await until(lambda: worker.status.executing == 0, "nothing runs any more")
        assert not [one for one in asyncio.all_tasks() if "Group._call" in str(one.get_coro())]


async def test_a_payload_that_can_not_be_read_fails_alone(engine: Engine) -> None:
    GATES[0].set()
    bad = await trigger(engine, doubled, "no number", order_key="a")
    good = await trigger(engine, doubled, 4, order_key="a")
    async with working(engine, doubled):
        assert read_output(await await_end(engine, good)) == 8
        assert (await await_end(engine, bad)).status is RunStatus.FAILED
    assert CALLS == [[4]]


async def test_a_call_has_to_return_an_outcome_for_each_and_do_nothing_durable(engine: Engine) -> None:
    short = [await trigger(engine, one_for_all, number, order_key="a") for number in (2, 4)]
    stepping = await trigger(engine, durable, 2)
    async with working(engine, one_for_all, durable):
        ends = [await await_end(engine, run_id) for run_id in short]
        assert {json.dumps((end.error or {})["message"]) for end in ends} == {
            '"a call for 2 runs returned 1 outcomes: it has to return a list with an outcome for each, in their order"'
        }
        assert "coalesce" in str((await await_end(engine, stepping)).error)
    assert not await fetch_sql(engine, "SELECT FROM headrace.journal")


def test_its_types_are_those_of_one_run() -> None:
    assert doubled.payload_type is int
    assert doubled.result_type is int


@pytest.mark.parametrize(
    ("options", "told"),
    [({"coalesce": 0}, "from 1 to 1000"), ({"coalesce": 2, "isolation": "process"}, "without isolation")],
)
def test_what_can_not_coalesce_is_refused_where_it_stands(options: dict[str, Any], told: str) -> None:
    async def listed(numbers: list[int]) -> list[int]:
        return numbers

    with pytest.raises(ConfigurationError, match=told):
        task(**options)(listed)


def test_a_function_that_takes_no_list_can_not_coalesce() -> None:
    async def single(number: int) -> list[int]:
        return [number]

    with pytest.raises(ConfigurationError, match="list of its runs' payloads"):
        task(coalesce=2)(single)  # pyright: ignore[reportArgumentType]
