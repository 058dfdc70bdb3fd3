"""Tokens: made once, ended once, and whoever waits for one goes on in the moment in which it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.engine import tokens
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet
from headrace.engine.token_outcomes import (
    TokenCompleted,
    TokenCreated,
    TokenExists,
    TokenFilter,
    TokenMissing,
    TokenRefused,
    TokensExpired,
    TokenView,
)
from headrace.engine.tokens import end_token, expire_tokens, lock_token, make_token
from headrace.ids import mint_run_id, mint_token_id
from headrace.protocol.tokens import TokenStatus
from headrace.settings import Settings
from headrace.store.statements import Plan
from headrace.store.store import run_plan_on
from tests.engine.waiters import POINT, make_waiter, read_run, run_later
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

DEV, STAGING = 1, 2
DONE = Packet(b'"done"')


async def make(engine: Engine, environment_id: int = DEV, **asked: Any) -> TokenView:
    """A new token."""
    plan = make_token(environment_id, engine.settings, token_id=mint_token_id(), **asked)
    answer = await engine.store.run_plan(plan)
    assert isinstance(answer, TokenCreated), answer
    return answer.token


async def look(engine: Engine, token: TokenView) -> TokenView:
    """The token as it stands."""
    found = await tokens.find_token(engine, token.environment_id, token.id)
    assert found is not None
    return found


async def run_all_at_once(engine: Engine, plans: Sequence[Plan[Any]]) -> list[Any]:
    """What each plan returns, each on a connection of its own, all begun at one moment."""
    connections = await asyncio.gather(*(asyncpg.connect(engine.settings.database_url) for _ in plans))
    start = asyncio.Event()

    async def run_one(connection: Any, plan: Plan[Any]) -> Any:
        await start.wait()
        async with connection.transaction():
            return await run_plan_on(connection, plan)

    try:
        running = [asyncio.create_task(run_one(*pair)) for pair in zip(connections, plans, strict=True)]
        start.set()
        return await asyncio.gather(*running)
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


async def stays_blocked(work: Coroutine[Any, Any, Any], watcher: Engine) -> asyncio.Task[Any]:
    """Starts ``work`` and returns once PostgreSQL says that somebody waits for a lock."""
    task = asyncio.create_task(work)
    async with asyncio.timeout(30):
        while not await fetch_sql(watcher, "SELECT FROM pg_locks WHERE NOT granted"):
            assert not task.done()
            await asyncio.sleep(0.01)
    return task


# Made


async def test_a_token_is_what_was_asked_for(engine: Engine) -> None:
    run_id = mint_run_id()
    token = await make(
        engine, timeout="1h30m", tags=["a", "", "b"], idempotency_key="k", idempotency_key_ttl=60, run_id=run_id
    )
    assert token == await look(engine, token)
    assert (token.status, token.tags, token.run_id) == (TokenStatus.WAITING, ["a", "b"], run_id)
    assert (token.output, token.completed_at) == (None, None)
    assert token.timeout_at == token.created_at + timedelta(hours=1.5)
    assert (token.idempotency_key, token.idempotency_key_expires_at) == ("k", token.created_at + timedelta(minutes=1))
    bare = await make(engine)
    assert (bare.timeout_at, bare.tags, bare.idempotency_key, bare.idempotency_key_expires_at) == (None, [], None, None)
    await assert_invariants(engine)


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        ("2030-01-02T03:04:05Z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2030-01-02T03:04:05+02:00", datetime(2030, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2030-01-02T03:04:05", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (datetime(2030, 1, 2, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)),
        (datetime(2030, 1, 2), datetime(2030, 1, 2).astimezone(UTC)),  # noqa: DTZ001 - local time is meant
        ("2000-01-01", datetime(2000, 1, 1, tzinfo=UTC)),
    ],
)
async def test_a_timeout_may_be_a_date(engine: Engine, timeout: Any, expected: datetime) -> None:
    assert (await make(engine, timeout=timeout)).timeout_at == expected


@pytest.mark.parametrize("timeout", [90, 90.0, "90s", timedelta(seconds=90)])
async def test_a_timeout_may_be_a_duration(engine: Engine, timeout: Any) -> None:
    token = await make(engine, timeout=timeout)
    assert token.timeout_at == token.created_at + timedelta(seconds=90)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"timeout": "soon"}, "timeout is 'soon': give a duration such as '30s', '1h30m' or '7d', or an ISO 8601 date"),
        ({"timeout": -1}, "timeout is -1: give a duration"),
        ({"timeout": "36501d"}, "may be at most 36500 days"),
        ({"timeout": float("inf")}, "timeout is inf: give"),
        ({"timeout": "0001-01-01T00:00:00+09:00"}, "give a duration"),
        ({"tags": list("abcdefghijk")}, "a token has at most 10 tags, 11 were given"),
        ({"tags": ["x" * 129]}, "a tag has at most 128 characters"),
        ({"tags": "a\0b"}, "a tag must not hold a NUL character"),
        ({"tags": ["\ud800"]}, "a tag must be text that UTF-8 can spell"),
        ({"idempotency_key": "x" * 2049}, "idempotencyKey must be 2048 characters or less"),
        ({"idempotency_key": "\0"}, "idempotencyKey must not hold a NUL character"),
        ({"idempotency_key": "k", "idempotency_key_ttl": "never"}, "'never' is no duration"),
        ({"idempotency_key": "k", "idempotency_key_ttl": "36501d"}, "a key holds at most 36500 days"),
    ],
)
async def test_what_can_not_be_is_refused_in_words_and_leaves_nothing(
    engine: Engine, asked: dict[str, Any], said: str
) -> None:
    answer = await engine.store.run_plan(make_token(DEV, engine.settings, token_id=mint_token_id(), **asked))
    assert isinstance(answer, TokenRefused)
    assert answer.status == 422
    assert said in answer.message
    assert not await fetch_sql(engine, "SELECT FROM headrace.tokens")
    assert not await fetch_sql(engine, "SELECT FROM headrace.idempotency_keys")


@pytest.mark.parametrize("key", [None, "k"])
async def test_made_twice_with_one_id_is_made_once(engine: Engine, key: str | None) -> None:
    token_id = mint_token_id()

    def plan() -> Plan[Any]:
        return make_token(DEV, engine.settings, token_id=token_id, timeout="1h", idempotency_key=key)

    first = await engine.store.run_plan(plan())
    assert first == await engine.store.run_plan(plan())
    assert {answer.token.id for answer in await run_all_at_once(engine, [plan() for _ in range(8)])} == {token_id}
    assert isinstance(first, TokenCreated)
    # its key stands for another token by now: the same call still finds what it made itself
    if key is not None:
        later = make_token(DEV, engine.settings, token_id=mint_token_id(), idempotency_key=key)
        assert isinstance(await run_later(engine, "31 days", later), TokenCreated)
        assert await engine.store.run_plan(plan()) == first
    await assert_invariants(engine)


# Keys


async def test_fifty_at_once_with_one_key_make_one_token(engine: Engine) -> None:
    plans = [make_token(DEV, engine.settings, token_id=mint_token_id(), idempotency_key="one") for _ in range(50)]
    answers = await run_all_at_once(engine, plans)
    created = [answer for answer in answers if isinstance(answer, TokenCreated)]
    assert len(created) == 1
    assert all(answer.cached for answer in answers if isinstance(answer, TokenExists))
    assert {answer.token.id for answer in answers} == {created[0].token.id}
    assert len(await fetch_sql(engine, "SELECT FROM headrace.tokens")) == 1
    await assert_invariants(engine)


async def test_a_key_holds_for_its_time_and_then_makes_a_new_token(engine: Engine) -> None:
    def plan(**asked: Any) -> Plan[Any]:
        return make_token(DEV, engine.settings, token_id=mint_token_id(), idempotency_key="k", **asked)

    first = await engine.store.run_plan(plan(idempotency_key_ttl="1h"))
    held = await run_later(engine, "59 minutes", plan())
    assert (type(held), held.token.id) == (TokenExists, first.token.id)
    second = await run_later(engine, "61 minutes", plan())
    assert isinstance(second, TokenCreated)
    assert second.token.id != first.token.id
    # without a time it holds as long as the setting says: 30 days
    held = await run_later(engine, "30 days", plan())
    assert (type(held), held.token.id) == (TokenExists, second.token.id)
    assert isinstance(await run_later(engine, "31 days", plan()), TokenCreated)
    # the first one lives on: only its key is gone
    assert (await look(engine, first.token)).status is TokenStatus.WAITING


async def test_a_key_finds_a_token_that_has_ended(engine: Engine) -> None:
    token = await make(engine, idempotency_key="k")
    await tokens.complete_token(engine, DEV, token.id, DONE)
    plan = make_token(DEV, engine.settings, token_id=mint_token_id(), idempotency_key="k")
    answer = await engine.store.run_plan(plan)
    assert isinstance(answer, TokenExists)
    assert answer.token.status is TokenStatus.COMPLETED


async def test_environments_do_not_see_each_other(engine: Engine) -> None:
    mine, theirs = await make(engine, idempotency_key="k"), await make(engine, STAGING, idempotency_key="k")
    assert mine.id != theirs.id
    assert await tokens.find_token(engine, STAGING, mine.id) is None
    assert await engine.store.run_plan(lock_token(STAGING, mine.id)) is None
    assert await tokens.complete_token(engine, STAGING, mine.id, DONE) == TokenMissing()
    assert (await look(engine, mine)).status is TokenStatus.WAITING
    page = await tokens.list_tokens(engine, STAGING, TokenFilter())
    assert [token.id for token in page.tokens] == [theirs.id]
    found = await tokens.find_token_environment(engine, theirs.id)
    assert found is not None
    assert found.id == STAGING
    assert await tokens.find_token_environment(engine, mint_token_id()) is None


# Completed


async def test_a_completed_token_wakes_who_waits_for_it(engine: Engine) -> None:
    token, other = await make(engine), await make(engine)
    waiting = [await make_waiter(engine, token.id) for _ in range(3)]
    asleep = await make_waiter(engine, other.id)
    both = await make_waiter(engine, token.id, other.id)
    told = engine.notices.count_ready(DEV)
    answer = await tokens.complete_token(engine, DEV, token.id, DONE)
    assert isinstance(answer, TokenCompleted)
    assert (answer.won, answer.token.status, answer.token.output) == (True, TokenStatus.COMPLETED, DONE)
    assert answer.token == await look(engine, token)
    assert [await read_run(engine, run_id) for run_id in waiting] == [("QUEUED", 1, 0)] * 3
    assert await read_run(engine, asleep) == ("WAITING", 0, 1)
    assert await read_run(engine, both) == ("QUEUED", 1, 1)
    assert await engine.notices.wait_ready(DEV, 5, since=told)
    # the run that waits for both is ready already: the second one finds nothing to wake there
    await tokens.complete_token(engine, DEV, other.id, DONE)
    assert await read_run(engine, both) == ("QUEUED", 1, 0)
    assert await read_run(engine, asleep) == ("QUEUED", 1, 0)
    await assert_invariants(engine)


async def test_the_first_completion_counts(engine: Engine) -> None:
    token = await make(engine)
    await tokens.complete_token(engine, DEV, token.id, Packet(b"1"))
    first = await look(engine, token)
    again = await tokens.complete_token(engine, DEV, token.id, Packet(b"2"))
    assert again == TokenCompleted(first, won=False)
    assert await look(engine, token) == first
    assert await tokens.complete_token(engine, DEV, mint_token_id(), DONE) == TokenMissing()


async def test_an_output_may_be_nothing(engine: Engine) -> None:
    token = await make(engine)
    await tokens.complete_token(engine, DEV, token.id, Packet(None))
    assert (await look(engine, token)).output == Packet(None)


async def test_fifty_completions_at_once_have_one_winner(engine: Engine) -> None:
    token = await make(engine)
    waiter = await make_waiter(engine, token.id)
    answers = await run_all_at_once(engine, [end_token(DEV, token.id, Packet(b"%d" % n)) for n in range(50)])
    [winner] = [number for number, answer in enumerate(answers) if answer.won]
    assert {answer.token.output for answer in answers} == {Packet(b"%d" % winner)}
    assert await read_run(engine, waiter) == ("QUEUED", 1, 0)
    await assert_invariants(engine)


async def test_the_token_ends_and_the_run_wakes_in_one_moment(engine: Engine) -> None:
    """A reader sees both or neither, and a transaction that is rolled back has done neither."""
    pairs = [(token, await make_waiter(engine, token.id)) for token in [await make(engine) for _ in range(40)]]
    seen: set[tuple[str, str]] = set()
    finished = asyncio.Event()

    async def watch() -> None:
        while not finished.is_set():
            rows = await fetch_sql(
                engine,
                "SELECT t.status AS token, r.status AS run FROM headrace.tokens AS t"
                " JOIN headrace.journal AS j ON j.target = t.id JOIN headrace.runs AS r ON r.id = j.run_id",
            )
            seen.update((row["token"], row["run"]) for row in rows)

    watching = asyncio.create_task(watch())
    async with engine.store.connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await run_plan_on(connection, end_token(DEV, pairs[0][0].id, DONE))
        await transaction.rollback()
    assert await read_run(engine, pairs[0][1]) == ("WAITING", 0, 1)
    for token, _ in pairs:
        await tokens.complete_token(engine, DEV, token.id, DONE)
    finished.set()
    await watching
    assert seen <= {("WAITING", "WAITING"), ("COMPLETED", "QUEUED")}
    assert ("WAITING", "WAITING") in seen
    assert [await read_run(engine, run_id) for _, run_id in pairs] == [("QUEUED", 1, 0)] * 40


# Waited for


async def test_who_writes_a_wait_holds_completion_off_and_is_seen_by_it(engine: Engine) -> None:
    token = await make(engine)
    run_id = await make_waiter(engine)
    async with engine.store.connect() as connection:
        async with connection.transaction():
            locked = await run_plan_on(connection, lock_token(DEV, token.id))
            assert locked == token
            completing = await stays_blocked(tokens.complete_token(engine, DEV, token.id, DONE), engine)
            await connection.execute(POINT, DEV, run_id, token.id, "token/0")
            await engine.store.run_plan(lock_token(DEV, token.id))  # others may write theirs beside it
        answer = await completing
    assert answer.won
    assert await read_run(engine, run_id) == ("QUEUED", 1, 0)


async def test_who_comes_to_wait_while_it_is_completed_sees_it_ended(engine: Engine) -> None:
    token = await make(engine)
    async with engine.store.connect() as connection:
        async with connection.transaction():
            await run_plan_on(connection, end_token(DEV, token.id, DONE))
            locking = await stays_blocked(engine.store.run_plan(lock_token(DEV, token.id)), engine)
        locked = await locking
    assert (locked.status, locked.output) == (TokenStatus.COMPLETED, DONE)


async def test_waits_and_completions_at_once_leave_nobody_asleep(engine: Engine) -> None:
    """Both orders, as chance has it: who registers too late sees the end, who registered before is woken."""
    made = [await make(engine) for _ in range(20)]
    runs = [await make_waiter(engine) for _ in made]

    def register(token: TokenView, run_id: UUID) -> Plan[bool]:
        found = yield from lock_token(DEV, token.id)
        assert found is not None
        if found.status is not TokenStatus.WAITING:
            return False
        yield _Insert([DEV, run_id, token.id, "token/0"])
        return True

    plans: list[Plan[Any]] = []
    for token, run_id in zip(made, runs, strict=True):
        plans += [register(token, run_id), end_token(DEV, token.id, DONE)]
    answers = await run_all_at_once(engine, plans)
    for run_id, registered, ended in zip(runs, answers[::2], answers[1::2], strict=True):
        assert ended.won
        assert await read_run(engine, run_id) == (("QUEUED", 1, 0) if registered else ("WAITING", 0, 0))
    await assert_invariants(engine)


class _Insert:
    """A statement of the test's own within a plan."""

    sql = POINT

    def __init__(self, args: list[Any]) -> None:
        self.args = args


# Timed out


async def test_the_sweep_ends_what_is_due_and_wakes_who_waits(engine: Engine) -> None:
    due, far, never = await make(engine, timeout="1h"), await make(engine, timeout="3h"), await make(engine)
    elsewhere = await make(engine, STAGING, timeout="1h")
    done = await make(engine, timeout="1h")
    await tokens.complete_token(engine, DEV, done.id, DONE)
    runs = [await make_waiter(engine, token.id) for token in (due, far, never)]
    theirs = await make_waiter(engine, elsewhere.id, environment_id=STAGING)
    assert await engine.store.run_plan(expire_tokens()) == TokensExpired(0, {}.keys())
    swept = await run_later(engine, "2 hours", expire_tokens())
    assert (swept.count, set(swept.environments)) == (2, {DEV, STAGING})
    states = [(await look(engine, token)).status for token in (due, far, never, elsewhere, done)]
    assert states == ["TIMED_OUT", "WAITING", "WAITING", "TIMED_OUT", "COMPLETED"]
    assert [await read_run(engine, run_id) for run_id in runs] == [("QUEUED", 1, 0), *[("WAITING", 0, 1)] * 2]
    assert await read_run(engine, theirs) == ("QUEUED", 1, 0)
    ended = await look(engine, due)
    assert ended.output is None
    assert ended.completed_at is not None
    # it stays what it is, and whoever comes too late is not told otherwise
    late = await tokens.complete_token(engine, DEV, due.id, DONE)
    assert late == TokenCompleted(ended, won=False)
    await assert_invariants(engine)


async def test_a_sweep_takes_a_bounded_chunk_the_longest_due_first(engine: Engine) -> None:
    made = [await make(engine, timeout=f"{minutes}m") for minutes in (3, 1, 2)]
    assert (await run_later(engine, "1 hour", expire_tokens(2))).count == 2
    assert [(await look(engine, token)).status for token in made] == ["WAITING", "TIMED_OUT", "TIMED_OUT"]
    assert (await run_later(engine, "1 hour", expire_tokens(2))).count == 1
    assert (await run_later(engine, "1 hour", expire_tokens(2))).count == 0


async def test_completions_and_sweeps_at_once_end_each_token_once(engine: Engine) -> None:
    made = [await make(engine, timeout=0) for _ in range(30)]
    runs = [await make_waiter(engine, token.id) for token in made]
    plans: list[Plan[Any]] = [expire_tokens(10) for _ in range(4)]
    plans += [end_token(DEV, token.id, DONE) for token in made]
    answers = await run_all_at_once(engine, plans)
    swept, completed = sum(answer.count for answer in answers[:4]), [answer.won for answer in answers[4:]]
    states = [(await look(engine, token)).status for token in made]
    assert [state is TokenStatus.COMPLETED for state in states] == completed
    assert states.count(TokenStatus.TIMED_OUT) == swept
    rest = states.count(TokenStatus.WAITING)
    assert rest == 0
    assert [await read_run(engine, run_id) for run_id in runs] == [("QUEUED", 1, 0)] * 30
    await assert_invariants(engine)


async def test_sweeps_at_once_share_the_work_and_skip_what_is_held(engine: Engine) -> None:
    made = [await make(engine, timeout=0) for _ in range(50)]
    async with engine.store.connect() as connection, connection.transaction():
        await run_plan_on(connection, lock_token(DEV, made[0].id))
        answers = await run_all_at_once(engine, [expire_tokens(20) for _ in range(5)])
        assert sum(answer.count for answer in answers) == 49
    assert (await engine.store.run_plan(expire_tokens())).count == 1


# Listed


async def test_pages_go_from_the_newest_to_the_oldest_and_back(engine: Engine) -> None:
    made = sorted([(await make(engine)).id for _ in range(7)], reverse=True)  # of one millisecond, two sort by chance

    async def page(**asked: Any) -> tuple[list[UUID], bool, bool]:
        found = await tokens.list_tokens(engine, DEV, TokenFilter(), limit=3, **asked)
        return [token.id for token in found.tokens], found.has_older, found.has_newer

    assert await page() == (made[:3], True, False)
    assert await page(after=made[2]) == (made[3:6], True, True)
    assert await page(after=made[5]) == (made[6:], False, True)
    assert await page(before=made[3]) == (made[:3], True, False)
    assert await page(before=made[6]) == (made[3:6], True, True)


async def test_lists_are_filtered(engine: Engine) -> None:
    plain = await make(engine)
    tagged = await make(engine, tags=["a", "b"], idempotency_key="k,1")
    done = await make(engine, tags=["b"])
    await tokens.complete_token(engine, DEV, done.id, Packet(b'"long"'))
    late = await make(engine, timeout=0)
    await engine.store.run_plan(expire_tokens())

    async def found(**wanted: Any) -> set[UUID]:
        page = await tokens.list_tokens(engine, DEV, TokenFilter(**wanted))
        assert all(token.output is None for token in page.tokens)
        return {token.id for token in page.tokens}

    assert await found() == {late.id, done.id, tagged.id, plain.id}
    assert await found(statuses=frozenset({TokenStatus.COMPLETED})) == {done.id}
    assert await found(statuses=frozenset({TokenStatus.WAITING, TokenStatus.TIMED_OUT})) == {
        late.id,
        tagged.id,
        plain.id,
    }
    assert await found(statuses=frozenset()) == set()
    assert await found(tags=["a", "z"]) == {tagged.id}
    assert await found(tags=["b"]) == {done.id, tagged.id}
    assert await found(idempotency_key="k,1") == {tagged.id}
    assert await found(token_id=done.id) == {done.id}
    assert await found(token_id=mint_token_id()) == set()
    assert await found(created_from=done.created_at) == {late.id, done.id}
    assert await found(created_to=tagged.created_at) == {tagged.id, plain.id}


async def test_a_request_that_is_sent_again_makes_no_second_token(engine: Engine, settings: Settings) -> None:
    from headrace.engine.outcomes import KeyConflict  # noqa: PLC0415
    from headrace.protocol.tokens import CreateToken  # noqa: PLC0415

    async def create(request_id: str, **asked: Any) -> Any:
        request = CreateToken(**asked)
        return await tokens.create_token(engine, DEV, mint_token_id(), request, request_id=request_id)

    first = await create("r1", timeout="1h")
    again = await create("r1", timeout="1h")
    assert (type(again), again.token.id, again.cached) == (TokenExists, first.token.id, False)
    assert isinstance(await create("r1", timeout="2h"), KeyConflict)
    # a refused one may be mended and sent again with the same name
    assert isinstance(await create("r2", timeout="soon"), TokenRefused)
    assert isinstance(await create("r2", timeout="1m"), TokenCreated)
    # where its idempotency key hit another token, the same request finds that one again, whatever the key does then
    keyed = await create("r3", idempotency_key="k", idempotency_key_ttl="1h")
    hit = await create("r4", idempotency_key="k")
    assert (type(hit), hit.token.id, hit.cached) == (TokenExists, keyed.token.id, True)
    hit = await create("r4", idempotency_key="k")
    assert (hit.token.id, hit.cached) == (keyed.token.id, False)
    await assert_invariants(engine)
