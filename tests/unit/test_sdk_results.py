"""How results are waited for and read: in order, as completed, in pages, to the end and not past it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.flow_driver import BATCH, BROKEN, Driver, answer

from headrace.errors import BatchTriggerError, ResultTimeoutError, RunFailedError
from headrace.indexes import UnseenIndexes
from headrace.sdk import AsyncBatchHandle, AsyncRunHandle, BatchHandle, Failed, Ok, RunHandle, flows
from headrace.sdk.handles import _Looks
from headrace.tasks import task

RESULTS = f"/api/v1/batches/{BATCH}/results"
SHOWN = f"/api/v2/batches/{BATCH}"


@dataclass
class Thumb:
    width: int


@task(id="results-resize")
def resize(number: int) -> Thumb:
    return Thumb(number)


@task(id="results-shout")
def shout(text: str) -> str:
    return text.upper()


def item(index: int, output: Any = None, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "ok": True,
        "index": index,
        "id": f"run_{index}",
        "taskIdentifier": "t",
        "status": "COMPLETED",
    }
    if output is not None:
        told |= {"output": msgspec.json.encode(output).decode(), "outputType": "application/json"}
    return told | more


def failure(index: int) -> dict[str, Any]:
    error = {"type": "BUILT_IN_ERROR", "name": "ValueError", "message": "no"}
    return {
        "ok": False,
        "index": index,
        "id": f"run_{index}",
        "taskIdentifier": "t",
        "status": "FAILED",
        "error": error,
    }


def page(*indexes: int) -> Any:
    return answer(200, {"id": BATCH, "items": [item(index, index) for index in indexes]})


def shown(status: str, run_count: int | None, **more: Any) -> Any:
    return answer(200, {"id": BATCH, "status": status, "runCount": run_count, **more})


class Batches:
    """A handle whose requests are answered from a list: a Client as far as a handle needs one."""

    def __init__(self, *replies: Any) -> None:
        self.driver = Driver(*replies)

    def run_flow(self, flow: Any) -> Any:
        return self.driver.run(flow, asks_for_all=False)

    def handle(self, run_count: int | None, of: Any = "t") -> BatchHandle[Any]:
        return BatchHandle(self, BATCH, of, run_count)  # type: ignore[arg-type]

    @property
    def asked(self) -> list[str]:
        return [path.partition("?")[0].rpartition("/")[2] for path in self.driver.paths]


def values(outcomes: Any) -> list[Any]:
    return [outcome.value for outcome in outcomes]


def test_results_come_in_order_whatever_ends_first():
    batches = Batches(page(1, 2), shown("PROCESSING", 4), page(0, 1, 2), page(), shown("PROCESSING", 4), page(3))
    assert values(batches.handle(4).results()) == [0, 1, 2, 3]
    assert batches.asked == ["results", BATCH, "results", "results", BATCH, "results"]
    assert [path.partition("after=")[2].partition("&")[0] for path in batches.driver.paths if "after" in path] == [
        "-1",
        "-1",
        "2",
        "2",
    ]


def test_a_batch_that_ends_while_it_is_waited_for_loses_no_outcome():
    batches = Batches(page(), shown("COMPLETED", 2), page(0, 1))
    assert values(batches.handle(2).results()) == [0, 1]
    batches = Batches(page(), shown("COMPLETED", 2), page(0, 1))
    assert values(batches.handle(2).as_completed()) == [0, 1]


def test_a_batch_of_unknown_length_is_asked_how_long_it_is():
    batches = Batches(page(0), page(), shown("PENDING", None), page(1), page(), shown("COMPLETED", 2))
    assert values(batches.handle(None).results()) == [0, 1]


@pytest.mark.parametrize("way", ["results", "as_completed"])
@pytest.mark.parametrize("run_count", [5, None])
def test_an_aborted_batch_ends_in_its_error_and_not_in_silence(way: str, run_count: int | None):
    aborted = shown(
        "ABORTED", run_count, error={"message": "it was never sealed"}, progress={"accepted": 2, "settled": 2}
    )
    batches = Batches(page(0, 2), page(), aborted, page())
    seen: list[int] = []
    with pytest.raises(BatchTriggerError, match="item 1 has no outcome: it was never sealed") as raised:
        seen.extend(outcome.index for outcome in getattr(batches.handle(run_count), way)())
    assert seen == ([0] if way == "results" else [0, 2])
    assert (raised.value.batch_id, raised.value.accepted, raised.value.phase) == (BATCH, 2, "seal")


def test_as_completed_gives_each_outcome_once_and_looks_at_gaps_only():
    batches = Batches(page(2, 5), page(), shown("PROCESSING", 6), page(0, 2, 3, 5), page(2, 3, 4, 5), page(1, 2, 3))
    assert values(batches.handle(6).as_completed()) == [2, 5, 0, 3, 4, 1]


def test_as_completed_goes_on_behind_a_full_page():
    first = page(*range(1, 101))
    batches = Batches(first, page(*range(101, 150)), page(0))
    outcomes = list(batches.handle(150).as_completed())
    assert sorted(values(outcomes)) == [*range(150)]
    assert "after=100" in batches.driver.paths[1]
    assert "after=-1" in batches.driver.paths[2]


def test_pages_of_large_results_are_small():
    large = [item(index, "x" * 1_000_000) for index in range(8)]
    small = [item(index, 1) for index in range(8, 12)]
    batches = Batches(answer(200, {"items": large}), answer(200, {"items": small}), answer(200, {"items": [item(12)]}))
    list(batches.handle(13).results())
    limits = [int(path.partition("limit=")[2]) for path in batches.driver.paths]
    assert limits == [100, 4, 1000]


def test_waits_get_longer_while_nothing_comes_and_short_again():
    looks = _Looks()
    assert [looks.next() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    looks.reset()
    assert looks.next() == 0.1


def test_outcomes_are_values():
    outcomes = list(Batches(answer(200, {"items": [item(0, 7), failure(1)]})).handle(2).results())
    match outcomes:
        case [Ok(0, "run_0", 7) as good, Failed(1, "run_1", "FAILED", error) as bad]:
            assert (good.ok, good.unwrap(), bad.ok, error["message"]) == (True, 7, False, "no")
        case _:
            pytest.fail(str(outcomes))
    with pytest.raises(RunFailedError, match="run_1 is FAILED: ValueError: no"):
        bad.unwrap()


def test_results_are_what_the_annotation_says():
    told = item(0, {"width": 3}, taskIdentifier=resize.id)
    assert values(Batches(answer(200, {"items": [told]})).handle(1, resize).results()) == [Thumb(3)]


def test_results_of_a_mixed_batch_are_read_by_the_task_that_ran():
    items = [
        item(0, {"width": 3}, taskIdentifier=resize.id),
        item(1, "HO", taskIdentifier=shout.id),
        item(2, {"width": 4}, taskIdentifier="defined-elsewhere"),
    ]
    batches = Batches(answer(200, {"items": items}))
    assert values(batches.handle(3, resize).results()) == [Thumb(3), "HO", {"width": 4}]


def test_a_result_that_is_not_what_the_annotation_says_fails_alone():
    items = [item(0, {"height": 3}, taskIdentifier=resize.id), item(1, {"width": 3}, taskIdentifier=resize.id)]
    bad, good = Batches(answer(200, {"items": items})).handle(2, resize).results()
    assert isinstance(bad, Failed)
    assert bad.error["name"] == "PayloadError"
    assert good.unwrap() == Thumb(3)


def test_no_output_is_none_and_text_is_text():
    items = [item(0), item(1) | {"output": "plain", "outputType": "text/plain"}]
    assert values(Batches(answer(200, {"items": items})).handle(2).results()) == [None, "plain"]


class Runs(Batches):
    def run_handle(self, of: Any = "t") -> RunHandle[Any]:
        return RunHandle(self, "run_0", of)  # type: ignore[arg-type]


def test_a_result_is_waited_for_and_decoded():
    runs = Runs(answer(202, {"id": "run_0", "status": "EXECUTING"}), answer(200, item(0, {"width": 9})))
    assert runs.run_handle(resize).result() == Thumb(9)


def test_a_failed_run_raises_what_is_known():
    with pytest.raises(RunFailedError, match="ValueError: no") as raised:
        Runs(answer(200, failure(0))).run_handle().result()
    assert (raised.value.run_id, raised.value.status) == ("run_0", "FAILED")


def test_a_result_that_does_not_come_in_time():
    with pytest.raises(ResultTimeoutError, match="0 s"):
        Runs(answer(202, {"id": "run_0", "status": "QUEUED"})).run_handle().result(timeout=0)
    with pytest.raises(TimeoutError):
        Batches(shown("PROCESSING", 3)).handle(3).wait(timeout="0s")


def test_a_batch_is_waited_for():
    batches = Batches(shown("PROCESSING", 3), shown("PARTIAL_FAILED", 3))
    assert batches.handle(3).wait()["status"] == "PARTIAL_FAILED"


def test_a_page_is_asked_for_again_when_the_connection_breaks():
    batches = Batches(BROKEN, page(0))
    assert values(batches.handle(1).results()) == [0]


@pytest.mark.anyio
async def test_async_handles_are_the_same():
    class AsyncBatches(Batches):
        async def run_flow(self, flow: Any) -> Any:
            return super().run_flow(flow)

    batches = AsyncBatches(page(), shown("COMPLETED", 2), page(0, 1), page(0, 1), answer(200, item(0, 5)))
    handle: AsyncBatchHandle[Any] = AsyncBatchHandle(batches, BATCH, "t", 2)  # type: ignore[arg-type]
    assert [outcome.unwrap() async for outcome in handle.results()] == [0, 1]
    assert [outcome.unwrap() async for outcome in handle.as_completed()] == [0, 1]
    run: AsyncRunHandle[Any] = AsyncRunHandle(batches, "run_0", "t")  # type: ignore[arg-type]
    assert await run.result() == 5


def test_ids_cannot_leave_their_place_in_the_path():
    driver = Driver(answer(200, {"ok": True}))
    driver.run(flows.await_result("../../admin?x=", None))
    assert driver.paths == ["/api/v1/runs/..%2F..%2Fadmin%3Fx%3D/result?wait=20.000"]


@given(st.lists(st.integers(0, 40)), st.integers(0, 50))
def test_unseen_indexes_are_those_not_taken(taken: list[int], start: int):
    unseen = UnseenIndexes()
    seen: set[int] = set()
    for index in taken:
        assert unseen.take(index) is (index not in seen)
        seen.add(index)
    assert unseen.taken == len(seen)
    assert unseen.find_from(start) == next(index for index in range(start, 100) if index not in seen)
