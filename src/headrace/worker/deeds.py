"""From what a run's code asks for to what is written, and back: ids minted, options read, large values carried aside."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from headrace.durable import ops
from headrace.engine import batches
from headrace.engine.deeds import (
    ChildBatch,
    ChildRun,
    Deed,
    Fence,
    Following,
    MetadataChange,
    NewToken,
    Result,
    TagsAddition,
    Timer,
    TokenWait,
)
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment
from headrace.engine.journals import hold_run
from headrace.engine.metadata import MetadataShown, find_metadata
from headrace.engine.outcomes import (
    JSON_TYPE,
    BatchRefused,
    ClaimedRun,
    Incomplete,
    ItemOutcome,
    Packet,
    StoredItem,
    StreamRefused,
)
from headrace.engine.screening import refuse_options
from headrace.engine.token_credentials import describe_token
from headrace.engine.versions import children_version
from headrace.errors import BatchTriggerError, ConfigurationError, LimitError, PayloadError
from headrace.ids import (
    format_run_id,
    format_token_id,
    mint_batch_id,
    mint_run_id,
    mint_token_id,
    parse_batch_id,
    parse_token_id,
)
from headrace.payloads import STORED_TYPE
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import MAX_TAGS, RunOptions

_SPELLING: Final = 100
"""Bytes of an operation on metadata beside its key and its value, at most."""

_FINAL: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""What says that something can't be written, ever."""


class Deeds:
    """The deeds of all runs of one worker."""

    def __init__(self, engine: Engine, environment: Environment) -> None:
        self._engine = engine
        self._environment = environment

    @staticmethod
    def is_final(error: BaseException) -> bool:
        """Whether writing it again is of no use."""
        return isinstance(error, _FINAL)

    def describe(self, run: ClaimedRun, op: Any) -> Deed:
        """What is done at a point. Raises HeadraceError, ValueError."""
        match op:
            case ops.TriggerRun():
                options = self._check(op.task, _with_tags(op.options, run, inherit=op.inherit_tags))
                return ChildRun(mint_run_id(self._engine.key), op.task, Packet(op.payload), options, op.awaited)
            case ops.OpenBatch():
                items = None if op.items is None else self._store_items(op.items, run, inherit=op.inherit_tags)
                request = CreateBatch(
                    run_count=None if items is None else len(items),
                    task_identifiers=[op.task],
                    parent_run_id=format_run_id(run.id),
                    start=op.start,
                )
                return ChildBatch(mint_batch_id(self._engine.key), request, items)
            case ops.KeepPage():
                return Result(Packet(op.data))
            case ops.EndStep():
                return Result(Packet(op.value.data, op.value.type), op.error, op.retry_in, op.failures)
            case ops.ChangeMetadata():
                return MetadataChange(op.operations, _find_above(run, op.target))
            case ops.AddTags():
                return TagsAddition(op.tags)
            case _:
                return self._describe_wait(op)

    def _store_items(self, given: list[ops.ItemData], run: ClaimedRun, *, inherit: bool) -> list[StoredItem]:
        most = self._engine.settings.batch_max_items
        if most and given[-1].index >= most:
            raise LimitError(
                f"a batch may have {most} items (HEADRACE_BATCH_MAX_ITEMS), and this one has more: make several"
            )
        return [
            StoredItem(
                item.index,
                item.task,
                Packet(item.payload),
                self._check(item.task, _with_tags(item.options, run, inherit=inherit)),
            )
            for item in given
        ]

    def _check(self, task: str, options: RunOptions) -> RunOptions:
        refuse_options(task, options, self._engine.settings.metadata_max_size)
        return options

    def _describe_wait(self, op: Any) -> Deed:
        match op:
            case ops.FollowBatch():
                return Following(_batch_id(op.batch_id), op.settled)
            case ops.WaitTime():
                return Timer(op.seconds, op.until)
            case ops.MakeToken():
                return NewToken(
                    mint_token_id(self._engine.key),
                    _keep_token,
                    op.timeout,
                    op.tags,
                    op.idempotency_key,
                    op.idempotency_key_ttl,
                )
            case ops.AwaitToken():
                token_id = parse_token_id(op.token_id)
                if token_id is None:
                    raise ConfigurationError(f"wait.for_token({op.token_id!r}): that is no token id.")
                return TokenWait(token_id)
            case _:
                raise AssertionError(f"{op!r} is no point")

    async def prepare(self, deed: Deed) -> Deed:
        """The deed as it is written: what is large is in the payload store."""
        match deed:
            case ChildRun():
                return replace(deed, packet=await self._offload(deed.packet))
            case ChildBatch() if deed.items is not None:
                for item in deed.items:
                    item.packet = await self._offload(item.packet)
                return deed
            case Result():
                return replace(deed, value=await self._offload(deed.value))
            case _:
                return deed

    async def load(self, told: Any) -> Any:
        """What is told to the code, with the value itself where it lies in the payload store."""
        match told:
            case ops.RunOutcome() | ops.TokenOutcome() | ops.StepState():
                return msgspec.structs.replace(told, value=await self._load_value(told.value))
            case ops.Value():
                return await self._load_value(told)
            case ops.MadeToken(token_id, is_cached, made_at):
                return self._give_token(token_id, is_cached, made_at)
            case _:
                return told

    def refuse(self, op: ops.ChangeMetadata) -> PayloadError | None:
        """What is wrong with a change of metadata by itself, wherever it is made: the same in every replay."""
        most = self._engine.settings.metadata_max_size
        size = len(msgspec.json.encode(op.operations))
        if size <= most + _SPELLING * len(op.operations):
            return None
        return PayloadError(
            f"the run's metadata would have {size} bytes, but may have {most} (HEADRACE_METADATA_MAX_SIZE): keep large values "
            "elsewhere, and show where"
        )

    async def do_at_once(self, run: ClaimedRun, fence: Fence, op: Any) -> Any:
        """Does what is no point: repeating it changes nothing."""
        environment_id = fence.lease.environment_id
        match op:
            case ops.StoreItems():
                await self._store_chunk(run, fence, op)
            case ops.SealBatch():
                batch_id = _batch_id(op.batch_id)
                answer = await batches.end_stream(self._engine, environment_id, batch_id, run_count=op.run_count)
                if isinstance(answer, Incomplete | StreamRefused | BatchRefused):
                    raise _describe_unsealed(op.batch_id, answer)
            case ops.ReadMetadata(target):
                found = await find_metadata(self._engine, environment_id, _find_above(run, target) or run.id)
                return found.metadata if isinstance(found, MetadataShown) else {}
            case ops.ReadOutcomes():
                outcomes = await batches.list_batch_outcomes(
                    self._engine,
                    environment_id,
                    _batch_id(op.batch_id),
                    start=op.start,
                    limit=op.limit,
                    indexes=op.indexes,
                )
                return [await self.load(_read_outcome(one)) for one in outcomes]
            case _:
                raise AssertionError(f"{op!r} is a point")
        return None

    async def _store_chunk(self, run: ClaimedRun, fence: Fence, op: ops.StoreItems) -> None:
        environment_id = fence.lease.environment_id
        batch = await batches.find_batch(self._engine, environment_id, _batch_id(op.batch_id))
        assert batch is not None, "a batch is made with its point"
        items = self._store_items(op.items, run, inherit=op.inherit_tags)
        for item in items:
            item.packet = await self._offload(item.packet)
        answer = await batches.store_chunk(
            self._engine,
            environment_id,
            batch,
            items,
            hold=partial(hold_run, fence),
            prefers=children_version(fence.lease, self._engine.settings),
        )
        if isinstance(answer, StreamRefused | BatchRefused):
            raise _describe_unsealed(op.batch_id, answer)

    async def _offload(self, packet: Packet) -> Packet:
        if (
            packet.data is None
            or len(packet.data) < self._engine.settings.offload_threshold
            or packet.type != JSON_TYPE
        ):
            return packet
        path = await self._engine.payloads.put(self._environment.slug, packet.data)
        return Packet(path.encode(), STORED_TYPE)

    async def _load_value(self, value: ops.Value) -> ops.Value:
        if value.type != STORED_TYPE or value.data is None:
            return value
        return ops.Value(await self._engine.payloads.get(self._environment.slug, value.data.decode()))

    def _give_token(self, text: str, is_cached: bool, made_at: int) -> ops.Value:
        token_id = parse_token_id(text)
        assert token_id is not None, "it comes from the journal"
        url = self._engine.settings.api_url
        token = describe_token(self._environment, token_id, url, is_cached=is_cached, issued_at=made_at)
        return ops.Value(msgspec.json.encode(token))


def _keep_token(token_id: UUID, is_cached: bool) -> Packet:
    return Packet(msgspec.json.encode(ops.MadeToken(format_token_id(token_id), is_cached, int(time.time()))))


def _with_tags(options: RunOptions | None, run: ClaimedRun, *, inherit: bool) -> RunOptions:
    chosen = options or RunOptions()
    if not inherit or not run.tags:
        return chosen
    tags = list(dict.fromkeys([*(chosen.tags or ()), *run.tags]))
    if len(tags) > MAX_TAGS:
        raise ConfigurationError(f"with the tags that it inherits a child has {len(tags)}, but {MAX_TAGS} are allowed")
    return msgspec.structs.replace(chosen, tags=tags)


def _find_above(run: ClaimedRun, target: ops.Target) -> UUID | None:
    """The run above that is meant; None for the run itself."""
    above = {"run": None, "parent": run.parent_run_id, "root": run.root_run_id}[target]
    return None if above == run.id else above


def _read_outcome(result: ItemOutcome) -> ops.RunOutcome:
    value = ops.Value(result.output.data, result.output.type)
    return ops.RunOutcome(format_run_id(result.run_id), result.status, value, result.error, result.index, result.task)


def _batch_id(text: str) -> UUID:
    batch_id = parse_batch_id(text)
    assert batch_id is not None, "it comes from the batch's own point"
    return batch_id


def _describe_unsealed(batch_id: str, answer: object) -> BatchTriggerError:
    told = getattr(answer, "message", None) or type(answer).__name__
    return BatchTriggerError(
        f"the items of batch {batch_id} can't be stored: {told}", phase="stream", batch_id=batch_id
    )
