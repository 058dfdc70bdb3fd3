"""Batches on the wire: what a body may say, and what an answer looks like to the byte."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.protocol.batches import (
    BatchV2,
    CreateBatch,
    CreateBatchResponse,
    OneShotBatch,
    OneShotBatchResponse,
    SealBatch,
    StreamItemsResponse,
)
from headrace.protocol.errors import describe_validation_error
from headrace.protocol.options import RunOptions


def refusal(body: bytes, type_: type) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=type_)
    return describe_validation_error(caught.value)


def test_what_may_be_said_of_a_new_batch() -> None:
    body = (
        b'{"runCount":2,"taskIdentifiers":["t"],"parentRunId":"run_p","resumeParentOnCompletion":true,"idempotencyKey":"k",'
        b'"idempotencyKeyTTL":"1h","start":"seal","idempotencyKeyOptions":{"key":"k","scope":"run"},"unknown":1}'
    )
    batch = msgspec.json.decode(body, type=CreateBatch)
    assert (batch.run_count, batch.task_identifiers, batch.parent_run_id, batch.start) == (2, ["t"], "run_p", "seal")
    assert (batch.resume_parent_on_completion, batch.idempotency_key, batch.idempotency_key_ttl) == (True, "k", "1h")


def test_a_batch_without_a_count_is_open_ended() -> None:
    assert msgspec.json.decode(b"{}", type=CreateBatch) == CreateBatch(run_count=None, start="add")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"runCount":0}', 'Expected `int` >= 1 at "runCount"'),
        (b'{"runCount":-1}', 'Expected `int` >= 1 at "runCount"'),
        (b'{"runCount":2147483648}', 'Expected `int` <= 2147483647 at "runCount"'),
        (b'{"runCount":"2"}', 'Expected `int | null`, got `str` at "runCount"'),
        (b'{"runCount":1.5}', 'Expected `int | null`, got `float` at "runCount"'),
        (b'{"taskIdentifiers":[]}', 'Expected `array` of length >= 1 at "taskIdentifiers"'),
        (b'{"taskIdentifiers":[""]}', 'Expected `str` of length >= 1 at "taskIdentifiers[0]"'),
        (b'{"start":"now"}', "Invalid enum value 'now' at \"start\""),
        (
            b'{"idempotencyKey":"' + b"x" * 2049 + b'"}',
            'idempotencyKey must be 2048 characters or less at "idempotencyKey"',
        ),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
def test_what_may_not(body: bytes, said: str) -> None:
    """Checklist 114, 115."""
    assert refusal(body, CreateBatch) == f"Validation error: {said}"


def test_a_seal_names_a_count() -> None:
    assert msgspec.json.decode(b'{"runCount":7}', type=SealBatch) == SealBatch(7)
    assert refusal(b"{}", SealBatch) == "Validation error: Object missing required field `runCount`"


def test_a_one_shot_body() -> None:
    body = b'{"items":[{"task":"a","payload":{"n":1},"options":{"tags":"x"},"index":9},{"task":"b"}]}'
    batch = msgspec.json.decode(body, type=OneShotBatch)
    assert [item.task for item in batch.items] == ["a", "b"]
    assert batch.items[0].payload == msgspec.Raw(b'{"n":1}')
    assert batch.items[0].options == RunOptions(tags=["x"])
    assert batch.items[1].payload is msgspec.UNSET


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (CreateBatchResponse("batch_a", 2, False), b'{"id":"batch_a","runCount":2,"isCached":false}'),
        (
            CreateBatchResponse("batch_a", None, True, "k"),
            b'{"id":"batch_a","runCount":null,"isCached":true,"idempotencyKey":"k"}',
        ),
        (OneShotBatchResponse("batch_a", False, 2), b'{"id":"batch_a","isCached":false,"runCount":2}'),
        (
            StreamItemsResponse("batch_a", 1, 1, True, 2),
            b'{"id":"batch_a","itemsAccepted":1,"itemsDeduplicated":1,"sealed":true,"runCount":2}',
        ),
        (
            StreamItemsResponse("batch_a", 1, 0, False, 3, 1, 3, [(0, 0), (2, 2)]),
            (
                b'{"id":"batch_a","itemsAccepted":1,"itemsDeduplicated":0,"sealed":false,"runCount":3,'
                b'"enqueuedCount":1,"expectedCount":3,"missing":[[0,0],[2,2]]}'
            ),
        ),
    ],
)
def test_answers_to_the_byte(answer: Any, text: bytes) -> None:
    """The examples of research/batch.md 3.6, and what is absent where it says nothing."""
    assert msgspec.json.encode(answer) == text
    assert msgspec.json.decode(text, type=type(answer)) == answer


def test_an_answer_may_say_more_than_is_known() -> None:
    """Clients tolerate absence of the counts, and fields that they don't know."""
    text = b'{"id":"b","itemsAccepted":1,"itemsDeduplicated":0,"sealed":false,"runCount":2,"more":1}'
    assert msgspec.json.decode(text, type=StreamItemsResponse).enqueued_count is msgspec.UNSET
    text = (
        b'{"id":"b","status":"PENDING","createdAt":"x","updatedAt":"x","runCount":2,"runs":[],"processing":{"errors":[]},'
        b'"progress":{"accepted":0,"settled":0,"succeeded":0,"failed":0}}'
    )
    batch = msgspec.json.decode(text, type=BatchV2)
    assert msgspec.json.decode(msgspec.json.encode(batch)) == msgspec.json.decode(text)
