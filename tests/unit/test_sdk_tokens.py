"""Tokens, as clients ask for them: what is sent, what is refused before it is, what is made of the answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.flow_driver import BROKEN, Driver, answer, body_of

from headrace.errors import ApiError, ClientError, ConfigurationError, PayloadError
from headrace.sdk import tokens
from headrace.token_values import Token

MADE = {"id": "waitpoint_1", "url": "http://x/callback", "publicAccessToken": "a.b.c", "isCached": False}
NOON = datetime(2030, 1, 2, 12, tzinfo=UTC)


def create(driver: Driver, **asked: Any) -> Token:
    given = {"timeout": None, "tags": (), "key": None, "key_ttl": None, **asked}
    return driver.run(tokens.create_token(**given))


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        ({}, {}),
        ({"timeout": "1h30m"}, {"timeout": "5400s"}),
        ({"timeout": 2.5}, {"timeout": "2.5s"}),
        ({"timeout": timedelta(days=7)}, {"timeout": "604800s"}),
        ({"timeout": NOON}, {"timeout": "2030-01-02T12:00:00+00:00"}),
        ({"timeout": "2030-01-02T14:00:00+02:00"}, {"timeout": "2030-01-02T12:00:00+00:00"}),
        ({"tags": "one"}, {"tags": ["one"]}),
        ({"tags": iter(["a", "", "b"])}, {"tags": ["a", "b"]}),
        ({"key": "k", "key_ttl": "1d"}, {"idempotencyKey": "k", "idempotencyKeyTTL": "86400s"}),
    ],
)
def test_what_is_asked_for_is_sent_as_the_wire_has_it(asked: dict[str, Any], body: dict[str, Any]) -> None:
    driver = Driver(answer(200, MADE))
    assert create(driver, **asked) == Token("waitpoint_1", "http://x/callback", "a.b.c", is_cached=False)
    assert (driver.sent[0].method, driver.paths, body_of(driver.sent[0])) == (
        "POST",
        ["/api/v1/waitpoints/tokens"],
        body,
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"timeout": "soon"}, "create_token: timeout is 'soon': give a duration"),
        ({"timeout": object()}, "give a duration"),
        ({"tags": list("abcdefghijk")}, "at most 10 tags"),
        ({"tags": [1]}, "create_token: "),
        ({"key": "x" * 2049}, "2048 characters or less"),
        ({"key": "k", "key_ttl": -1}, "is no duration"),
    ],
)
def test_what_can_not_be_is_refused_before_it_is_sent(asked: dict[str, Any], said: str) -> None:
    driver = Driver()
    with pytest.raises(ConfigurationError, match=said):
        create(driver, **asked)


def test_a_lost_answer_is_asked_for_again_under_one_name() -> None:
    driver = Driver(BROKEN, answer(503, {"error": "x"}), answer(200, MADE))
    create(driver)
    assert len({request.headers["x-trigger-request-idempotency-key"] for request in driver.sent}) == 1
    assert len(driver.sent) == 3


def test_an_answer_of_another_program_is_an_error() -> None:
    with pytest.raises(ClientError, match="not what a headrace server says"):
        create(Driver(answer(200, {"id": "x"})))


@pytest.mark.parametrize("token", ["waitpoint_1", Token("waitpoint_1", "", "")])
def test_a_token_is_named_by_itself_or_by_its_id(token: Token | str) -> None:
    path = "/api/v1/waitpoints/tokens/waitpoint_1"
    completing = Driver(answer(200, {"success": True}))
    completing.run(tokens.complete_token(token, {"when": NOON}))
    assert completing.paths == [f"{path}/complete"]
    assert body_of(completing.sent[0]) == {"data": {"when": "2030-01-02T12:00:00Z"}}
    retrieving = Driver(answer(200, {"id": "waitpoint_1", "output": '{"a": [1]}'}))
    assert retrieving.run(tokens.retrieve_token(token)) == {"id": "waitpoint_1", "output": {"a": [1]}}
    assert retrieving.paths == [path]


def test_an_output_that_is_no_json_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PayloadError):
        Driver().run(tokens.complete_token("waitpoint_1", object()))


def test_a_token_that_is_not_there_is_an_error_at_once() -> None:
    driver = Driver(answer(404, {"error": "Not found"}, x_should_retry="false"))
    with pytest.raises(ApiError, match="Not found"):
        driver.run(tokens.complete_token("../x", None))
    assert driver.paths == ["/api/v1/waitpoints/tokens/..%2Fx/complete"]


def test_a_list_is_asked_for_by_names_of_the_wire() -> None:
    page = {"data": [], "pagination": {}}
    driver = Driver(answer(200, page))
    flow = tokens.list_tokens(5, "waitpoint_2", None, ["WAITING", "TIMED_OUT"], "a,b", "k&1", "24h")
    assert driver.run(flow) == page
    query = (
        "page%5Bsize%5D=5&page%5Bafter%5D=waitpoint_2&filter%5Bstatus%5D=WAITING%2CTIMED_OUT"
        "&filter%5Btags%5D=a%2Cb&filter%5BidempotencyKey%5D=k%261&filter%5BcreatedAt%5D%5Bperiod%5D=24h"
    )
    assert driver.paths == [f"/api/v1/waitpoints/tokens?{query}"]


def test_a_token_does_not_show_its_credentials() -> None:
    token = Token("waitpoint_1", "http://x/callback/secret", "secret.jwt", is_cached=True)
    assert repr(token) == "Token(id='waitpoint_1', is_cached=True)"
