"""The sentences of refusals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.protocol.batches import BatchItem, OneShotBatch
from headrace.protocol.errors import ErrorBody, describe_validation_error
from headrace.protocol.options import RunOptions


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (b'{"maxAttempts": 0}', 'Expected `int` >= 1, but it is 0 at "options.maxAttempts"'),
        (b'{"retry": {"factor": 0.5}}', 'Expected `float` >= 1.0, but it is 0.5 at "options.retry.factor"'),
        (
            b'{"orderKey": "%s"}' % (b"k" * 513),
            'Expected `str` of length <= 512, but its length is 513 at "options.orderKey"',
        ),
        (
            b'{"debounce": {"key": "k", "delay": "1s", "mode": "last"}}',
            "Invalid enum value 'last', must be one of: leading, trailing at \"options.debounce.mode\"",
        ),
        (b'{"test": 1}', 'Expected `bool | null`, got `int` at "options.test"'),
        (b'{"metadata": [1]}', 'metadata is [1], but must be a JSON object at "options"'),
        (b'{"metadata": "[1]"}', 'metadata is text, but must be a JSON object, or the text of one at "options"'),
    ],
)
def test_what_was_given_and_what_is_allowed(options: bytes, sentence: str) -> None:
    body = b'{"items": [{"task": "t"}, {"task": "t", "options": %s}]}' % options
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=OneShotBatch)
    told = describe_validation_error(caught.value, msgspec.json.decode(body), OneShotBatch)
    assert told == "Validation error: " + sentence.replace('"options', '"items[1].options')


def test_metadata_may_be_text_of_an_object() -> None:
    assert msgspec.json.decode(b'{"metadata": "{\\"n\\": 1}"}', type=RunOptions).metadata == {"n": 1}


def test_an_error_body_says_no_more_than_it_knows() -> None:
    assert msgspec.json.encode(ErrorBody("Not found")) == b'{"error":"Not found"}'
    assert msgspec.json.encode(ErrorBody("Unauthorized", code="unauthorized")) == (
        b'{"error":"Unauthorized","code":"unauthorized"}'
    )
