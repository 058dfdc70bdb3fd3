"""Clients of the fleet under fire, and what they were told."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from headrace.engine import batches, bulk_actions, cancels, replays, runs, tokens
from headrace.engine.bulk_actions import BulkCreated, BulkKind, BulkLimit, BulkOrder
from headrace.engine.engine import Engine
from headrace.engine.outcomes import (
    BatchCreated,
    BatchExists,
    BatchRefused,
    ChunkStored,
    Packet,
    RunCanceled,
    RunCreated,
    RunEnded,
    RunExists,
    RunFilter,
    Sealed,
    StoredItem,
    StreamDone,
)
from headrace.ids import format_token_id, mint_token_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import TERMINAL_RUN_STATUSES
from headrace.protocol.tokens import CreateToken
from tests.chaos.fire import patiently

ENVIRONMENT: Final = 1
DELAY: Final = 0.7

Ended = tuple[str, bytes | None, datetime | None]
"""The status of a run that has ended, its output, and when that was."""


@dataclass
class Told:
    """What clients were answered."""

    log: Path
    """Of the runs that say who carried them out."""
    runs: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    """By what was asked for: the runs that it was said to be."""
    failing: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    """By a key that is free again when its run has failed: the runs."""
    made: list[UUID] = field(default_factory=list[UUID])
    """Roots that were said to be new, in the order of the answers."""
    parents: dict[UUID, int] = field(default_factory=dict[UUID, int])
    batches: dict[UUID, int] = field(default_factory=dict[UUID, int])
    batch_keys: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    asks: dict[UUID, UUID] = field(default_factory=dict[UUID, UUID])
    delayed: set[UUID] = field(default_factory=set[UUID])
    ended: dict[UUID, Ended] = field(default_factory=dict[UUID, Ended])
    """How runs had ended when they were looked at."""
    replayed: dict[UUID, UUID] = field(default_factory=dict[UUID, UUID])
    """By the run that a replay made: the one that it was made of."""
    bulks: dict[UUID, tuple[BulkKind, list[UUID]]] = field(default_factory=dict[UUID, tuple[BulkKind, list[UUID]]])
    """By its action: what was to be done, and with which runs."""
    faults: list[str] = field(default_factory=list[str])
    """What they were told that can't be true."""

    @property
    def known(self) -> set[UUID]:
        """All runs that anybody was told of."""
        return {run_id for found in [*self.runs.values(), *self.failing.values()] for run_id in found}


class Client:
    """Does things at random, and tries again until it is answered, always with the same request id."""

    def __init__(self, name: str, engine: Engine, told: Told, chance: random.Random) -> None:
        self._name = name
        self._engine = engine
        self._told = told
        self._chance = chance
        often = [self._trigger_leaf, self._trigger_keyed, self._trigger_parent, self._look]
        self._acts: list[Callable[[str], Awaitable[None]]] = [
            *often,
            *often,
            *(self._trigger_once, self._trigger_once, self._trigger_narrow, self._trigger_narrow),
            *(self._trigger_late, self._trigger_unserved, self._trigger_ordered, self._trigger_failing),
            *(self._submit, self._submit_keyed, self._stream, self._stream, self._ask, self._ask),
            *(self._cancel, self._replay, self._replay_many, self._cancel_many),
        ]

    async def act(self, number: int) -> None:
        """The next thing that it does."""
        await self._chance.choice(self._acts)(f"{self._name}-{number}")

    async def trigger(self, request: str, task: str, value: Any, **options: Any) -> UUID:
        """A run of its own for this request, however often it is asked for."""
        packet = Packet(json.dumps(value).encode())
        answer = await patiently(
            lambda: runs.trigger_run(
                self._engine, ENVIRONMENT, task, packet, RunOptions(**options), request_id=f"{request} {task}"
            )
        )
        assert isinstance(answer, RunCreated | RunExists), answer
        self._told.runs[f"{request} {task}"].add(answer.run_id)
        if isinstance(answer, RunCreated):
            self._told.made.append(answer.run_id)
        return answer.run_id

    async def ask_before(self, request: str, store: str) -> tuple[UUID, UUID]:
        """A run that waits for a token of this store, which nobody has completed; both."""
        token_id = mint_token_id(store)
        await patiently(lambda: tokens.create_token(self._engine, ENVIRONMENT, token_id, CreateToken()))
        run_id = await self.trigger(request, "f.asks", format_token_id(token_id))
        self._told.asks[run_id] = token_id
        return token_id, run_id

    async def answer(self, token_id: UUID) -> None:
        """Completes a token, as soon as its store can be told."""
        await patiently(lambda: tokens.complete_token(self._engine, ENVIRONMENT, token_id, Packet(b'"yes"')))

    async def _trigger_leaf(self, request: str) -> None:
        await self.trigger(request, "f.leaf", self._chance.randrange(100))

    async def _trigger_keyed(self, request: str) -> None:
        key = f"k{self._chance.randrange(8)}"
        self._told.runs[f"key {key}"].add(await self.trigger(request, "f.leaf", 1, idempotency_key=key))

    async def _trigger_failing(self, request: str) -> None:
        """Its key is free again once it has failed; until then it is one run."""
        number = self._chance.randrange(3)
        run_id = await self.trigger(request, "f.fails", number, idempotency_key=f"x{number}")
        self._told.failing[f"x{number}"].add(run_id)

    async def _trigger_parent(self, request: str) -> None:
        n = self._chance.randrange(20)
        self._told.parents[await self.trigger(request, "f.parent", n)] = n

    async def _trigger_once(self, request: str) -> None:
        await self.trigger(request, "f.once", str(self._told.log))

    async def _trigger_narrow(self, request: str) -> None:
        for number in range(3):
            key = f"c{self._chance.randrange(4)}"
            await self.trigger(f"{request}.{number}", "f.narrow", 1, concurrency_key=key)

    async def _trigger_late(self, request: str) -> None:
        self._told.delayed.add(await self.trigger(request, "f.leaf", 1, delay=f"{DELAY}s"))

    async def _trigger_unserved(self, request: str) -> None:
        await self.trigger(request, "f.nobody", 1, ttl="1s")

    async def _trigger_ordered(self, request: str) -> None:
        key = f"o{self._chance.randrange(2)}"
        for number in range(2):
            await self.trigger(f"{request}.{number}", "f.leaf", number, order_key=key)

    async def _submit(self, request: str) -> None:
        count = self._chance.randrange(1, 8)
        await self._submit_batch(request, CreateBatch(run_count=count), self._make_items(count))

    async def _submit_keyed(self, request: str) -> None:
        number = self._chance.randrange(4)
        batch = CreateBatch(run_count=number + 1, idempotency_key=f"b{number}")
        items = [StoredItem(index, "f.leaf", Packet(b"1")) for index in range(number + 1)]  # the same at each time
        batch_id = await self._submit_batch(request, batch, items)
        self._told.batch_keys[f"b{number}"].add(batch_id)

    async def _submit_batch(self, request: str, batch: CreateBatch, items: list[StoredItem]) -> UUID:
        answer = await patiently(
            lambda: batches.submit_batch(self._engine, ENVIRONMENT, batch, items, request_id=request)
        )
        assert isinstance(answer, BatchCreated | BatchExists), answer
        self._told.batches[answer.batch.id] = len(items)
        self._told.batch_keys[request].add(answer.batch.id)
        return answer.batch.id

    async def _stream(self, request: str) -> None:
        """Created, filled in chunks of which some come twice and some are no good, and sealed, twice."""
        count = self._chance.randrange(2, 12)
        asked = CreateBatch(run_count=count, start=self._chance.choice(["add", "seal"]))
        made = await patiently(lambda: batches.create_batch(self._engine, ENVIRONMENT, asked, request_id=request))
        assert isinstance(made, BatchCreated | BatchExists), made
        batch = made.batch
        self._told.batches[batch.id] = count
        self._told.batch_keys[request].add(batch.id)
        items = self._make_items(count)
        bad = [
            [StoredItem(count - 1, "f.bad", Packet(b"1")), StoredItem(count, "f.bad", Packet(b"1"))],
            [
                StoredItem(count - 1, "f.bad", Packet(b"1")),
                StoredItem(0, "f.bad", Packet(b"1"), RunOptions(delay="never")),
            ],
        ]
        for number, chunk in enumerate([items[: count // 2], items[count // 3 :], items[: count // 2]]):
            refused = bad[0] if number else self._chance.choice(bad)  # by then all are there, and nothing is looked at
            answer = await patiently(
                lambda refused=refused: batches.store_chunk(self._engine, ENVIRONMENT, batch, refused)
            )
            assert isinstance(answer, BatchRefused), answer
            stored = await patiently(lambda chunk=chunk: batches.store_chunk(self._engine, ENVIRONMENT, batch, chunk))
            assert isinstance(stored, ChunkStored), stored
            await asyncio.sleep(self._chance.random() * 0.1)
        for _ in range(2):
            sealed = await patiently(lambda: batches.end_stream(self._engine, ENVIRONMENT, batch.id))
            assert isinstance(sealed, Sealed), sealed
        late = await patiently(
            lambda: batches.store_chunk(
                self._engine, ENVIRONMENT, batch, [StoredItem(count - 1, "f.bad", Packet(b"1"))]
            )
        )
        assert isinstance(late, StreamDone), late

    def _make_items(self, count: int) -> list[StoredItem]:
        return [
            StoredItem(
                index,
                "f.leaf",
                Packet(b"1"),
                RunOptions(idempotency_key=f"k{self._chance.randrange(8)}") if self._chance.random() < 0.4 else None,
            )
            for index in range(count)
        ]

    async def _ask(self, request: str) -> None:
        store = self._chance.choice(self._engine.stores.all()).key
        token_id, _ = await self.ask_before(request, store)
        await asyncio.sleep(self._chance.random() * 0.3)
        await self.answer(token_id)

    async def _cancel(self, request: str) -> None:
        run_id = await self.trigger(request, "f.sleeper", self._chance.randrange(3))
        await asyncio.sleep(self._chance.random() * 0.4)
        answer = await patiently(lambda: cancels.cancel_run(self._engine, ENVIRONMENT, run_id))
        assert isinstance(answer, RunCanceled | RunEnded), answer

    async def _look(self, request: str) -> None:
        """Every id that somebody was told of is found at any time, and what has ended stays as it ended."""
        if not self._told.made:
            return
        run_id = self._chance.choice(self._told.made)
        view = await patiently(lambda: runs.find_run(self._engine, ENVIRONMENT, run_id))
        if view is None:
            self._told.faults.append(f"{run_id} was not found by {request}")
        elif view.status in TERMINAL_RUN_STATUSES:
            ended = str(view.status), view.output.data if view.output else None, view.finished_at
            if self._told.ended.setdefault(run_id, ended) != ended:
                self._told.faults.append(f"{run_id} ended as {self._told.ended[run_id]} and then as {ended}")

    async def _replay(self, request: str) -> None:
        run_id = await self.trigger(request, "f.leaf", 1)
        view = await patiently(lambda: runs.find_run(self._engine, ENVIRONMENT, run_id))
        assert view is not None, run_id
        answer = await patiently(
            lambda: replays.replay_run(self._engine, ENVIRONMENT, view, request_id=f"{request} replay")
        )
        assert isinstance(answer, RunCreated | RunExists), answer
        self._told.runs[f"{request} replay"].add(answer.run_id)
        self._told.replayed[answer.run_id] = run_id

    async def _replay_many(self, request: str) -> None:
        await self._act_on_many(request, BulkKind.REPLAY, "f.leaf", 1)

    async def _cancel_many(self, request: str) -> None:
        await self._act_on_many(request, BulkKind.CANCEL, "f.sleeper", 1)

    async def _act_on_many(self, request: str, kind: BulkKind, task: str, value: int) -> None:
        ids = [await self.trigger(f"{request}.{number}", task, value, tags=[request]) for number in range(4)]
        by_filter = self._chance.random() < 0.6
        order = BulkOrder(kind, RunFilter(tags=[request])) if by_filter else BulkOrder(kind, run_ids=ids)

        async def ask() -> BulkCreated:
            while True:
                answer = await bulk_actions.create_bulk_action(self._engine, ENVIRONMENT, order, request_id=request)
                if isinstance(answer, BulkCreated):
                    return answer
                assert isinstance(answer, BulkLimit), answer
                await asyncio.sleep(0.1)  # there are as many under way as may be

        self._told.bulks[(await patiently(ask)).action_id] = (kind, ids)
