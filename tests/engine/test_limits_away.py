"""Limits while a store is away: what is under them waits, which shows; nothing else waits, and it goes on soon after."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from dataclasses import replace

import httpx2
import pytest

from headrace.engine import queues, shared_limits
from headrace.engine.engine import Engine
from headrace.engine.queues import declare_queue
from headrace.engine.turns import Turns
from headrace.metrics import REGISTRY
from headrace.queues import Queue
from headrace.settings import Settings
from tests.e2e.commands import run_headrace
from tests.engine.backlogs import fill, take
from tests.engine.control import away
from tests.engine.helpers import register
from tests.pairs import other_url, pair
from tests.server_fixture import running_server

__all__ = ["other_url", "pair"]

pytestmark = pytest.mark.anyio


def count_withheld() -> float:
    return REGISTRY.get_sample_value("headrace_withheld_claims_total") or 0.0


async def test_nobody_waits_for_a_store_that_was_found_away_and_claims_go_on_when_it_is_back(
    pair: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = pair
    tries = 0
    make = shared_limits._Claim.make  # pyright: ignore[reportPrivateUsage]

    async def count(claim: shared_limits._Claim) -> list[object]:  # pyright: ignore[reportPrivateUsage]
        nonlocal tries
        tries += 1
        return await make(claim)

    monkeypatch.setattr(shared_limits._Claim, "make", count)  # pyright: ignore[reportPrivateUsage]
    await declare_queue(home, 1, Queue("task/t", 2))
    lease = await register(home, "t", "plain")
    await fill(home, "t", 3)
    turns, withheld = Turns(), count_withheld()
    async with away(other):
        for _ in range(20):  # many times the second after which it is looked at again
            await fill(home, "plain", 1)
            assert Counter(run.task for run in await take(home, lease, turns, 100, "t", "plain")) == {"plain": 1}
            await asyncio.sleep(0.1)
        assert tries == 1, "each of them waits for all stores"
        assert turns.wake_in is not None, "the worker is to come back for the rest, though no hint may come"
        assert turns.wake_in <= 1.0
        assert count_withheld() - withheld >= 20
    back = time.monotonic()
    taken: list[str] = []
    while len(taken) < 2:
        taken += [run.task for run in await take(home, lease, turns, 100, "t", "plain")]
        assert time.monotonic() - back < 20, "its look may have just begun, and each takes two seconds at most"
        await asyncio.sleep(0.05)
    assert taken == ["t", "t"]


async def test_it_shows_which_queues_wait_for_which_store(pair: list[Engine], settings: Settings) -> None:
    home, other = pair
    await declare_queue(home, 1, Queue("task/limited", 2))
    await declare_queue(home, 1, Queue("rated", rate_limit=(5, "1m")))
    for task in ("limited", "plain"):
        await register(home, task)
    waiting = {"task/limited": ["s1"], "rated": ["s1"], "task/plain": []}
    with running_server(replace(settings, store_patience=1.0)) as server:
        env = {**os.environ, "HEADRACE_API_URL": server.url, "HEADRACE_API_KEY": server.key}
        headers = {"authorization": f"Bearer {server.key}"}
        async with httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as client:
            async with away(other):
                found = (await client.get("/api/v1/queues")).json()
                assert found["warnings"] == ["store s1 does not answer: its runs are missing"]
                one = (await client.get("/api/v1/queues/limited", params={"type": "task"})).json()
                shown = await asyncio.to_thread(run_headrace, "queue", "list", env=env)
            later = (await client.get("/api/v1/queues")).json()
    told = {queues_name(queue): queue.get("waitsForStores", []) for queue in found["data"]}
    assert told == waiting
    assert one["waitsForStores"] == ["s1"]
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if "/" in line or "rated" in line}
    assert {name: "waits for store s1" in line for name, line in lines.items()} == {
        name: bool(stores) for name, stores in waiting.items()
    }, shown.stdout
    assert "waitsForStores" not in json.dumps(later)
    assert "warnings" not in later
    assert [view.waits_for for view in (await queues.list_queues(home, 1, limit=10, offset=0)).queues] == [()] * 3


def queues_name(queue: dict[str, str]) -> str:
    return f"task/{queue['name']}" if queue["type"] == "task" else queue["name"]
