"""Idempotency keys: whose they are, how long they hold, who gets the run that they stand for."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import UUID

import pytest

from headrace import Item, Key, current_run, task
from headrace.engine import batches, cancels, idempotency, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, BatchExists, Packet, RunCreated, RunExists, StoredItem
from headrace.errors import ConfigurationError
from headrace.idempotency_keys import LONGEST_KEY
from headrace.items import make_options
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.tasks import Retry, RunContext, entered_run
from tests.engine.held import blocked, held_at, holding
from tests.engine.helpers import claim, fetch_everywhere, finish, register
from tests.invariants import assert_invariants, fetch_sql
from tests.worker.helpers import await_end, execute, read_output, working
from tests.worker.helpers import trigger as trigger_task

pytestmark = pytest.mark.anyio

RUN = "run_06f3q1c2k8g5m0t7n400000002"
ONCE = Retry(max_attempts=1)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def trigger(engine: Engine, key: str, environment_id: int = 1, name: str = "t", **options: Any) -> Any:
    return await runs.trigger_run(
        engine, environment_id, name, Packet(b"1"), RunOptions(idempotency_key=key, **options)
    )


async def make(engine: Engine, key: str, **options: Any) -> UUID:
    made = await trigger(engine, key, **options)
    assert isinstance(made, RunCreated), made
    return made.run_id


# How keys are spelt


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (Key("k"), f"k-{RUN}"),
        (Key("k", scope="run"), f"k-{RUN}"),
        (Key("k", 7), f"k-7-{RUN}"),
        (Key("k", scope="attempt"), f"k-{RUN}-2"),
        (Key("k", scope="global"), "k"),
        (Key("k", run_id="run_x"), "k-run_x"),
        (Key("k", scope="attempt", run_id="run_x", attempt=5), "k-run_x-5"),
    ],
)
def test_a_key_is_the_hash_of_its_parts(key: Key, hashed: str) -> None:
    """As the clients of the system we match make it; what was written goes with it."""
    with entered_run(RunContext(RUN, "t", attempt=2)):
        wire = make_options("t", {"idempotency_key": key})
    assert wire == {"idempotencyKey": sha(hashed), "idempotencyKeyOptions": {"key": key.text, "scope": key.scope}}


def test_a_plain_text_is_a_key_of_the_run_inside_of_it_and_of_all_outside() -> None:
    assert make_options("t", {"idempotency_key": "k"}) == {"idempotencyKey": "k"}
    assert Key("k").hash() == Key("k", scope="attempt").hash() == Key("k", scope="global").hash() == sha("k")
    with entered_run(RunContext(RUN, "t")):
        assert make_options("t", {"idempotency_key": "k"}) == make_options("t", {"idempotency_key": Key("k")})
        hashed = sha("anything")
        assert make_options("t", {"idempotency_key": hashed}) == {"idempotencyKey": hashed}
        longer = make_options("t", {"idempotency_key": "k" * LONGEST_KEY})
        assert len(longer["idempotencyKey"]) == 64


@pytest.mark.parametrize("key", ["", "k" * (LONGEST_KEY + 1), 5, ["k"]])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="idempotency_key"):
        make_options("t", {"idempotency_key": key})


def test_what_no_key_object_can_be() -> None:
    with pytest.raises(ValueError, match="empty"):
        Key()
    with pytest.raises(ValueError, match="at most 2048 characters"):
        Key("k" * 2048, 1)
    with pytest.raises(ValueError, match="must be one of: run, attempt, global"):
        Key("k", scope="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the attempt's number"):
        Key("k", scope="attempt", run_id=RUN).hash()


async def test_a_client_that_hashes_and_one_that_does_not_mean_the_same_run(engine: Engine) -> None:
    run_id = await make(engine, "k")
    for spelt in (sha("k"), sha("k").upper()):
        assert await trigger(engine, spelt) == RunExists(run_id, cached=True)
    assert isinstance(await trigger(engine, sha("k")[:-1]), RunCreated)  # 63 characters are a text
    assert isinstance(await trigger(engine, "z" * 64), RunCreated)  # as 64 are that no hash has
    await assert_invariants(engine)


# Inside of runs


@task(id="k.child", retry=ONCE)
async def child(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return number


@task(id="k.parent", retry=ONCE)
async def parent(scope: str | None) -> list[str]:
    key: Any = "k" if scope is None else Key("k", scope=scope)  # type: ignore[arg-type]
    first = await child.trigger_and_wait(1, idempotency_key=key)
    second = await child.trigger_and_wait(2, idempotency_key=key)
    third = await child.trigger(3, idempotency_key=key)
    items = await child.batch_trigger_and_wait([Item(4, idempotency_key=key), 5])
    return [first.run_id, second.run_id, third.id, items[0].run_id, str(third.is_cached), items[1].run_id]


@pytest.mark.parametrize(("scope", "shared"), [(None, False), ("run", False), ("attempt", False), ("global", True)])
async def test_two_runs_share_the_children_of_global_keys_only(engine: Engine, scope: str | None, shared: bool) -> None:
    async with working(engine, parent, child):
        told = [read_output(await execute(engine, parent, scope)) for _ in range(2)]
    for one in told:
        assert len(set(one[:4])) == 1  # within a run a key is one run, in batches too
        assert one[4:5] == ["True"]
    assert (told[0][0] == told[1][0]) is shared
    assert told[0][5] != told[1][5]
    await assert_invariants(engine)


@task(id="k.tries", retry=Retry(max_attempts=2, min_delay=0, jitter=False))
async def tries(scope: str) -> list[str]:
    """Its first attempt fails after its child has ended; the second one is told of the same child."""
    outcome = await child.trigger_and_wait(1, idempotency_key=Key("k", scope=scope))  # type: ignore[arg-type]
    run = current_run()
    assert run is not None
    if run.attempt == 1:
        raise RuntimeError("made to fail")
    return [outcome.run_id, str(run.attempt)]


@pytest.mark.parametrize("scope", ["run", "attempt", "global"])
async def test_a_replay_finds_its_children_whatever_the_scope(engine: Engine, scope: str) -> None:
    """Also where the attempt, and so the hash, is another one than when the child was made: the journal goes first."""
    async with working(engine, tries, child):
        told = read_output(await execute(engine, tries, scope))
    assert told[1] == "2"
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs WHERE parent_run_id IS NOT NULL")) == 1


@task(id="k.again", retry=Retry(max_attempts=3, min_delay=0, jitter=False))
async def again() -> str:
    """Its child fails, and with it each attempt: a key is freed by that, so the next one makes another child."""
    run = current_run()
    assert run is not None
    outcome = await child.trigger_and_wait(-1 if run.attempt < 3 else 1, idempotency_key="k", key="the child")
    outcome.unwrap()
    return outcome.run_id


async def test_a_child_that_failed_frees_its_key_for_the_next_attempt(engine: Engine) -> None:
    async with working(engine, again, child):
        read_output(await execute(engine, again))
    rows = await fetch_sql(
        engine, "SELECT status, options FROM headrace.runs WHERE parent_run_id IS NOT NULL ORDER BY id"
    )
    assert [row["status"] for row in rows] == ["FAILED", "FAILED", "COMPLETED"]


async def test_a_key_hit_waits_for_the_run_that_is_there(engine: Engine) -> None:
    """Which an outside caller made, and which nobody has started when the parent comes."""
    other = await trigger_task(engine, child, 7, idempotency_key="outside", delay="0.3s")

    @task(id="k.waiter", retry=ONCE)
    async def waiter() -> list[Any]:
        outcome = await child.trigger_and_wait(8, idempotency_key=Key("outside", scope="global"))
        return [outcome.run_id, outcome.unwrap()]

    async with working(engine, waiter, child, wait_linger=0.0):
        told = read_output(await execute(engine, waiter))
    assert told[1] == 7
    assert (await await_end(engine, other)).status == "COMPLETED"


# How long they hold


@pytest.mark.parametrize(("end", "freed"), [("COMPLETED", False), ("CANCELED", False), ("FAILED", True), (None, False)])
async def test_success_and_cancel_keep_a_key_and_failure_frees_it(engine: Engine, end: str | None, freed: bool) -> None:
    lease = await register(engine)
    run_id = await make(engine, "k")
    if end == "CANCELED":
        await cancels.cancel_run(engine, 1, run_id)
    elif end is not None:
        await finish(engine, lease, await claim(engine, lease), end)  # type: ignore[arg-type]
    again = await trigger(engine, "k")
    assert isinstance(again, RunCreated) if freed else again == RunExists(run_id, cached=True)
    await assert_invariants(engine)


async def test_a_key_is_that_of_one_task_in_one_environment(engine: Engine) -> None:
    made = {await make(engine, "k"), await make(engine, "k", name="u"), await make(engine, "k", environment_id=2)}
    assert len(made) == 3


async def test_a_key_holds_for_its_time(engine: Engine) -> None:
    first = await make(engine, "k", idempotency_key_ttl="1h")
    assert await trigger(engine, "k") == RunExists(first, cached=True)
    await fetch_everywhere(
        engine, "UPDATE headrace.idempotency_keys SET expires_at = expires_at - interval '59 minutes'"
    )
    assert await trigger(engine, "k", idempotency_key_ttl="9d") == RunExists(
        first, cached=True
    )  # the first word counts
    await fetch_everywhere(
        engine, "UPDATE headrace.idempotency_keys SET expires_at = expires_at - interval '2 minutes'"
    )
    assert isinstance(await trigger(engine, "k"), RunCreated)
    await assert_invariants(engine)


async def test_keys_of_batches_and_of_their_items(engine: Engine) -> None:
    def items(*keys: str | None) -> list[StoredItem]:
        given = [RunOptions(idempotency_key=key) if key else None for key in keys]
        return [StoredItem(index, "t", Packet(b"1"), options) for index, options in enumerate(given)]

    single = await make(engine, "a")
    request = CreateBatch(run_count=4, idempotency_key="a")  # the key of the batch is another than that of a run
    made = await batches.submit_batch(engine, 1, request, items("a", "b", "b", None))
    assert isinstance(made, BatchCreated)
    assert len(await fetch_sql(engine, "SELECT FROM headrace.runs")) == 3
    assert (await trigger(engine, "b")).cached is True
    assert [str(row["run_id"]) for row in await fetch_sql(engine, "SELECT * FROM headrace.batch_aliases WHERE batch_index = 0")] == [str(single)]  # fmt: skip
    hit = await batches.submit_batch(engine, 1, request, items("a", "b", "b", None))
    assert isinstance(hit, BatchExists)
    assert hit.batch.id == made.batch.id
    await assert_invariants(engine)


# Reset


async def test_a_reset_frees_a_key_and_leaves_the_run(engine: Engine) -> None:
    lease = await register(engine)
    first = await make(engine, "k")
    assert not await idempotency.reset_key(engine, 1, "u", "k")
    assert not await idempotency.reset_key(engine, 2, "t", "k")
    assert not await idempotency.reset_key(engine, 1, "t", "other")
    assert await idempotency.reset_key(engine, 1, "t", sha("k"))
    assert not await idempotency.reset_key(engine, 1, "t", "k")
    second = await make(engine, "k")
    # the end of the first one does not free the key that is the second one's by now
    claimed = [run for run in await claim(engine, lease) if run.id == first]
    await finish(engine, lease, claimed, "FAILED")
    assert await trigger(engine, "k") == RunExists(second, cached=True)
    await fetch_everywhere(engine, "UPDATE headrace.idempotency_keys SET expires_at = now()")
    assert not await idempotency.reset_key(engine, 1, "t", "k")
    await assert_invariants(engine)


@pytest.mark.one_store(
    "the points are of a claim and an insert in one transaction; over stores these are two, in test_foreign_keys"
)
async def test_a_reset_between_the_claim_of_a_key_and_the_commit_waits_or_finds_nothing(engine: Engine) -> None:
    """A trigger that holds a key is told of the run it stands for; the reset comes after it."""
    first = await make(engine, "k")
    async with holding(engine, "after:claim_keys") as (own, hold):
        triggering = await held_at(hold, trigger(own, "k"))
        resetting = await blocked(engine, idempotency.reset_key(engine, 1, "t", "k"))
        assert not resetting.done()
        hold.released.set()
        assert await triggering == RunExists(first, cached=True)
        assert await resetting
    async with holding(engine, "after:insert_run") as (own, hold):
        triggering = await held_at(hold, trigger(own, "k"))
        assert not await idempotency.reset_key(engine, 1, "t", "k")  # nobody can see that key yet
        hold.released.set()
        second = await triggering
    assert await trigger(engine, "k") == RunExists(second.run_id, cached=True)
    await assert_invariants(engine)


async def test_fifty_triggers_at_once_make_one_run(engine: Engine) -> None:
    answers = await asyncio.gather(*(trigger(engine, "k" if n % 2 else sha("k")) for n in range(50)))
    assert len({answer.run_id for answer in answers}) == 1
    assert sum(isinstance(answer, RunCreated) for answer in answers) == 1
    assert all(answer.cached for answer in answers if isinstance(answer, RunExists))
    await assert_invariants(engine)
