"""A batch in one request, as the client sends it: what is sent, what is sent again, and how it says that it can't be."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.flow_driver import BROKEN, Driver, answer, body_of

from headrace import Item, task
from headrace.errors import BatchTriggerError, ConfigurationError, PayloadError
from headrace.sdk.flows import SealedBatch
from headrace.sdk.submissions import PATH, submit_batch

MADE = answer(202, {"id": "batch_x", "isCached": False, "runCount": 2})
REQUEST_ID = "x-trigger-request-idempotency-key"


@task(id="submitted-double", queue="numbers")
def double(number: int) -> int:
    return number * 2


def submit(driver: Driver, items: Any, options: dict[str, Any] | None = None, **more: Any) -> SealedBatch:
    return driver.run(submit_batch(double, items, options or {}, **more))


def test_all_items_go_into_one_request() -> None:
    driver = Driver(MADE)
    items = iter([1, Item(2, tags=["b"]), Item("x", task="other")])
    assert submit(driver, items, {"tags": ["a"]}, key="k", ttl="60s") == SealedBatch("batch_x", 2)
    [request] = driver.sent
    assert (request.method, request.path) == ("POST", PATH)
    assert body_of(request) == {
        "items": [
            {"task": "submitted-double", "options": {"tags": ["a"], "queue": {"name": "numbers"}}, "payload": 1},
            {"task": "submitted-double", "options": {"tags": ["b"], "queue": {"name": "numbers"}}, "payload": 2},
            {"task": "other", "options": {"tags": ["a"]}, "payload": "x"},
        ]
    }
    assert (request.headers["idempotency-key"], request.headers["idempotency-key-ttl"]) == ("k", "60s")


def test_without_a_key_none_is_sent_but_a_request_id_of_its_own_is() -> None:
    driver = Driver()
    for _ in range(2):
        driver.replies = [MADE]
        submit(driver, [1, 2])
    first, second = (request.headers for request in driver.sent)
    assert "idempotency-key" not in first
    assert first[REQUEST_ID] != second[REQUEST_ID]


@pytest.mark.parametrize("lost", [BROKEN, answer(503), answer(500), answer(429), answer(408)])
def test_what_is_not_answered_is_sent_again_with_the_same_request_id(lost: Any) -> None:
    driver = Driver(lost, lost, MADE)
    assert submit(driver, [1, 2]).id == "batch_x"
    assert len({request.headers[REQUEST_ID] for request in driver.sent}) == 1
    assert len({str(body_of(request)) for request in driver.sent}) == 1
    assert len(driver.slept) == 2


@pytest.mark.parametrize(
    ("items", "error"),
    [([], BatchTriggerError), ([1, "two"], PayloadError), ([1, Item(2, delay="soon")], ConfigurationError)],
)
def test_what_is_wrong_is_said_before_anything_is_sent(items: list[Any], error: type[Exception]) -> None:
    driver = Driver()
    with pytest.raises(error):
        submit(driver, items)
    assert driver.sent == []


@pytest.mark.parametrize(
    "refused",
    [
        answer(400, {"error": "Batch size of 2 is too large. Maximum allowed batch size is 1."}),
        answer(413, {"error": "Request body too large"}),
    ],
)
def test_a_batch_above_the_limit_is_told_of_batch_trigger(refused: Any) -> None:
    driver = Driver(refused)
    with pytest.raises(
        BatchTriggerError, match=r"2 items.*too large.*batch_trigger\(\) takes a batch of any length"
    ) as error:
        submit(driver, [1, 2])
    assert (error.value.phase, error.value.status, error.value.expected) == ("create", refused.status, 2)


def test_another_refusal_is_told_as_it_is() -> None:
    driver = Driver(answer(422, {"error": "Invalid item at index 1: delay"}))
    with pytest.raises(BatchTriggerError, match="Invalid item at index 1") as error:
        submit(driver, [1, 2])
    assert "batch_trigger" not in str(error.value)


def test_a_server_that_never_answers_is_given_up() -> None:
    driver = Driver(BROKEN, BROKEN)
    with pytest.raises(BatchTriggerError, match="no answer from the server") as error:
        submit(driver, [1, 2], tries=2)
    assert error.value.status is None
