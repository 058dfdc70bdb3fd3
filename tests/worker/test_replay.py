"""What docs/explanation/replay.md says: of code that changes, of versions, of what a put-down does to code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from headrace import NotInRunError, metadata, step, wait
from headrace.engine import tokens
from headrace.engine.engine import Engine
from headrace.engine.listings import list_runs
from headrace.engine.outcomes import Packet, RunFilter, RunView
from headrace.engine.runs import list_attempts
from headrace.engine.sweeps import run_sweeps
from headrace.ids import parse_token_id
from headrace.protocol.statuses import RunStatus
from headrace.tasks import AsyncTask
from tests.worker import replay_jobs as jobs
from tests.worker.helpers import PATIENCE, await_end, execute, look, read_output, trigger, until, working

pytestmark = pytest.mark.anyio

Code = Callable[[int], Awaitable[Any]]


async def began(_: int) -> str:
    """The code that begins runs: a token, a child, and then the wait."""
    token = await wait.create_token()
    doubled = (await jobs.double.trigger_and_wait(1, key="child")).unwrap()
    await metadata.set("token", token.id)
    await wait.for_token(token)
    return f"old {doubled}"


async def appended(_: int) -> str:
    token = await wait.create_token()
    doubled = (await jobs.double.trigger_and_wait(1, key="child")).unwrap()
    await wait.for_token(token)
    return f"new {doubled} {await step('more', str, 3)}"


async def repaid(_: int) -> str:
    """A child with a key may be given something else; it was made, and is not made again."""
    token = await wait.create_token()
    doubled = (await jobs.double.trigger_and_wait(500, key="child")).unwrap()
    await wait.for_token(token)
    return f"new {doubled}"


async def at_once(_: int) -> str:
    child = jobs.double.trigger_and_wait(1, key="child")
    token = await wait.create_token()
    outcome, _ = await asyncio.gather(child, wait.for_token(token))
    return f"new {outcome.unwrap()}"


async def inserted(_: int) -> str:
    token = await wait.create_token()
    await step("inserted", str, 3)
    await jobs.double.trigger_and_wait(1, key="child")
    await wait.for_token(token)
    return "new"


async def renamed(_: int) -> str:
    token = await wait.create_token()
    await jobs.double.trigger_and_wait(1, key="another")
    await wait.for_token(token)
    return "new"


async def removed(_: int) -> str:
    token = await wait.create_token()
    await wait.for_token(token)
    return await step("more", str, 3)


@pytest.mark.parametrize(
    ("code", "result"),
    [(appended, "new 2 3"), (repaid, "new 2"), (at_once, "new 2")],
    ids=["appended", "repaid", "at once"],
)
async def test_an_edit_that_keeps_the_points_is_taken_up(engine: Engine, code: Code, result: str) -> None:
    async with sweeping(engine):
        run_id = await begin(engine)
        async with living(engine, code, version="2"):
            await complete(engine, run_id)
            assert read_output(await await_end(engine, run_id)) == result


@pytest.mark.parametrize(
    ("code", "met", "expected"),
    [
        (inserted, "step:inserted", "run:r.double/child"),
        (renamed, "run:r.double/another", "run:r.double/child"),
        (removed, "step:more", "run:r.double/child"),
    ],
    ids=["inserted", "renamed", "removed"],
)
async def test_code_that_comes_to_other_points_fails_its_run_for_good_and_both_are_named(
    engine: Engine, code: Code, met: str, expected: str
) -> None:
    async with sweeping(engine):
        run_id = await begin(engine)
        async with living(engine, code, version="2"):
            await complete(engine, run_id)
            run = await await_end(engine, run_id)
    assert (run.status, run.error and run.error["name"]) == (RunStatus.FAILED, "NondeterminismError")
    assert f"came to '{met}', but the run's journal has '{expected}'" in str(run.error and run.error["message"])
    assert len(await list_attempts(engine, 1, run_id)) == 1  # of three: another would meet the same


async def test_a_run_stays_on_the_version_that_began_it_while_a_worker_of_that_version_lives(engine: Engine) -> None:
    async with sweeping(engine), living(engine, began, version="1"):
        ids = [await trigger(engine, "r.versioned", 0) for _ in range(5)]
        for run_id in ids:
            await await_put_down(engine, run_id)
        async with living(engine, inserted, version="2"):
            for run_id in ids:
                await complete(engine, run_id)
            assert {read_output(await await_end(engine, run_id)) for run_id in ids} == {"old 2"}


async def test_when_the_last_worker_of_its_version_has_gone_a_run_goes_on_with_other_code(engine: Engine) -> None:
    async with sweeping(engine), AsyncExitStack() as first, AsyncExitStack() as second:
        await first.enter_async_context(living(engine, began, version="1"))
        run_id = await trigger(engine, "r.versioned", 0)
        await await_put_down(engine, run_id)
        await second.enter_async_context(living(engine, appended, version="2"))
        await first.aclose()
        await complete(engine, run_id)
        assert read_output(await await_end(engine, run_id)) == "new 2 3"


@pytest.mark.parametrize("name", ["cleaner", "cleaner_in_thread"])
async def test_finally_runs_when_a_run_is_put_down_and_except_does_not(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "notes"
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        assert read_output(await execute(engine, getattr(jobs, name), str(file))) == "done"
    assert file.read_text().split() == ["begins", "cleans", "begins", "cleans"]


@pytest.mark.parametrize(("name", "caught"), [("stubborn", "CancelledError"), ("stubborn_in_thread", "PutDown")])
async def test_code_that_catches_the_put_down_is_put_down_all_the_same(
    engine: Engine, tmp_path: Path, name: str, caught: str
) -> None:
    file = tmp_path / "notes"
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        run = await execute(engine, getattr(jobs, name), str(file))
    assert (read_output(run), run.resumes) == ("done", 1)
    assert file.read_text().split() == [caught]


async def test_a_run_that_does_something_else_beside_its_wait_is_kept(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        run_id = await trigger(engine, jobs.busy, str(file))
        await until(file.exists, "it has begun")
        # another run of the same worker is put down and goes on meanwhile
        await execute(engine, jobs.long, 1)
        Path(f"{file}.go").touch()
        run = await await_end(engine, run_id)
    assert (read_output(run), run.resumes) == ("done", 0)
    assert file.read_text().split() == ["begins", "worked"]


async def test_a_wait_is_limited_by_a_race_with_a_timer(engine: Engine, tmp_path: Path) -> None:
    """And the child whose parent gave it up goes on."""
    file = tmp_path / "open"
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        run = await execute(engine, jobs.impatient, str(file))
        assert read_output(run) == "too late"
        assert run.resumes > 0
        [child] = [one for one in await list_children(engine) if one.task == "r.gate"]
        assert child.status is RunStatus.EXECUTING
        file.touch()
        assert read_output(await await_end(engine, child.id)) == "open"
        assert read_output(await execute(engine, jobs.impatient, str(file))) == "open"


async def test_max_duration_counts_the_time_in_memory(engine: Engine) -> None:
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        started = time.monotonic()
        assert read_output(await execute(engine, jobs.long, 5)) == 5
        assert time.monotonic() - started > 1.0


async def test_a_failure_before_something_that_succeeded_stays_in_every_attempt(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "child"
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        run = await execute(engine, jobs.keeper, str(file))
    assert run.status is RunStatus.FAILED
    assert len(Path(f"{file}.attempts").read_text().split()) == 3
    assert len([one for one in await list_children(engine) if one.task == "r.fail_once"]) == 1


@pytest.mark.parametrize(("kind", "name"), [("abort", "Abort"), ("no json", "PayloadError")])
async def test_what_a_step_raised_it_raises_again_in_a_replay(engine: Engine, kind: str, name: str) -> None:
    async with sweeping(engine), working(engine, *jobs.TASKS, wait_linger=0.0):
        run = await execute(engine, jobs.refused, kind)
    assert run.resumes > 0
    assert read_output(run)[0] == name


@pytest.mark.parametrize("name", ["twice", "twice_in_thread"])
async def test_what_was_waited_for_is_not_waited_for_again(engine: Engine, name: str) -> None:
    async with working(engine, *jobs.TASKS):
        run = await execute(engine, getattr(jobs, name), 1)
    assert run.error is not None
    assert run.error["name"] == "RuntimeError"
    assert "was waited for before" in str(run.error["message"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: jobs.double.trigger(1), "use a Client"),
        (lambda: jobs.double.trigger_and_wait(1), "use a Client"),
        (lambda: jobs.double.batch_trigger_and_wait([1]), "use a Client"),
        (lambda: jobs.double.batch_trigger_and_iterate([1]), "use a Client"),
        (lambda: wait.for_(1), "asyncio.sleep"),
        (lambda: wait.until(datetime.now(UTC)), "asyncio.sleep"),
        (wait.create_token, "Client.create_token"),
        (lambda: wait.for_token("waitpoint_x"), "Client.retrieve_token"),
        (lambda: step("a", int), "Call the function itself"),
        (lambda: metadata.set("a", 1), "trigger(..., metadata="),
        (lambda: metadata.increment("a"), "trigger(..., metadata="),
        (metadata.current, "trigger(..., metadata="),
    ],
)
def test_outside_of_a_run_it_is_said_what_to_use_instead(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(NotInRunError) as raised:
        call()
    assert "inside of a run only" in str(raised.value)
    assert said in str(raised.value)


@asynccontextmanager
async def living(engine: Engine, code: Code, *, version: str) -> AsyncGenerator[None]:
    """A worker on which the task r.versioned is ``code``."""
    async with working(engine, AsyncTask(code, id="r.versioned"), *jobs.TASKS, version=version, wait_linger=0.0):
        yield


@asynccontextmanager
async def sweeping(engine: Engine) -> AsyncGenerator[None]:
    """The sweeps of deadlines."""
    stop = asyncio.Event()
    job = asyncio.create_task(run_sweeps(engine, stop))
    try:
        yield
    finally:
        stop.set()
        await job


async def begin(engine: Engine) -> UUID:
    """A run that version 1 has begun and put down, and whose worker has gone."""
    async with living(engine, began, version="1"):
        run_id = await trigger(engine, "r.versioned", 0)
        await await_put_down(engine, run_id)
    return run_id


async def await_put_down(engine: Engine, run_id: UUID) -> RunView:
    """The run once it waits for its token and no worker holds it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        run = await look(engine, run_id)
        if run.status is RunStatus.WAITING and isinstance(run.metadata, dict) and "token" in run.metadata:
            return run
        await engine.notices.wait_ready(1, 0.05)
    raise AssertionError(f"it was not put down: {await look(engine, run_id)}")


async def complete(engine: Engine, run_id: UUID) -> None:
    """Completes the token that the run shows."""
    token_id = parse_token_id((await look(engine, run_id)).metadata["token"])
    assert token_id is not None
    await tokens.complete_token(engine, 1, token_id, Packet(b"null"))


async def list_children(engine: Engine) -> list[RunView]:
    """Runs that were made by others."""
    page = await list_runs(engine, 1, RunFilter(), limit=100)
    return [run for run in page.runs if run.parent_run_id is not None]
