"""Whoever comes to a tree while it is moved: before the switch he comes first and the move waits, after it he finds it again."""

from __future__ import annotations

import pytest

from headrace.engine import cancels, moves, runs, tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCanceled
from headrace.engine.token_outcomes import TokenCompleted
from headrace.protocol.statuses import RunStatus
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import claim
from tests.engine.parents import read_state
from tests.engine.trees import Fleet, Tree
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stores(fleet: list[Engine]) -> Fleet:
    return await Fleet.open(fleet)


async def want(stores: Fleet, tree: Tree) -> None:
    """It is to be moved to s2: whoever carries on the moves of s1 does it."""
    await stores.s1.store.fetch("ask_move", 1, tree.id, "run", stores.s2.key)


async def act(stores: Fleet, what: str, tree: Tree) -> bool:
    """Whether it was this act that did it."""
    match what:
        case "cancel":
            return isinstance(await cancels.cancel_run(stores.fresh(), 1, tree.id), RunCanceled)
        case "complete":
            assert tree.token is not None
            answer = await tokens.complete_token(stores.fresh(), 1, tree.token, Packet(b"7"))
            return isinstance(answer, TokenCompleted) and answer.won
        case "read":
            return await runs.find_run(stores.fresh(), 1, tree.id) is not None
        case "claim":
            return bool(await claim(stores.s1, stores.leases["s1"], 10, "p"))
        case _:
            raise AssertionError(what)


async def assert_done(stores: Fleet, what: str, tree: Tree) -> None:
    """It is in s2, and so is what was done to it."""
    assert await stores.where(tree.members) == {"s2"}
    status = (await read_state(stores.s2, tree.id))[0]
    assert status == {"cancel": "CANCELED", "complete": "QUEUED", "read": "WAITING", "claim": "QUEUED"}[what]
    await stores.assert_sound()
    if what != "cancel":
        await tree.go_on(stores.s2)
        await tree.assert_ended()


@pytest.mark.parametrize("what", ["cancel", "complete", "read", "claim"])
async def test_who_comes_while_it_leaves_finds_it_there(stores: Fleet, what: str) -> None:
    for point in ("after:lock_members", "after:take_tree", "after:cut_move"):
        tree = await Tree.grow(stores, "woken" if what == "claim" else "waiting for a token")
        await want(stores, tree)
        async with holding(stores.s1, point) as (leaving, hold):
            move = await held_at(hold, moves.carry_on_moves(leaving))
            acting = await blocked(stores.s1, act(stores, what, tree))
            assert acting.done() == (what in ("claim", "read")), point  # the others wait for the switch
            hold.released.set()
            assert await move == 1
        assert await acting == (what != "claim"), point
        await assert_done(stores, what, tree)


@pytest.mark.parametrize("what", ["cancel", "complete", "read", "claim"])
async def test_who_comes_while_it_is_on_its_way_lands_it(stores: Fleet, what: str) -> None:
    tree = await Tree.grow(stores, "woken" if what == "claim" else "waiting for a token")
    await want(stores, tree)
    [move] = await fetch_sql(stores.s1, "SELECT id FROM headrace.moves")
    await stores.s1.store.run_plan(moves._cut(move["id"]))  # pyright: ignore[reportPrivateUsage]
    assert await fetch_sql(stores.s2, "SELECT FROM headrace.runs") == []
    assert await act(stores, what, tree) == (what != "claim")
    if what == "claim":
        assert await moves.carry_on_moves(stores.s1) == 1
    await assert_done(stores, what, tree)


@pytest.mark.parametrize(("what", "point"), [("cancel", "after:cancel_runs"), ("complete", "after:complete_token")])
async def test_who_came_first_is_not_disturbed(stores: Fleet, what: str, point: str) -> None:
    tree = await Tree.grow(stores, "waiting for a token")
    await want(stores, tree)
    async with holding(stores.s1, point) as (first, hold):
        assert tree.token is not None
        plan = (
            cancels.cancel_runs(1, [tree.id], cancels.CANCELED)
            if what == "cancel"
            else tokens.end_token(1, tree.token, Packet(b"7"))
        )
        acting = await held_at(hold, first.store.run_plan(plan))
        assert await moves.carry_on_moves(stores.s1) == 0  # waits for nobody
        [row] = await fetch_sql(stores.s1, "SELECT held_up FROM headrace.moves")
        assert row["held_up"] == "it is being written to"
        hold.released.set()
        await acting
    assert await moves.carry_on_moves(stores.s1) == 1
    await assert_done(stores, what, tree)


async def test_a_claim_comes_before_a_move(stores: Fleet) -> None:
    tree = await Tree.grow(stores, "woken")
    [run] = await claim(stores.s1, stores.leases["s1"], 10, "p")
    await want(stores, tree)
    assert await moves.carry_on_moves(stores.s1) == 0
    assert (await read_state(stores.s1, run.id))[0] == RunStatus.EXECUTING
