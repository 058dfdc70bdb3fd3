"""Options of a run as they stand on the wire: the same in a trigger, in an item of a batch and in one-shot bodies.

research/batch.md 1.5. Keys that are not listed are ignored, so a client can't reach past them.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from headrace.queues import MAX_NAME_LENGTH, check_queue_name
from headrace.version_names import find_version_fault

IdempotencyKey = Annotated[str, Meta(max_length=2048)]
MAX_TAGS: Final = 10
MAX_TAG_LENGTH: Final = 128
_MAX_PRIORITY: Final = 2_147_483.0  # seconds: what the wire's 32 bits hold in milliseconds


class QueueOption(Struct, frozen=True):
    """The queue to run on."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]

    def __post_init__(self) -> None:
        check_queue_name(self.name)


class IdempotencyKeyOptions(Struct, frozen=True):
    """The key as its author wrote it, and its scope."""

    key: IdempotencyKey
    scope: Literal["run", "attempt", "global"]


class Debounce(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Triggers with the same key within a window become one run."""

    key: Annotated[str, Meta(min_length=1, max_length=512)]
    delay: str
    mode: Literal["leading", "trailing"] | None = None
    max_delay: str | None = None


class RetryOption(Struct, frozen=True, rename="camel", omit_defaults=True):
    """How often a run is tried, in place of what its task says; what is left out stays as the task says."""

    max_attempts: Annotated[int, Meta(ge=1, le=32_000)] | None = None
    factor: Annotated[float, Meta(ge=1)] | None = None
    min_timeout_in_ms: Annotated[float, Meta(ge=0)] | None = None
    max_timeout_in_ms: Annotated[float, Meta(ge=0)] | None = None
    randomize: bool | None = None


class RunOptions(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What may be said of a run beside its payload. All optional; durations are seconds or text such as "1h30m"."""

    concurrency_key: Annotated[str, Meta(max_length=512)] | int | float | None = None
    delay: str | None = None
    idempotency_key: IdempotencyKey | None = None
    idempotency_key_ttl: str | None = msgspec.field(default=None, name="idempotencyKeyTTL")
    idempotency_key_options: IdempotencyKeyOptions | None = None
    lock_to_version: str | None = None
    external_deployment_id: str | None = None
    machine: Literal["micro", "small-1x", "small-2x", "medium-1x", "medium-2x", "large-1x", "large-2x"] | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=32_000)] | None = None
    max_duration: Annotated[float, Meta(ge=0)] | None = None
    retry: RetryOption | None = None
    """headrace's own. ``max_attempts`` goes before the one in here."""
    metadata: Any = None
    metadata_type: str | None = None
    parent_attempt: str | None = None
    payload_type: str | None = None
    payload_size: Annotated[int, Meta(ge=0)] | None = None
    queue: QueueOption | None = None
    tags: list[Annotated[str, Meta(max_length=MAX_TAG_LENGTH)]] | str | None = None
    test: bool | None = None
    ttl: str | Annotated[float, Meta(ge=0)] | None = None
    priority: Annotated[float, Meta(ge=-_MAX_PRIORITY, le=_MAX_PRIORITY)] | None = None
    region: str | None = None
    debounce: Debounce | None = None
    order_key: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    """headrace's own: runs of one task and queue with the same key are started one at a time, in the order they came."""

    def __post_init__(self) -> None:
        if isinstance(self.tags, str):
            msgspec.structs.force_setattr(self, "tags", [self.tags])
        if self.tags is not None:
            msgspec.structs.force_setattr(self, "tags", _check_tags(self.tags))
        if self.metadata is not None and not isinstance(self.metadata, dict):
            msgspec.structs.force_setattr(self, "metadata", _read_metadata(self.metadata))
        if self.concurrency_key is not None:
            msgspec.structs.force_setattr(self, "concurrency_key", _spell_key(self.concurrency_key))
        if self.order_key is not None and self.concurrency_key is not None:
            raise ValueError(
                "a run has a concurrencyKey or an orderKey, not both were given: with an orderKey one run of the key goes at a time"
            )
        if self.lock_to_version is not None and (fault := find_version_fault(self.lock_to_version)):
            raise ValueError(f"lockToVersion {fault}")
        if self.order_key is not None and self.lock_to_version is not None:
            raise ValueError(
                "a run with an orderKey can't be locked to a version (lockToVersion): it would wait in another line than the "
                "other runs of its key"
            )
        if self.external_deployment_id is not None:
            msgspec.structs.force_setattr(self, "external_deployment_id", self.external_deployment_id.strip() or None)


def _spell_key(given: str | float) -> str | None:
    if isinstance(given, str):
        return given or None  # an empty one says nothing, as an empty tag does
    return _spell_number(given)


def _spell_number(number: float) -> str:
    # 5 and 5.0 are one number in JSON, so they have to be one key
    return str(int(number)) if isinstance(number, int) or number.is_integer() else repr(number)


def _read_metadata(given: object) -> dict[str, Any]:
    """Metadata that came as text of JSON, as some clients send it."""
    if isinstance(given, str):
        try:
            return msgspec.json.decode(given, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            raise ValueError("metadata is text, but must be a JSON object, or the text of one") from None
    raise ValueError(f"metadata is {str(given)[:60]}, but must be a JSON object")


def _check_tags(tags: str | list[str]) -> list[str]:
    kept = [tag for tag in tags if tag]
    if len(kept) > MAX_TAGS:
        raise ValueError(f"a run has at most {MAX_TAGS} tags, {len(kept)} were given")
    if long := next((tag for tag in kept if len(tag) > MAX_TAG_LENGTH), None):
        raise ValueError(f"a tag has at most {MAX_TAG_LENGTH} characters, {long[:20]!r}... has {len(long)}")
    return kept
