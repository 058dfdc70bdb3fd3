"""Options of a run: what the wire allows in them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from headrace.protocol.errors import describe_validation_error
from headrace.protocol.options import Debounce, QueueOption, RunOptions

WIRE_NAMES = {
    "concurrencyKey", "delay", "idempotencyKey", "idempotencyKeyTTL", "idempotencyKeyOptions", "lockToVersion",
    "externalDeploymentId", "machine", "maxAttempts", "maxDuration", "metadata", "metadataType", "parentAttempt",
    "payloadType", "payloadSize", "queue", "tags", "test", "ttl", "priority", "region", "debounce",
}  # fmt: skip


def read(**options: Any) -> RunOptions:
    return msgspec.json.decode(json.dumps(options), type=RunOptions)


def refusal(**options: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        read(**options)
    return describe_validation_error(caught.value)


def test_the_names_are_those_of_the_wire() -> None:
    assert {field.encode_name for field in msgspec.structs.fields(RunOptions)} == WIRE_NAMES | {
        "orderKey",
        "retry",
    }  # headrace's own


def test_all_are_optional_and_none_is_written_that_was_not_given() -> None:
    assert read() == RunOptions()
    assert msgspec.json.encode(read(maxAttempts=3, queue={"name": "q", "concurrencyLimit": 1})) == (
        b'{"maxAttempts":3,"queue":{"name":"q"}}'
    )


def test_keys_that_are_not_listed_are_ignored() -> None:
    """A client can't reach past them, into what the engine sets itself."""
    assert read(parentRunId="run_x", resumeParentOnCompletion=True, __error="x", maxAttempts=2) == RunOptions(
        max_attempts=2
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a", "a"), (5, "5"), (5.0, "5"), (1234567, "1234567"), (2**70, str(2**70)), (0.5, "0.5"), (-1, "-1"), ("", None)],
)
def test_a_concurrency_key_may_be_a_number(given: object, kept: str | None) -> None:
    """Checklist 113."""
    assert read(concurrencyKey=given).concurrency_key == kept


@pytest.mark.parametrize("given", [{}, [], True])
def test_a_concurrency_key_is_nothing_else(given: object) -> None:
    """Checklist 113."""
    assert refusal(concurrencyKey=given).endswith(' at "concurrencyKey"')


def test_an_idempotency_key_has_2048_characters_at_most() -> None:
    """Checklist 114."""
    assert read(idempotencyKey="é" * 2048).idempotency_key == "é" * 2048
    assert read(idempotencyKey="0" * 64).idempotency_key == "0" * 64
    assert refusal(idempotencyKey="x" * 2049) == (
        'Validation error: idempotencyKey must be 2048 characters or less at "idempotencyKey"'
    )


def test_the_size_of_a_payload_may_be_told() -> None:
    """Checklist 116."""
    assert read(payloadSize=0).payload_size == 0
    assert refusal(payloadSize=-1) == 'Validation error: Expected `int` >= 0 at "payloadSize"'


@pytest.mark.parametrize(
    ("given", "kept"), [("a", ["a"]), (["a", "b"], ["a", "b"]), (["", "a", ""], ["a"]), ("", []), ([], [])]
)
def test_tags_may_be_one_or_many(given: object, kept: list[str]) -> None:
    assert read(tags=given).tags == kept


def test_tags_have_limits() -> None:
    assert read(tags=["x" * 128] * 10).tags == ["x" * 128] * 10
    assert refusal(tags=["a"] * 11) == "Validation error: a run has at most 10 tags, 11 were given"
    assert refusal(tags=["a", "x" * 129]).startswith("Validation error: Expected `str` of length <= 128 at ")
    assert "a tag has at most 128 characters" in refusal(tags="x" * 129)


@pytest.mark.parametrize(("given", "kept"), [(" d1 ", "d1"), ("  ", None), ("", None), (None, None)])
def test_the_id_of_a_deployment_is_trimmed(given: str | None, kept: str | None) -> None:
    assert read(externalDeploymentId=given).external_deployment_id == kept


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"machine": "huge"}, "machine"),
        ({"maxAttempts": 0}, "maxAttempts"),
        ({"maxAttempts": 1.5}, "maxAttempts"),
        ({"maxDuration": -1}, "maxDuration"),
        ({"queue": "q"}, "queue"),
        ({"queue": {"name": ""}}, "queue.name"),
        ({"queue": {"name": "x" * 129}}, "queue.name"),
        ({"ttl": -1}, "ttl"),
        ({"test": "yes"}, "test"),
        ({"priority": "high"}, "priority"),
        ({"delay": 5}, "delay"),
        ({"idempotencyKeyOptions": {"key": "k", "scope": "world"}}, "idempotencyKeyOptions.scope"),
        ({"debounce": {"key": "x" * 513, "delay": "1s"}}, "debounce.key"),
        ({"debounce": {"key": "k", "delay": "1s", "mode": "middle"}}, "debounce.mode"),
    ],
)
def test_what_is_refused_is_named(options: dict[str, Any], path: str) -> None:
    assert refusal(**options).startswith("Validation error: ")
    assert refusal(**options).endswith(f' at "{path}"')


def test_what_nests() -> None:
    options = read(
        queue={"name": "images"}, ttl="10m", metadata={"a": [1]}, debounce={"key": "k", "delay": "5s", "maxDelay": "1m"}
    )
    assert options.queue == QueueOption("images")
    assert options.debounce == Debounce("k", "5s", None, "1m")
    assert (options.ttl, options.metadata) == ("10m", {"a": [1]})
    assert read(ttl=600).ttl == 600


def test_what_is_written_reads_the_same() -> None:
    options = read(
        tags="a", concurrencyKey=7, idempotencyKey="k", idempotencyKeyTTL="1h", metadata={"x": None}, priority=1
    )
    assert msgspec.json.decode(msgspec.json.encode(options), type=RunOptions) == options
