"""Waits across stores: a run in one store waits for a token or a run of another, and always hears of its end, once."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from headrace.engine import batches, cancels, claims, completions, moves, sweeps, tokens
from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.batch_audit import audit_batches
from headrace.engine.deeds import NewToken, TokenWait
from headrace.engine.engine import Engine
from headrace.engine.mirrors import MirrorPlace, audit_mirrors, mirror_targets
from headrace.engine.outcomes import BatchCreated, Finish, Packet, StoredItem
from headrace.engine.relay import deliver_mail, relay_outbox
from headrace.engine.token_outcomes import TokenCreated, TokenExists
from headrace.ids import mint_batch_id, mint_run_id, mint_token_id, store_of
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.protocol.tokens import CreateToken
from tests.engine.foreign import (
    OUTPUT,
    Waiter,
    assert_all_well,
    finish_all,
    holding_here,
    keyed_batch,
    keyed_child,
    make_keyed,
    make_root,
    make_token,
    sending_here,
    tried,
)
from tests.engine.held import blocked, held_at, locked
from tests.engine.helpers import claim, register
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

PAIRS = [(0, 1), (1, 0), (1, 2), (2, 1)]
"""Where the thing is and where the run waits: home, s1 on PostgreSQL 18, s2 on 15."""


async def complete(engine: Engine, token_id: UUID) -> None:
    await tokens.complete_token(engine, 1, token_id, OUTPUT)


async def count(engine: Engine, table: str) -> int:
    [row] = await fetch_sql(engine, f"SELECT count(*)::integer AS n FROM headrace.{table}")
    return row["n"]


async def assert_told(waiter: Waiter, status: str = "COMPLETED") -> None:
    """It is ready, and is told the outcome."""
    assert await waiter.status() == "QUEUED"
    point = await waiter.read()
    assert not point.pending
    assert point.status == status
    if status == "COMPLETED":
        assert point.value == OUTPUT


@pytest.mark.parametrize(("owner", "place"), PAIRS)
async def test_a_token_that_ends_after_it_was_waited_for_wakes_the_run(
    fleet: list[Engine], owner: int, place: int
) -> None:
    there, here = fleet[owner], fleet[place]
    token_id = await make_token(there)
    waiter = await Waiter.start(here)
    [point] = await waiter.write(TokenWait(token_id))
    assert point.pending
    await waiter.sleep()
    assert await audit_once(here, AuditPlace()) == 0  # it waits rightly
    await complete(here, token_id)  # whichever engine is asked
    assert await waiter.status() == "WAITING"
    assert await relay_outbox(there) == 1
    await assert_told(waiter)
    assert await count(there, "outbox") == await count(there, "interests") == 0
    await assert_all_well(fleet)


@pytest.mark.parametrize(("owner", "place"), PAIRS)
async def test_a_token_that_has_ended_is_not_waited_for(fleet: list[Engine], owner: int, place: int) -> None:
    there, here = fleet[owner], fleet[place]
    token_id = await make_token(there)
    await complete(there, token_id)
    waiter = await Waiter.start(here)
    [point] = await waiter.write(TokenWait(token_id))
    assert not point.pending
    assert (await waiter.read()).value == OUTPUT
    assert await count(there, "outbox") == await count(there, "interests") == 0


async def test_a_token_that_is_not_there_is_an_error_as_in_ones_own_store(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    waiter = await Waiter.start(s1)
    unknown = mint_token_id("z")  # of a store that there is not
    for number, token_id in enumerate([mint_token_id(s1.key), mint_token_id(s2.key), mint_token_id(home.key), unknown]):
        [point] = await waiter.write(TokenWait(token_id), name=f"point/{number}")
        assert not point.pending
        assert (await waiter.read(f"point/{number}")).status is None


async def test_a_run_of_the_same_letters_is_no_token(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    run_id = await make_root(home)
    waiter = await Waiter.start(s1)
    [point] = await waiter.write(TokenWait(run_id))
    assert not point.pending
    assert (await waiter.read()).status is None


async def test_a_token_that_is_not_there_yet_can_be_mirrored_later(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = mint_token_id(home.key)
    assert await mirror_targets(s1, 1, "token", [token_id]) == {token_id}
    await home.store.run_plan(tokens.make_token(1, home.settings, token_id=token_id))
    assert await mirror_targets(s1, 1, "token", [token_id]) == set()
    waiter = await Waiter.start(s1)
    [point] = await waiter.write(TokenWait(token_id))
    assert point.pending
    await waiter.sleep()
    await complete(home, token_id)
    await relay_outbox(home)
    await assert_told(waiter)


async def test_a_token_whose_time_is_over_tells_other_stores(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home, timeout=3600)
    waiter = await Waiter.start(s1)
    await waiter.write(TokenWait(token_id))
    await waiter.sleep()
    await fetch_sql(home, "UPDATE headrace.tokens SET timeout_at = now() - interval '1 second'")
    assert (await sweeps.sweep_once(home)).tokens_expired == 1  # and relays
    await assert_told(waiter, "TIMED_OUT")


async def test_runs_of_several_stores_wait_for_one_token(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    token_id = await make_token(s1)
    waiters = [await Waiter.start(one) for one in (home, s1, s2)]
    second = await Waiter.start(s2, waiters[2].lease)
    for waiter in [*waiters, second]:
        await waiter.write(TokenWait(token_id))
        await waiter.sleep()
    assert await count(s1, "interests") == 2
    await complete(home, token_id)
    await assert_told(waiters[1])  # in its own store at once
    assert await relay_outbox(s1) == 2
    for waiter in [*waiters, second]:
        await assert_told(waiter)
    await assert_all_well(fleet)


async def test_what_is_delivered_twice_has_its_effect_once(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    await waiter.write(TokenWait(token_id))
    await waiter.sleep()
    await complete(home, token_id)
    [mail] = await fetch_sql(home, "SELECT * FROM headrace.outbox")
    await relay_outbox(home)
    for _ in range(2):
        await fetch_sql(
            home,
            "INSERT INTO headrace.outbox (store, environment_id, kind, target_id, due_at) VALUES ($1, 1, 'end', $2, now())",
            mail["store"],
            token_id,
        )
    assert await relay_outbox(home) == 2
    [row] = await fetch_sql(s1, "SELECT status, resumes FROM headrace.runs WHERE id = $1", waiter.id)
    assert (row["status"], row["resumes"]) == ("QUEUED", 1)


# Both orders of each two that meet


@pytest.mark.parametrize("point", ["after:lock_tokens", "after:insert_interests", "after:read_targets"])
async def test_a_token_that_ends_while_the_interest_is_noted_leaves_mail(fleet: list[Engine], point: str) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    async with holding_here(home, point) as hold:
        writing = await held_at(hold, waiter.write(TokenWait(token_id)))
        completing = await blocked(home, complete(home, token_id))
        assert not completing.done()
        hold.released.set()
        [written] = await writing
        await completing
    assert written.pending
    await waiter.sleep()
    assert await relay_outbox(home) == 1
    await assert_told(waiter)


@pytest.mark.parametrize("point", ["after:complete_token", "after:complete_points"])
async def test_an_interest_that_comes_while_the_token_ends_sees_the_end(fleet: list[Engine], point: str) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    async with holding_here(home, point) as hold:
        completing = await held_at(hold, complete(home, token_id))
        writing = asyncio.create_task(waiter.write(TokenWait(token_id)))
        await locked(home, writing)
        assert not writing.done()
        hold.released.set()
        [written] = await writing
        await completing
    assert not written.pending
    assert (await waiter.read()).value == OUTPUT
    assert await relay_outbox(home) == 0


async def test_an_end_that_is_told_before_the_mirror_is_there_is_not_forgotten(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    async with holding_here(s1, "before:insert_mirrors") as hold:
        writing = await held_at(hold, waiter.write(TokenWait(token_id)))
        await complete(home, token_id)
        assert await relay_outbox(home) == 1
        hold.released.set()
        [written] = await writing
    assert not written.pending
    assert (await waiter.read()).value == OUTPUT


@pytest.mark.parametrize("point", ["after:try_hold_mirrors", "after:hold_run", "after:write_points"])
async def test_an_end_that_is_told_while_the_point_is_written_wakes_it(fleet: list[Engine], point: str) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    await mirror_targets(s1, 1, "token", [token_id])
    waiter = await Waiter.start(s1)
    await complete(home, token_id)
    async with holding_here(s1, point) as hold:
        writing = await held_at(hold, waiter.write(TokenWait(token_id)))
        telling = await blocked(s1, relay_outbox(home))
        assert not telling.done()
        hold.released.set()
        [written] = await writing
        assert await telling == 1
    assert written.pending
    await waiter.sleep()  # it is done by now: it goes on at once
    await assert_told(waiter)


@pytest.mark.parametrize("point", ["after:resolve_mirrors", "after:complete_points"])
async def test_a_point_that_is_written_while_the_end_is_told_sees_it(fleet: list[Engine], point: str) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    await mirror_targets(s1, 1, "token", [token_id])
    waiter = await Waiter.start(s1)
    await complete(home, token_id)
    async with holding_here(s1, point) as hold:
        telling = await held_at(hold, relay_outbox(home))
        writing = asyncio.create_task(waiter.write(TokenWait(token_id)))
        await tried(s1, "try_hold_mirrors")  # it comes again and again, until it may
        hold.released.set()
        [written] = await writing
        assert await telling == 1
    assert not written.pending
    assert (await waiter.read()).value == OUTPUT


# Runs


ENDS = ["COMPLETED", "FAILED", "CRASHED", "TIMED_OUT", "CANCELED", "EXPIRED"]


async def end_run(engine: Engine, run_id: UUID, status: str) -> None:
    """It ends so, in its own store."""
    if status == "CANCELED":
        await cancels.cancel_run(engine, 1, run_id)
    elif status == "EXPIRED":
        await fetch_sql(
            engine, "UPDATE headrace.runs SET expires_at = now() - interval '1 second' WHERE id = $1", run_id
        )
        await sweeps.sweep_once(engine)
    else:
        await finish_all(engine, await register(engine, "t"), RunStatus(status))


@pytest.mark.parametrize("status", ENDS)
async def test_a_child_that_its_key_led_to_in_another_store_tells_how_it_ended(
    fleet: list[Engine], status: str
) -> None:
    home, s1, s2 = fleet
    there = s2 if status in ("COMPLETED", "CANCELED") else home
    [run_id] = await make_keyed(there, "k")
    waiter = await Waiter.start(s1)
    [point] = await waiter.write(keyed_child(s1, "k"))
    assert point.target == run_id
    assert point.pending
    await waiter.sleep()
    await end_run(there, run_id, status)
    await relay_outbox(there)
    await assert_told(waiter, status)
    told = await waiter.read()
    assert (told.error is None) == (status == "COMPLETED")
    await assert_all_well([s1])


@pytest.mark.parametrize("status", ["COMPLETED", "CANCELED"])
async def test_a_child_in_another_store_that_has_ended_is_not_waited_for(fleet: list[Engine], status: str) -> None:
    home, s1, _ = fleet
    [run_id] = await make_keyed(home, "k")
    await end_run(home, run_id, status)
    waiter = await Waiter.start(s1)
    [point] = await waiter.write(keyed_child(s1, "k"))
    assert point.target == run_id
    assert not point.pending
    assert (await waiter.read()).status == status


async def test_a_cancel_leaves_the_run_of_another_store_that_is_waited_for(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    [run_id] = await make_keyed(home, "k")
    waiter = await Waiter.start(s1)
    await waiter.write(keyed_child(s1, "k"))
    await waiter.sleep()
    await cancels.cancel_run(home, 1, waiter.id)
    assert await waiter.status() == "CANCELED"
    await end_run(home, run_id, "COMPLETED")
    assert await relay_outbox(home) == 1
    assert await waiter.status() == "CANCELED"
    await assert_all_well([s1])


async def test_a_run_whose_batch_has_its_id_is_told_of_when_it_ends_itself(fleet: list[Engine]) -> None:
    """A batch and its first item have one id: the batch is aborted, its first run goes on."""
    home, s1, _ = fleet
    lease = await register(home, "t")
    plan = batches.open_batch(1, CreateBatch(run_count=2), home.settings, new_id=mint_batch_id(home.key))
    created = await home.store.run_plan(plan)
    assert isinstance(created, BatchCreated)
    batch = created.batch
    await batches.store_chunk(home, 1, batch, [StoredItem(0, "t", Packet(b"1"))])
    await mirror_targets(s1, 1, "run", [batch.id])
    await fetch_sql(home, "UPDATE headrace.batches SET watched = true, seal_deadline = now() - interval '1 second'")
    assert (await sweeps.sweep_once(home)).batches_aborted == 1
    assert await count(home, "interests") == 1
    await finish_all(home, lease)
    assert await relay_outbox(home) == 1
    [row] = await fetch_sql(s1, "SELECT status FROM headrace.mirrors")
    assert row["status"] == "COMPLETED"


# Batches


async def test_a_batch_with_items_that_stand_for_runs_of_other_stores_ends(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    [ended, failing] = await make_keyed(home, "ended", "failing")
    [open_one] = await make_keyed(s2, "open")
    await finish_all(home, lease := await register(home, "t"), only=ended)
    waiter = await Waiter.start(s1)
    made = keyed_batch(s1, ["ended", None, "open", "failing"])
    await waiter.write(made)
    await waiter.sleep()
    batch = await batches.find_batch(home, 1, made.batch_id)
    assert batch is not None
    assert (batch.accepted, batch.aliased, batch.settled, batch.succeeded) == (4, 3, 1, 1)
    assert await audit_once(s1, AuditPlace()) == 0
    audit = await s1.store.run_plan(audit_batches(None, 100, quiet=0))
    assert (audit.looked, audit.repairs) == (1, [])  # its counts are right
    await finish_all(s1, waiter.lease)
    await finish_all(s2, await register(s2, "t"))
    [held] = await fetch_sql(home, "SELECT attempt FROM headrace.runs WHERE id = $1", failing)
    broken = Finish(failing, held["attempt"], RunStatus.FAILED, error={"type": "STRING_ERROR", "raw": "made to fail"})
    assert await completions.finish_runs(home, lease, [broken]) == set()
    assert [await relay_outbox(one) for one in fleet] == [1, 0, 1]
    batch = await batches.find_batch(home, 1, made.batch_id)
    assert batch is not None
    assert (str(batch.status), batch.settled, batch.succeeded) == ("COMPLETED", 4, 3)
    assert await waiter.status() == "QUEUED"
    outcomes = await batches.list_batch_outcomes(home, 1, made.batch_id)
    assert [(one.index, one.run_id, str(one.status), one.task) for one in outcomes] == [
        (0, ended, "COMPLETED", "t"),
        (1, outcomes[1].run_id, "COMPLETED", "t"),
        (2, open_one, "COMPLETED", "t"),
        (3, failing, "FAILED", "t"),
    ]
    assert outcomes[2].output == OUTPUT
    assert outcomes[3].error is not None
    pages = [
        one.index
        for start in range(4)
        for one in await batches.list_batch_outcomes(home, 1, made.batch_id, start=start, limit=1)
    ]
    assert pages == [0, 1, 2, 3]
    chosen = await batches.list_batch_outcomes(home, 1, made.batch_id, indexes=[3, 1])
    assert {one.index for one in chosen} == {1, 3}
    results = await batches.list_batch_results(home, 1, made.batch_id)
    assert [(one.index, one.run.id) for one in results] == [(one.index, one.run_id) for one in outcomes]
    assert [one.index for one in await batches.list_batch_results(home, 1, made.batch_id, after=0, limit=2)] == [1, 2]


async def test_an_item_whose_run_is_moved_to_its_batch_is_told_of_once(fleet: list[Engine]) -> None:
    """Its mirror stays where it comes to."""
    home, s1, _ = fleet
    keyed = await make_keyed(home, "one", "other")
    waiter = await Waiter.start(s1)
    made = keyed_batch(s1, ["one", None, "other"])
    await waiter.write(made)
    await finish_all(home, await register(home, "t"))
    await finish_all(s1, waiter.lease)
    await relay_outbox(home)
    for run_id in keyed:
        assert isinstance(await moves.move_tree(home, run_id, "s1"), moves.TreeMoved)
        told = await batches.list_batch_outcomes(home, 1, made.batch_id)
        assert [one.index for one in told] == [0, 1, 2]
        assert [one.run_id for one in told][::2] == keyed
        chosen = await batches.list_batch_outcomes(home, 1, made.batch_id, indexes=[0, 2])
        assert sorted(one.index for one in chosen) == [0, 2]
        results = await batches.list_batch_results(home, 1, made.batch_id)
        assert [one.index for one in results] == [0, 1, 2]
    await assert_all_well([s1])


async def test_a_stream_with_items_that_stand_for_runs_of_other_stores_seals_and_ends(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    keys = [f"k{number}" for number in range(6)]
    await make_keyed(home, *keys[:3])
    await make_keyed(s2, *keys[3:])
    waiter = await Waiter.start(s1)
    made = keyed_batch(s1, keys)
    opened = type(made)(made.batch_id, CreateBatch(run_count=6, task_identifiers=["t"]))
    await waiter.write(opened)
    items = [StoredItem(index, "t", Packet(b"1"), RunOptions(idempotency_key=key)) for index, key in enumerate(keys)]
    for chunk in (items[:2], items[2:5], items[1:]):
        batch = await batches.find_batch(home, 1, made.batch_id)
        assert batch is not None
        await batches.store_chunk(home, 1, batch, chunk)
    await batches.end_stream(home, 1, made.batch_id)
    await waiter.sleep()
    assert await count(s1, "runs") == 1
    await finish_all(home, await register(home, "t"))
    await finish_all(s2, await register(s2, "t"))
    assert [await relay_outbox(one) for one in fleet] == [3, 0, 3]
    assert await waiter.status() == "QUEUED"
    assert (await waiter.read()).status == "COMPLETED"
    await assert_all_well([s1])


async def test_a_batch_that_is_filled_while_an_end_is_told_counts_it_once(fleet: list[Engine]) -> None:
    """The end holds the mirror and wants the batch, the chunk holds the batch and wants the mirror: neither waits for ever."""
    home, s1, _ = fleet
    [run_id] = await make_keyed(home, "k")
    await mirror_targets(s1, 1, "run", [run_id])
    waiter = await Waiter.start(s1)
    first, second = keyed_batch(s1, ["k"]), keyed_batch(s1, ["k"])
    opened = type(second)(second.batch_id, CreateBatch(run_count=2, task_identifiers=["t"]))
    await waiter.write(first, opened)
    batch = await batches.find_batch(home, 1, second.batch_id)
    assert batch is not None
    items = [StoredItem(index, "t", Packet(b"1"), RunOptions(idempotency_key="k")) for index in range(2)]
    await batches.store_chunk(home, 1, batch, items[:1])
    await finish_all(home, await register(home, "t"))
    async with holding_here(s1, "after:resolve_mirrors") as hold:
        telling = await held_at(hold, relay_outbox(home))
        storing = asyncio.create_task(batches.store_chunk(home, 1, batch, items))
        await tried(s1, "try_hold_mirrors")
        hold.released.set()
        await storing
        assert await telling == 1
    await batches.end_stream(home, 1, second.batch_id)
    await waiter.sleep()
    for made, count_of in ((first, 1), (second, 2)):
        batch = await batches.find_batch(home, 1, made.batch_id)
        assert batch is not None
        assert (batch.settled, batch.succeeded, str(batch.status)) == (count_of, count_of, "COMPLETED")
    await assert_all_well([s1])


# Keys of tokens


async def make_keyed_token(waiter: Waiter, key: str, name: str) -> tuple[UUID, bool]:
    """The token of a key, as a run is told it, and whether it was there."""
    engine = waiter.engine
    made = NewToken(
        mint_token_id(engine.key), lambda one, is_cached: Packet(f"{one} {is_cached}".encode()), None, [], key, None
    )
    [point] = await waiter.write(made, name=name)
    assert point.value.data is not None
    token_id, is_cached = point.value.data.decode().split()
    return UUID(token_id), is_cached == "True"


async def test_a_key_of_a_token_stands_for_one_in_all_stores(fleet: list[Engine]) -> None:
    home, s1, s2 = fleet
    first, second, third = [await Waiter.start(one) for one in (s1, s2, home)]
    token_id, is_cached = await make_keyed_token(first, "k", "token")
    assert not is_cached
    assert store_of(token_id) == s1.key
    for waiter in (first, second, third):
        assert await make_keyed_token(waiter, "k", "again") == (token_id, True)
    request = CreateToken(idempotency_key="k")
    for request_id in (None, "r", "r"):
        answer = await tokens.create_token(home, 1, mint_token_id(), request, request_id=request_id)
        assert isinstance(answer, TokenExists)
        assert answer.token.id == token_id
    answer = await tokens.create_token(home, 1, mint_token_id(), CreateToken(idempotency_key="other"))
    assert isinstance(answer, TokenCreated)
    assert await make_keyed_token(second, "other", "other") == (answer.token.id, True)
    await second.write(TokenWait(token_id))
    await second.sleep()
    await complete(home, token_id)
    await relay_outbox(s1)
    await assert_told(second)


# What is lost, and who is away


async def test_what_the_outbox_lost_is_found_and_counted_as_a_bug(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    [run_id] = await make_keyed(home, "k")
    waiter = await Waiter.start(s1)
    await waiter.write(TokenWait(token_id), keyed_child(s1, "k"))
    await waiter.sleep()
    await complete(home, token_id)
    assert await audit_mirrors(s1, MirrorPlace(), quiet=0) == 0  # it is on its way
    await fetch_sql(home, "DELETE FROM headrace.outbox")
    assert await audit_mirrors(s1, MirrorPlace()) == 0  # too early to ask
    assert await audit_mirrors(s1, MirrorPlace(), quiet=0) == 1
    await assert_told(waiter)
    await fetch_sql(home, "DELETE FROM headrace.interests")
    assert await audit_mirrors(s1, MirrorPlace(), quiet=0) == 0  # but the interest is noted again
    await end_run(home, run_id, "COMPLETED")
    assert await relay_outbox(home) == 1
    assert (await waiter.read("point#2")).status == "COMPLETED"


async def test_what_is_gone_from_its_store_is_found_missing(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    await waiter.write(TokenWait(token_id))
    await waiter.sleep()
    await fetch_sql(home, "DELETE FROM headrace.tokens")
    assert await audit_mirrors(s1, MirrorPlace(), quiet=0) == 1
    assert await waiter.status() == "QUEUED"
    assert (await waiter.read()).status is None


async def test_an_outbox_is_delivered_at_once_where_its_store_is_swept(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    given = [(await make_token(s1), await Waiter.start(home)) for _ in range(2)]
    for token_id, waiter in given:
        await waiter.write(TokenWait(token_id))
        await waiter.sleep()
    stop = asyncio.Event()
    sweeping = asyncio.create_task(sweeps.run_sweeps(s1, stop, interval=3600))
    try:
        async with asyncio.timeout(20):
            while not s1.notices.listening:
                await asyncio.sleep(0.01)
            for token_id, waiter in given:  # the first one may be found by the first look, the next look is in an hour
                await complete(home, token_id)
                while await waiter.status() == "WAITING":
                    await asyncio.sleep(0.01)
    finally:
        stop.set()
        sweeping.cancel()
        await asyncio.wait({sweeping})


async def test_a_message_that_a_store_refuses_holds_up_no_other(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    await waiter.write(TokenWait(token_id))
    await waiter.sleep()
    await fetch_sql(
        home,
        "INSERT INTO headrace.outbox (store, environment_id, kind, target_id, message, due_at)"
        """ VALUES ($1, 1, 'trigger', $2, '{"task": 7}', now()), ($1, 77, 'trigger', $3,"""
        """ '{"task": "t", "payload": "1", "options": {}, "origin": {}}', now())""",
        s1.key,
        mint_run_id(s1.key),
        mint_run_id(s1.key),
    )
    await complete(home, token_id)
    assert await relay_outbox(home) == 1
    await assert_told(waiter)
    rows = await fetch_sql(home, "SELECT tries, due_at > now() AS later FROM headrace.outbox")
    assert [(row["tries"], row["later"]) for row in rows] == [(1, True), (1, True)]
    assert await deliver_mail(home, s1.key) == 0


async def test_a_store_that_can_not_be_asked_lets_the_wait_be_written_later(fleet: list[Engine]) -> None:
    home, s1, _ = fleet
    token_id = await make_token(home)
    waiter = await Waiter.start(s1)
    async with holding_here(home, "before:lock_tokens"):
        with pytest.raises(TimeoutError):
            await waiter.write(TokenWait(token_id))
    [point] = await waiter.write(TokenWait(token_id))
    assert point.pending
    claimed = await claims.claim_runs(s1, waiter.lease, tasks=["p"], limit=1)
    assert claimed == []


@pytest.mark.one_store("that one store costs nothing")
async def test_one_store_sends_the_same_statements_as_ever(engine: Engine) -> None:
    token_id = await make_token(engine)
    waiter = await Waiter.start(engine)
    async with sending_here(engine) as sent:
        await waiter.write(TokenWait(token_id))
        assert sent == ["lock_token", "hold_run", "write_points"]
        sent.clear()
        await complete(engine, token_id)
        assert sent == ["complete_token", "lock_waiters", "complete_points", "wake_runs"]
        sent.clear()
        assert await relay_outbox(engine) == 0
        assert sent == []
    assert await claim(engine, waiter.lease) == []
