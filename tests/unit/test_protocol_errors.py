"""The sentences of refusals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.protocol.batches import BatchItem, OneShotBatch
from headrace.protocol.errors import ErrorBody, describe_validation_error


@pytest.mark.parametrize(
    ("body", "type_", "sentence"),
    [
        (b"[]", BatchItem, "Validation error: Expected `object`, got `array`"),
        (b'{"task": "t"}', BatchItem, "Validation error: Object missing required field `index`"),
        (b'{"index": "x"}', BatchItem, 'Validation error: Expected `int`, got `str` at "index"'),
        (
            b'{"index": 1, "task": "t", "options": {"queue": {}}}',
            BatchItem,
            'Validation error: Object missing required field `name` at "options.queue"',
        ),
        (b'{"items": [{"task": 7}]}', OneShotBatch, 'Validation error: Expected `str`, got `int` at "items[0].task"'),
        (b'{"1": 2}', dict[int, str], 'Validation error: Expected `str`, got `int` at "[...]"'),
    ],
)
def test_what_was_expected_and_where(body: bytes, type_: Any, sentence: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=type_)
    assert describe_validation_error(caught.value) == sentence


def test_an_error_body_says_no_more_than_it_knows() -> None:
    assert msgspec.json.encode(ErrorBody("Not found")) == b'{"error":"Not found"}'
    assert msgspec.json.encode(ErrorBody("Unauthorized", code="unauthorized")) == (
        b'{"error":"Unauthorized","code":"unauthorized"}'
    )
