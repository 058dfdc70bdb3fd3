"""A batch as the client streams it: what is sent, what is sent again, and when it gives up. research/batch.md 4.2."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.flow_driver import (
    BATCH,
    BROKEN,
    Driver,
    answer,
    body_of,
    created,
    cut_after,
    sealed,
    stored,
    stream,
    unsealed,
)

from headrace.errors import ApiError, BatchTriggerError, ConnectionFailedError, PayloadError
from headrace.items import LineEncoder
from headrace.sdk import segments
from headrace.sdk.flows import SealedBatch, stream_batch
from headrace.sdk.segments import ItemSource

ITEMS = f"/api/v3/batches/{BATCH}/items"
SEAL = f"/api/v3/batches/{BATCH}/seal"


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of four items, pieces of about two."""
    monkeypatch.setattr(segments.Segment.__init__, "__kwdefaults__", {"most_items": 4, "most_bytes": 1 << 20})
    monkeypatch.setattr(segments, "_PIECE", 60)


def test_gives_up_when_it_stays_unsealed_with_all_that_is_known():
    """Checklist 103."""
    told = unsealed(enqueuedCount=2, expectedCount=3)
    driver = Driver(created(), stored(), told, told)
    with pytest.raises(BatchTriggerError) as raised:
        stream(driver, range(3), tries=2)
    error = raised.value
    assert (error.batch_id, error.phase, error.status) == (BATCH, "seal", 200)
    assert (error.accepted, error.expected, error.retry_after) == (2, 3, None)
    assert driver.paths == ["/api/v3/batches", ITEMS, SEAL, SEAL]


def test_unsealed_is_tried_again_and_succeeds():
    """Checklist 104."""
    driver = Driver(created(), stored(), unsealed(enqueuedCount=2, expectedCount=3), sealed(3))
    assert stream(driver, range(3)) == SealedBatch(BATCH, 3)
    assert len(driver.slept) == 1
    assert 1 <= driver.slept[0] <= 2


def test_sealed_at_once_is_success_at_once():
    """Checklist 105."""
    driver = Driver(created(), stored(), sealed(3))
    assert stream(driver, range(3)) == SealedBatch(BATCH, 3)
    assert (driver.paths, driver.slept) == (["/api/v3/batches", ITEMS, SEAL], [])
    assert driver.indexes == [[0, 1, 2]]
    assert body_of(driver.sent[2]) == {"runCount": 3}


@pytest.mark.parametrize("in_seal", [False, True])
def test_the_error_says_how_many_of_how_many(in_seal: bool):
    """Checklist 106."""
    told: dict[str, Any] = {
        "itemsAccepted": 7,
        "itemsDeduplicated": 2,
        "sealed": False,
        "enqueuedCount": 9,
        "expectedCount": 15,
    }
    driver = Driver(created(), *([stored(), answer(200, told)] if in_seal else [answer(200, told)]))
    with pytest.raises(BatchTriggerError, match=r"9 of 15.*accepted: 7.*deduplicated: 2"):
        stream(driver, range(15), tries=1)


def test_missing_counts_read_as_zero():
    """Checklist 107."""
    driver = Driver(created(), stored(), answer(200, {"sealed": False}))
    with pytest.raises(BatchTriggerError, match=r"0 of 3.*accepted: 0.*deduplicated: 0") as raised:
        stream(driver, range(3), tries=1)
    assert raised.value.accepted == 0


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("failure", [answer(500, {"error": "oops"}), BROKEN, unsealed(), answer(200, {"garbled": 1})])
@pytest.mark.parametrize("pieces", [0, 1, 2, 9])
def test_a_segment_that_fails_anywhere_is_sent_whole_the_next_time(failure: Any, pieces: int):
    """Checklist 111: what the failed try had read is kept, what it had not is read by the next."""
    driver = Driver(created(), cut_after(pieces, failure), stored(), stored(), sealed(6))
    assert stream(driver, iter(range(6))) == SealedBatch(BATCH, 6)
    assert driver.indexes[1:] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.usefixtures("small_segments")
def test_many_tries_read_each_item_once_and_leave_nothing_behind():
    """Checklist 112."""
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(7):
            read.append(number)
            yield number

    driver = Driver(
        created(), cut_after(1), cut_after(2), cut_after(0), stored(), cut_after(1), stored(), unsealed(), sealed(7)
    )
    assert stream(driver, items()) == SealedBatch(BATCH, 7)
    assert read == [*range(7)]
    held = [weakref.ref(request.segment) for request in driver.sent if request.segment is not None]
    assert len(held) == 6
    del driver
    gc.collect()
    assert [segment() for segment in held] == [None] * 6


@pytest.mark.usefixtures("small_segments")
def test_only_the_segment_that_broke_is_sent_again():
    driver = Driver(created(), stored(), stored(), BROKEN, stored(), sealed(10))
    stream(driver, range(10))
    assert driver.indexes == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [request.headers.get("x-headrace-partial") for request in driver.sent[1:5]] == ["1"] * 4


def test_a_resume_sends_only_what_is_missing():
    """Ranges have both ends; the second resume is as right as the first."""
    driver = Driver(
        created(),
        stored(),
        unsealed(missing=[[1, 2], [6, 8]]),
        stored(),
        unsealed(missing=[[7, 7]]),
        stored(),
        sealed(9),
    )
    assert stream(driver, range(9)) == SealedBatch(BATCH, 9)
    assert driver.paths == ["/api/v3/batches", ITEMS, SEAL, ITEMS, SEAL, ITEMS, SEAL]
    assert driver.indexes == [[0, 1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 6, 7, 8], [7]]


@pytest.mark.usefixtures("small_segments")
def test_what_was_confirmed_and_is_missing_after_all_ends_in_an_error():
    lost = unsealed(enqueuedCount=5, expectedCount=6, missing=[[1, 1]])
    driver = Driver(created(), stored(), stored(), lost, lost)
    with pytest.raises(BatchTriggerError, match="5 of 6"):
        stream(driver, range(6), tries=2)
    assert driver.indexes == [[0, 1, 2, 3], [4, 5]]


def test_fewer_stored_than_sent_is_no_confirmation():
    driver = Driver(created(), stored(accepted=2), stored(accepted=1, duplicates=2), sealed(3))
    stream(driver, range(3))
    assert driver.indexes == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.usefixtures("small_segments")
def test_a_batch_that_another_call_sealed_is_the_answer():
    driver = Driver(created(), stored(sealed=True, runCount=100))
    assert stream(driver, range(10)) == SealedBatch(BATCH, 100)


def test_a_batch_that_is_there_already_is_not_streamed_again():
    driver = Driver(answer(200, {"id": BATCH, "runCount": 5, "isCached": True}))
    assert stream(driver, range(10)) == SealedBatch(BATCH, 5, is_cached=True)


@pytest.mark.usefixtures("small_segments")
def test_an_end_on_the_boundary_of_a_segment():
    driver = Driver(created(), stored(), stored(), stored(), sealed(8))
    assert stream(driver, iter(range(8))) == SealedBatch(BATCH, 8)
    assert driver.indexes == [[0, 1, 2, 3], [4, 5, 6, 7], []]


@pytest.mark.parametrize(
    ("replies", "phase", "batch_id"),
    [
        ([], "create", None),
        ([created()], "stream", BATCH),
        ([created(), stored()], "seal", BATCH),
    ],
)
@pytest.mark.parametrize("cause", [answer(422, {"error": "never"}), answer(429, {"error": "never"}, retry_after="40")])
def test_giving_up_says_where_and_why(replies: list[Any], phase: str, batch_id: str | None, cause: Any):
    driver = Driver(*replies, cause)
    with pytest.raises(BatchTriggerError, match="never") as raised:
        stream(driver, range(3), tries=1)
    error = raised.value
    assert (error.phase, error.batch_id, error.status) == (phase, batch_id, cause.status)
    assert error.retry_after == (40 if cause.status == 429 else None)
    assert isinstance(error.__cause__, ApiError)


def test_an_unreachable_server_is_the_cause():
    driver = Driver(created(), *[BROKEN] * 5)
    with pytest.raises(BatchTriggerError) as raised:
        stream(driver, range(3))
    assert isinstance(raised.value.__cause__, ConnectionFailedError)
    assert [low <= slept <= 2 * low for low, slept in zip((1, 2, 4, 8), driver.slept, strict=True)] == [True] * 4


def test_a_refused_segment_is_not_sent_again():
    driver = Driver(created(), answer(422, {"error": "Batch batch_x is not in PENDING status (current: ABORTED)"}))
    with pytest.raises(BatchTriggerError, match="ABORTED"):
        stream(driver, range(3))
    assert driver.slept == []


def test_what_the_iterable_raises_comes_through_and_seals_nothing():
    class OwnError(Exception):
        pass

    error = OwnError("mine")

    def items() -> Iterator[int]:
        yield 1
        raise error

    driver = Driver(created(), stored())
    with pytest.raises(OwnError) as raised:
        stream(driver, items())
    assert raised.value is error
    assert driver.paths == ["/api/v3/batches", ITEMS]


def test_a_payload_that_is_no_json_is_named_by_its_index():
    driver = Driver(created(), stored())
    with pytest.raises(PayloadError, match="item 2"):
        stream(driver, [1, 2, object()])


def test_ten_million_items_are_read_as_they_are_confirmed():
    """Nothing is read ahead of a segment, and no more than a segment is kept."""
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for number in range(10_000_000):
            read += 1
            yield number

    seen: list[tuple[int, int]] = []

    def store(request: Any) -> Any:
        reply = stored()(request)
        seen.append((read, request.segment.held_bytes))
        return reply

    driver = Driver(created(), *[store] * 3, answer(422, {"error": "enough"}))
    driver._peek = lambda request: []  # type: ignore[method-assign]
    with pytest.raises(BatchTriggerError, match="enough"):
        stream(driver, items())
    assert [count for count, _ in seen] == [20_000, 40_000, 60_000]
    assert read == 60_000
    assert max(held for _, held in seen) < 1 << 20


def test_a_segment_ends_by_its_bytes_too():
    line = "x" * 1_000_000
    source = ItemSource([line] * 30, LineEncoder("t", {}))
    segment = segments.Segment(source)
    sent = sum(len(piece) for piece in segment.write())
    assert segments.SEGMENT_BYTES <= sent == segment.held_bytes <= segments.SEGMENT_BYTES + 1_000_100
    assert len(segments.Segment(source)._lines) == 0


def test_a_slow_producer_is_heard_from_item_by_item(monkeypatch: pytest.MonkeyPatch):
    """No item waits for company longer than a moment, and the segment ends after half a minute."""
    clock = [0.0]

    def items() -> Iterator[int]:
        for number in range(100):
            clock[0] += 5.0
            yield number

    monkeypatch.setattr(segments.time, "monotonic", lambda: clock[0])
    segment = segments.Segment(ItemSource(items(), LineEncoder("t", {})))
    pieces = list(segment.write())
    assert [piece.count(b"\n") for piece in pieces] == [1] * len(pieces)
    assert 6 <= len(pieces) <= 8


def test_create_says_what_the_batch_is():
    driver = Driver(created(), stored(), sealed(2))
    driver.run(stream_batch({"runCount": 2, "start": "seal"}, ItemSource([1, 2], LineEncoder("t", {"tags": "a"}))))
    assert body_of(driver.sent[0]) == {"runCount": 2, "start": "seal"}
