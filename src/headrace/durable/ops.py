"""What a run's code asks of the worker that executes it, and what it is told. Plain values: they go through a pipe as well.

An operation with a ``name`` is a durable point: it is written to the run's journal, and a replay is told the same again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, Literal

from msgspec import Struct

from headrace.protocol.metadata import MetadataOperation
from headrace.protocol.options import RunOptions

Target = Literal["run", "parent", "root"]
"""Whose metadata: the run's own, or that of one above it. A run with none above it is its own parent and root."""

ITERATE: Final = "iterate:"
"""How the names of batches begin whose outcomes are given as they come."""


def page_name(batch: str, number: int) -> str:
    """The name by which code asks for a page of the batch's outcomes, 1 for the first."""
    return f"{batch}~{number}"


class Value(Struct, frozen=True):
    """Bytes and their media type; no bytes are no value."""

    data: bytes | None = None
    type: str = "application/json"


class ItemData(Struct, frozen=True):
    """An item of a batch."""

    index: int
    task: str
    payload: bytes | None
    options: RunOptions | None = None


class TriggerRun(Struct, frozen=True, tag=True):
    """A child; ``awaited`` until it has ended. Told: RunOutcome, or Triggered where it is not awaited."""

    kind: ClassVar[str] = "run"
    name: str
    task: str
    payload: bytes | None
    options: RunOptions
    awaited: bool = True
    inherit_tags: bool = False
    cascade: bool = True


class OpenBatch(Struct, frozen=True, tag=True):
    """A batch of children: with ``items`` all of it, at once. Told: BatchOpened."""

    kind: ClassVar[str] = "batch"
    name: str
    task: str
    start: Literal["add", "seal"] = "add"
    items: list[ItemData] | None = None
    inherit_tags: bool = False
    cascade: bool = True


class StoreItems(Struct, frozen=True, tag=True):
    """More items of an open batch. Told: nothing."""

    batch_id: str
    items: list[ItemData]
    inherit_tags: bool = False


class SealBatch(Struct, frozen=True, tag=True):
    """All items of a batch are there. Told: nothing."""

    batch_id: str
    run_count: int


class AwaitBatch(Struct, frozen=True, tag=True):
    """The end of a batch that was opened under this name. Told: BatchOutcome."""

    name: str


class ReadOutcomes(Struct, frozen=True, tag=True):
    """Ended items of a batch: from index ``start`` on, at most ``limit``; or those of ``indexes``. Told: list[RunOutcome]."""

    batch_id: str
    start: int = 0
    limit: int = 1000
    indexes: list[int] | None = None


class FollowBatch(Struct, frozen=True, tag=True):
    """More ended items of a batch than ``settled``, or its end. Told: BatchOutcome, as it is then.

    A wait and no more: a replay that has the pages that followed does not come to it, and it may be asked again.
    """

    kind: ClassVar[str] = "progress"
    name: str
    batch_id: str
    settled: int


class KeepPage(Struct, frozen=True, tag=True):
    """The indexes that are given to the code next, as JSON. Told: the Value that was kept, which a replay gives again."""

    kind: ClassVar[str] = "step"
    batch: str
    number: int
    data: bytes

    @property
    def name(self) -> str:
        """The point's name."""
        return page_name(self.batch, self.number)


class RecallPage(Struct, frozen=True, tag=True):
    """Whether that page was kept. Told: a bool. Not a point: nothing is written."""

    batch: str
    number: int


class RecallWait(Struct, frozen=True, tag=True):
    """What is known of a wait. Told: "new", "waiting" (it was come to before) or "told". Not a point: nothing is written."""

    name: str


class WaitTime(Struct, frozen=True, tag=True):
    """Seconds, or a date, that are to be over. Told: nothing."""

    kind: ClassVar[str] = "time"
    name: str
    seconds: float | None = None
    until: datetime | None = None


class MakeToken(Struct, frozen=True, tag=True):
    """A new token. Told: the Value of a Token."""

    kind: ClassVar[str] = "effect"
    name: str
    timeout: str | None = None
    tags: list[str] = []
    idempotency_key: str | None = None
    idempotency_key_ttl: str | None = None


class AwaitToken(Struct, frozen=True, tag=True):
    """The end of a token. Told: TokenOutcome."""

    kind: ClassVar[str] = "token"
    name: str
    token_id: str


class BeginStep(Struct, frozen=True, tag=True):
    """Code that is to run once. Told: StepState."""

    kind: ClassVar[str] = "step"
    name: str


class EndStep(Struct, frozen=True, tag=True):
    """How it went. Told: StepState: its own words, or, ``retry_in`` seconds later, that it is to be tried again."""

    name: str
    value: Value = Value()
    error: dict[str, Any] | None = None
    retry_in: float | None = None
    failures: int = 0


class ChangeMetadata(Struct, frozen=True, tag=True):
    """Operations on the metadata of the run, or of one above it: all or none. Told: nothing.

    Of ``name`` "" it is no point: doing it again changes nothing.
    """

    kind: ClassVar[str] = "effect"
    name: str
    operations: list[MetadataOperation]
    target: Target = "run"


class ReadMetadata(Struct, frozen=True, tag=True):
    """The metadata of the run, or of one above it, as it is now. Told: a dict."""

    target: Target = "run"


class AddTags(Struct, frozen=True, tag=True):
    """More tags of the run. Told: the Value of a list, all tags that it has then."""

    kind: ClassVar[str] = "effect"
    name: str
    tags: list[str]


Op = (
    TriggerRun
    | OpenBatch
    | StoreItems
    | SealBatch
    | AwaitBatch
    | ReadOutcomes
    | FollowBatch
    | KeepPage
    | RecallPage
    | RecallWait
    | WaitTime
    | MakeToken
    | AwaitToken
    | BeginStep
    | EndStep
    | ChangeMetadata
    | ReadMetadata
    | AddTags
)


class Triggered(Struct, frozen=True, tag=True):
    """A run that was triggered, or found by its idempotency key."""

    run_id: str
    is_cached: bool


class RunOutcome(Struct, frozen=True, tag=True):
    """How a run ended; of a batch's item, its index and task."""

    run_id: str
    status: str
    value: Value = Value()
    error: dict[str, Any] | None = None
    index: int = 0
    task: str | None = None


class BatchOpened(Struct, frozen=True, tag=True):
    """A batch that is there, and whether it takes items still."""

    batch_id: str
    is_open: bool
    run_count: int | None = None


class BatchOutcome(Struct, frozen=True, tag=True):
    """How a batch ended."""

    batch_id: str
    status: str
    run_count: int | None
    error: dict[str, Any] | None = None


class TokenOutcome(Struct, frozen=True, tag=True):
    """How a token ended."""

    token_id: str
    status: str
    value: Value = Value()


class MadeToken(Struct, frozen=True, tag=True):
    """A token that was made, as it is kept: its credentials follow from this."""

    token_id: str
    is_cached: bool
    made_at: int


class StepState(Struct, frozen=True, tag=True):
    """A step: over with a value or an error, or to be run now, after so many failures."""

    is_over: bool
    value: Value = Value()
    error: dict[str, Any] | None = None
    failures: int = 0


Told = (
    Triggered
    | RunOutcome
    | BatchOpened
    | BatchOutcome
    | TokenOutcome
    | StepState
    | Value
    | list[RunOutcome]
    | dict[str, Any]
    | None
)


def kind_of_wait(op: Op) -> Literal["time", "run", "batch", "token"] | None:
    """What ``op`` waits for; None for what is no wait."""
    match op:
        case TriggerRun(awaited=True):
            return "run"
        case AwaitBatch() | FollowBatch():
            return "batch"
        case WaitTime():
            return "time"
        case AwaitToken():
            return "token"
        case _:
            return None
