"""What a child has of the runs above it: its place in the queue, its tree, its trace, its store; tags where asked for."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated
from headrace.ids import format_run_id, minted_at, parse_run_id, store_of
from headrace.protocol.options import RunOptions
from headrace.tasks import Retry, task
from tests.invariants import fetch_sql
from tests.worker.helpers import await_end, read_output, working

pytestmark = pytest.mark.anyio

ONCE = Retry(max_attempts=1)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@task(id="i.leaf", retry=ONCE)
async def leaf(number: int) -> int:
    return number


@task(id="i.middle", retry=ONCE)
async def middle(number: int) -> list[str]:
    below = await leaf.trigger_and_wait(number)
    return [below.run_id]


@task(id="i.top", retry=ONCE)
async def top(number: int) -> dict[str, Any]:
    plain = await leaf.trigger_and_wait(number, key="plain", tags=["own"])
    tagged = await leaf.trigger_and_wait(number, key="tagged", tags=["own", "b"], inherit_tags=True)
    nested = await middle.trigger_and_wait(number)
    batch = await leaf.batch_trigger_and_wait([1], inherit_tags=True)
    return {
        "plain": plain.run_id,
        "tagged": tagged.run_id,
        "middle": nested.run_id,
        "nested": nested.unwrap()[0],
        "item": batch[0].run_id,
    }


async def test_a_child_stands_where_the_top_of_its_tree_stands(engine: Engine) -> None:
    made = await runs.trigger_run(engine, 1, "i.top", Packet(b"1"), RunOptions(tags=["a", "b"]), traceparent=TRACE)
    assert isinstance(made, RunCreated)
    async with working(engine, top, middle, leaf):
        told: dict[str, str] = read_output(await await_end(engine, made.run_id))
    rows = {
        format_run_id(row["id"]): row
        for row in await fetch_sql(
            engine,
            "SELECT id, parent_run_id, root_run_id, depth, ready_at, traceparent, options->'tags' AS tags FROM headrace.runs"
            " WHERE id <> $1",
            made.run_id,
        )
    }
    assert rows.keys() == set(told.values())
    for row in rows.values():
        assert row["root_run_id"] == made.run_id
        assert row["ready_at"] == minted_at(made.run_id), "what came first is done first, with all that belongs to it"
        assert row["traceparent"] == TRACE
        assert store_of(row["id"]) == store_of(made.run_id)
    assert {name: rows[run_id]["depth"] for name, run_id in told.items()} == {
        "plain": 1,
        "tagged": 1,
        "middle": 1,
        "nested": 2,
        "item": 1,
    }
    assert rows[told["nested"]]["parent_run_id"] == parse_run_id(told["middle"])
    assert {name: rows[run_id]["tags"] for name, run_id in told.items()} == {
        "plain": '["own"]',
        "tagged": '["own", "b", "a"]',
        "middle": None,
        "nested": None,
        "item": '["a", "b"]',
    }
