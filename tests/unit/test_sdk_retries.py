"""Which requests are sent again, and after how long. research/batch.md 4.2."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest
from tests.unit.flow_driver import BROKEN, Driver, answer

from headrace.errors import ApiError, ClientError, ConnectionFailedError
from headrace.sdk import retries
from headrace.sdk.effects import Answer, Send
from headrace.sdk.flows import trigger_run

NOW = 1_800_000_000.0


def delay(reply: Any, attempt: int = 1, chance: float = 0.5) -> float:
    return retries.find_delay(reply, attempt, chance=lambda: chance, clock=lambda: NOW)


def test_delays_double_with_jitter_up_to_a_limit():
    assert [delay(BROKEN, attempt, 0.0) for attempt in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert [delay(BROKEN, attempt, 0.999) for attempt in (1, 2)] == pytest.approx([1.999, 3.998])
    assert delay(BROKEN, 40) == 30


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_five_times(status: int):
    driver = Driver(*[answer(status, {"error": "busy"})] * 5)
    with pytest.raises(ApiError, match="busy") as raised:
        driver.run(trigger_run("t", 1, {}))
    assert raised.value.status == status
    assert len(driver.sent) == 5
    assert [1 <= driver.slept[0] <= 2, 2 <= driver.slept[1] <= 4, 4 <= driver.slept[2] <= 8, 8 <= driver.slept[3] <= 16]


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 415, 422])
def test_what_will_not_pass_is_not_tried_again(status: int):
    driver = Driver(answer(status, {"error": "no"}))
    with pytest.raises(ApiError):
        driver.run(trigger_run("t", 1, {}))
    assert driver.slept == []


def test_the_servers_word_goes_before_the_status():
    driver = Driver(answer(400, {}, x_should_retry="true"), answer(503, {}, x_should_retry="false"))
    with pytest.raises(ApiError) as raised:
        driver.run(trigger_run("t", 1, {}))
    assert raised.value.status == 503
    assert len(driver.slept) == 1


def test_a_broken_connection_is_tried_again_and_then_is_the_cause():
    driver = Driver(*[BROKEN] * 5)
    with pytest.raises(ConnectionFailedError) as raised:
        driver.run(trigger_run("t", 1, {}))
    assert raised.value.__cause__ is BROKEN.cause


def test_all_tries_of_a_call_are_one_request_and_two_calls_are_two():
    driver = Driver(BROKEN, answer(503), answer(200, {"id": "run_a"}))
    assert driver.run(trigger_run("t", 1, {})).id == "run_a"
    driver.replies = [answer(200, {"id": "run_b"})]
    assert driver.run(trigger_run("t", 1, {})).id == "run_b"
    ids = [request.headers["x-trigger-request-idempotency-key"] for request in driver.sent]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_limit_is_waited_out_to_its_reset():
    assert delay(answer(429, x_ratelimit_reset=f"{(NOW + 7) * 1000:.0f}")) == pytest.approx(7.5)


def test_a_reset_in_seconds_is_understood():
    assert delay(answer(429, x_ratelimit_reset=f"{NOW + 7:.0f}")) == pytest.approx(7.5)


def test_a_reset_that_is_over_leaves_it_to_retry_after_and_then_to_the_backoff():
    past = f"{(NOW - 7) * 1000:.0f}"
    assert delay(answer(429, x_ratelimit_reset=past, retry_after="3")) == pytest.approx(3.5)
    assert delay(answer(429, x_ratelimit_reset=past)) == pytest.approx(1.5)


def test_retry_after_is_seconds_or_a_date():
    assert delay(answer(429, retry_after="3")) == pytest.approx(3.5)
    assert delay(answer(429, retry_after=formatdate(NOW + 9, usegmt=True))) == pytest.approx(9.5)


@pytest.mark.parametrize("text", ["soon", "", "-5", "nan", "inf"])
def test_a_retry_after_that_says_nothing_is_passed_over(text: str):
    assert delay(answer(429, retry_after=text)) == pytest.approx(1.5)


def test_whoever_is_unavailable_gets_no_less_than_the_backoff():
    assert delay(answer(503, retry_after="1"), attempt=4) == pytest.approx(12)
    assert delay(answer(503, retry_after="60"), attempt=1) == pytest.approx(60)


def test_who_asks_for_hours_is_not_waited_for():
    driver = Driver(answer(429, {"error": "tomorrow"}, retry_after="7200"))
    with pytest.raises(ApiError, match="tomorrow") as raised:
        driver.run(trigger_run("t", 1, {}))
    assert raised.value.headers["retry-after"] == "7200"


def test_no_try_begins_past_the_deadline():
    driver = Driver(BROKEN)
    with pytest.raises(ConnectionFailedError):
        driver.run(retries.send_patiently(Send("GET", "/"), until=time.monotonic() + 0.5))
    assert driver.slept == []


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"ok":1}', b"\xff"])
def test_an_answer_of_another_program_is_said_to_be_one(content: bytes):
    driver = Driver(Answer(200, {}, content))
    with pytest.raises(ClientError, match="HEADRACE_API_URL"):
        driver.run(trigger_run("t", 1, {}))
