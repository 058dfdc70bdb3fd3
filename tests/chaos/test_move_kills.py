"""SIGKILL of whoever moves a tree, after every statement of the move: it is in one place, whole, and every id leads to it.

Which statements those are is not listed here: a tree is moved once unharmed, and what that sent is where the next ones are
killed. After each kill whoever asks for the tree gets it; then sweeps finish what is left, and a worker brings it to its end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headrace.engine import arrivals, moves, sweeps
from headrace.engine.engine import Engine
from headrace.engine.moves import MoveHeldUp, TreeMoved
from headrace.store.statements import Plan
from headrace.store.store import Store
from tests.chaos.test_crash_points import wait_for_connections_to_end
from tests.engine.helpers import claim, finish
from tests.engine.trees import Fleet, Tree, child
from tests.invariants import fetch_sql
from tests.nursery import run_forked

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
STATE = "waiting for a batch"
PARKED = "SELECT FROM headrace.runs WHERE parked IS NOT NULL"


@pytest.fixture
async def stores(fleet: list[Engine]) -> Fleet:
    return await Fleet.open(fleet)


async def kill_at(stores: Fleet, operation: str, point: str, value: UUID) -> None:
    settings = json.dumps(dataclasses.asdict(stores.home.settings))
    ended = await run_forked("tests.chaos.move_crash_child", settings, operation, point, str(value))
    assert ended == -signal.SIGKILL, (operation, point)
    for engine in stores.engines:
        await wait_for_connections_to_end(engine)


async def list_points(stores: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where a move can be killed: what one sends, each statement once."""
    sent: list[str] = []
    fetch, run_plan_on = Store.fetch, arrivals.run_plan_on

    def watch(plan: Plan[Any]) -> Plan[Any]:
        try:
            statement = next(plan)
            while True:
                sent.append(f"after:{statement.name}")
                statement = plan.send((yield statement))
        except StopIteration as stop:
            return stop.value

    run_plan = Store.run_plan

    async def watched_fetch(self: Store, name: str, *args: Any) -> Any:
        sent.append(f"committed:{name}")
        return await fetch(self, name, *args)

    async def watched_plan(self: Store, plan: Plan[Any]) -> Any:
        return await run_plan(self, watch(plan))

    async def watched_on(connection: Any, plan: Plan[Any]) -> Any:
        return await run_plan_on(connection, watch(plan))

    with monkeypatch.context() as patched:
        patched.setattr(Store, "fetch", watched_fetch)
        patched.setattr(Store, "run_plan", watched_plan)
        patched.setattr(arrivals, "run_plan_on", watched_on)
        tree = await Tree.grow(stores, STATE)
        sent.clear()
        assert isinstance(await moves.move_tree(stores.home, tree.id, "s2"), TreeMoved)
    points = list(dict.fromkeys(sent))
    await tree.go_on(stores.s2)
    return [*points, "committed:cut_move"]


async def test_whoever_moves_a_tree_is_killed_after_any_statement(
    stores: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = await list_points(stores, monkeypatch)
    assert {"after:take_tree", "after:begin_arrival", "after:land_runs", "committed:end_move"} <= set(points)
    for point in points:
        tree = await Tree.grow(stores, STATE)
        before = await stores.read_rows()
        await kill_at(stores, "move", point, tree.id)
        gone = await fetch_sql(stores.s1, "SELECT FROM headrace.runs WHERE id = $1", tree.id) == []
        on_its_way = await fetch_sql(stores.s1, "SELECT FROM headrace.departures")
        landed = await fetch_sql(stores.s2, "SELECT FROM headrace.runs WHERE id = $1", tree.id) != []
        assert gone == (bool(on_its_way) or landed), point  # nowhere twice, and not lost
        if point.startswith("after:"):
            assert not landed, point
        await tree.assert_found()  # whoever asks finishes what has left
        await sweeps.sweep_once(stores.s1)
        if point in ("committed:find_unit", "before:ask_move"):  # it was not even wanted
            assert isinstance(await moves.move_tree(stores.home, tree.id, "s2"), TreeMoved)
        assert await stores.where(tree.members) == {"s2"}, point
        assert await stores.read_rows() == before, point
        await fetch_sql(stores.s2, "DELETE FROM headrace.arrivals")  # of one killed at the very end: no harm, no use
        await stores.assert_sound()
        await tree.go_on(stores.s2)
        await tree.assert_ended()


async def test_who_finishes_a_move_is_killed_too(stores: Fleet) -> None:
    for operation in ("sweep", "read"):
        tree = await Tree.grow(stores, STATE)
        before = await stores.read_rows()
        await kill_at(stores, "move", "committed:cut_move", tree.id)
        for point in ("after:begin_arrival", "after:land_runs", "after:land_journal", "committed:end_move"):
            await kill_at(stores, operation, point, tree.id)
        await tree.assert_found()
        assert await stores.where(tree.members) == {"s2"}
        assert await stores.read_rows() == before
        await tree.go_on(stores.s2)
        await tree.assert_ended()


async def test_many_move_one_tree_at_once(stores: Fleet) -> None:
    tree = await Tree.grow(stores, STATE)
    before = await stores.read_rows()
    await kill_at(stores, "move", "committed:cut_move", tree.id)
    [move] = await fetch_sql(stores.s1, "SELECT id FROM headrace.moves")
    await asyncio.gather(
        *(arrivals.end_move(stores.s1, move["id"]) for _ in range(4)),
        *(moves.move_tree(stores.home, tree.id, "s2") for _ in range(4)),
        moves.carry_on_moves(stores.s1),
    )
    assert await stores.where(tree.members) == {"s2"}
    assert await stores.read_rows() == before
    await stores.assert_sound()


async def test_whoever_parks_a_tree_is_killed_after_any_statement(stores: Fleet) -> None:
    """What is parked goes on: where the tree lands, or where it is if it can't leave. Each of its runs ends once."""
    s1, lease = stores.s1, stores.leases["s1"]
    parks = ("committed:hold_up_move", "after:park_tree", "after:park_runs", "committed:park_runs")
    for point in (*parks, "committed:let_tree_go"):
        tree = await Tree.grow(stores, "executing")
        parent = tree.parent
        assert parent is not None
        children = [child(s1, awaited=False) for _ in range(3)]
        await parent.write(s1, *children)
        if point in parks:
            await kill_at(stores, "move", point, tree.id)
            assert len(await fetch_sql(s1, PARKED)) == (3 if point == "committed:park_runs" else 0), point
            await moves.carry_on_moves(s1)
            assert len(await fetch_sql(s1, PARKED)) == 3, point
        else:
            assert isinstance(await moves.move_tree(stores.home, tree.id, "s2"), MoveHeldUp)
            await fetch_sql(s1, "UPDATE headrace.moves SET parked_until = now() - interval '1 second'")
            await kill_at(stores, "sweep", point, tree.id)
            await sweeps.sweep_once(s1)
            assert await fetch_sql(s1, PARKED) == [], point
            claimed = await claim(s1, lease)
            assert {run.id for run in claimed} == {one.run_id for one in children}, point
            await finish(s1, lease, claimed)
        assert await parent.end(s1) == set()
        await sweeps.sweep_once(s1)
        assert await stores.where([tree.id, *(one.run_id for one in children)]) == {"s2"}, point
        await stores.finish_all("s2")
        assert await fetch_sql(stores.s2, "SELECT FROM headrace.runs WHERE finished_at IS NULL OR attempt <> 1") == []
        await stores.assert_sound()
