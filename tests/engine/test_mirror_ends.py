"""Mirrors and interests end: what nobody can ask any more is deleted, and nobody who can ask is ever without it."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from headrace.engine import batches, cancels, tokens
from headrace.engine.deeds import TokenWait
from headrace.engine.engine import Engine
from headrace.engine.mirrors import SPENT, MirrorPlace, forget_mirrors, mirror_targets, tell_ended
from headrace.engine.relay import relay_outbox
from tests.engine.foreign import (
    OUTPUT,
    Waiter,
    assert_all_well,
    finish_all,
    holding_here,
    keyed_batch,
    keyed_child,
    make_keyed,
    make_token,
    tried,
)
from tests.engine.held import held_at
from tests.engine.helpers import register
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio


async def forget(engine: Engine, spent: float = 0.0) -> int:
    return await forget_mirrors(engine, MirrorPlace(), spent=spent)


async def count(engine: Engine, table: str) -> int:
    return len(await fetch_sql(engine, f"SELECT FROM headrace.{table}"))


async def test_a_mirror_is_kept_while_its_waiter_may_ask_and_not_longer(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter, other = await Waiter.start(s1), await Waiter.start(s1)
    for one in (waiter, other):
        await one.write(TokenWait(token_id))
        await one.sleep()
    assert await forget(s1) == 0  # waited for
    await tokens.complete_token(home, 1, token_id, OUTPUT)
    await relay_outbox(home)
    assert await forget(s1) == 0  # told of it, and asks again when it goes on
    assert (await waiter.read()).value == OUTPUT
    await cancels.cancel_run(home, 1, waiter.id)
    assert await forget(s1) == 0  # the other one
    await cancels.cancel_run(home, 1, other.id)
    assert await forget(s1, SPENT) == 0  # not yet
    assert await forget(s1) == 1
    assert await count(s1, "mirrors") == 0


async def test_mail_that_comes_after_its_mirror_has_gone_does_no_harm(fleet: list[Engine]) -> None:
    """The waiter was canceled before the token ended; another one comes after."""
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    await waiter.write(TokenWait(token_id))
    await waiter.sleep()
    await cancels.cancel_run(home, 1, waiter.id)
    assert await forget(s1) == 1
    later = await Waiter.start(s1)
    await later.write(TokenWait(token_id))
    await later.sleep()
    assert await forget(s1) == 0
    await tokens.complete_token(home, 1, token_id, OUTPUT)
    await fetch_sql(s1, "DELETE FROM headrace.mirrors /* as if the sweep had */")
    assert await relay_outbox(home) == 1
    assert await later.status() == "QUEUED"
    assert (await later.read()).value == OUTPUT
    assert await count(home, "interests") == await count(home, "outbox") == 0
    await assert_all_well(fleet)


async def test_a_run_of_another_store_is_told_of_for_as_long_as_anything_stands_for_it(fleet: list[Engine]) -> None:
    """A child by its waiter, an item by its batch: the batch can be listed when all has ended."""
    home, s1, s2 = fleet
    await make_keyed(s2, "k")
    waiter = await Waiter.start(s1)
    child = keyed_child(s1, "k")
    await waiter.write(child)
    assert await forget(s1) == 0
    await finish_all(s2, await register(s2, "t"))
    await relay_outbox(s2)
    assert await forget(s1) == 0
    await waiter.parent.end(s1)
    assert await forget(s1) == 1
    batcher = await Waiter.start(s1)
    batch = keyed_batch(s1, ["k", None])
    await batcher.write(batch)
    await finish_all(s1, batcher.lease)
    await batcher.parent.end(s1)
    assert await forget(s1) == 0
    outcomes = await batches.list_batch_outcomes(home, 1, batch.batch_id)
    assert [one.status for one in outcomes] == ["COMPLETED", "COMPLETED"]


async def test_who_is_about_to_wait_keeps_the_mirror_or_makes_it_again(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    # it holds the mirror, and has not committed that it waits
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    await mirror_targets(s1, 1, "token", [token_id])
    async with holding_here(s1, "after:write_points") as hold:
        writing = await held_at(hold, waiter.write(TokenWait(token_id)))
        assert await forget(s1) == 0
        hold.released.set()
        await writing
    # the sweep has looked before that commit, and comes to the mirror after it
    late = await make_token(home)
    second = await Waiter.start(s1)
    await mirror_targets(s1, 1, "token", [late])
    async with holding_here(s1, "after:find_spent_mirrors") as hold:
        forgetting = await held_at(hold, forget(s1))
        writing = asyncio.create_task(second.write(TokenWait(late)))
        await tried(s1, "try_hold_mirrors")
        hold.released.set()
        assert await forgetting == 1
        await writing
    for one, token in ((waiter, token_id), (second, late)):
        await one.sleep()
        assert await forget(s1) == 0
        # one that was found spent before somebody committed that he waits is looked at again
        assert await s1.store.fetch("delete_mirrors", [1], [token], ["token"]) == []
        await tokens.complete_token(home, 1, token, OUTPUT)
        await relay_outbox(home)
        assert await one.status() == "QUEUED"
    await assert_all_well(fleet)


async def test_what_has_ended_is_told_whoever_forgot_it(fleet: list[Engine]) -> None:
    """Put there by force: whoever ends something tells it himself."""
    home, s1, _ = fleet
    ended, waits = await make_token(home), await make_token(home)
    await tokens.complete_token(home, 1, ended, OUTPUT)
    for target in (ended, waits, UUID(int=256)):
        await fetch_sql(home, "INSERT INTO headrace.interests VALUES (1, $1, $2)", target, s1.key)
    place = MirrorPlace()
    assert await tell_ended(home, place) == 2
    assert await tell_ended(home, place) == 0
    assert [row["target_id"] for row in await fetch_sql(home, "SELECT target_id FROM headrace.interests")] == [waits]
    assert await relay_outbox(home) == 2
    assert await count(s1, "mirrors") == 1


async def test_nobody_is_told_who_is_no_more(fleet: list[Engine]) -> None:
    """The store was taken out of use when its waiters had ended, before what they had waited for did."""
    home, s1, s2 = fleet
    first, second = await make_token(home), await make_token(home)
    for target in (first, second):
        for store in (s1, s2):
            await fetch_sql(home, "INSERT INTO headrace.interests VALUES (1, $1, $2)", target, store.key)
    await tokens.complete_token(home, 1, first, OUTPUT)
    await fetch_sql(home, "UPDATE headrace.stores SET state = 'removed' WHERE key = $1", s1.key)
    assert await tell_ended(home, MirrorPlace()) == 0
    for table in ("outbox", "interests"):
        assert [row["store"] for row in await fetch_sql(home, f"SELECT store FROM headrace.{table}")] == [s2.key]
