"""Hooks: their order, how often each is called, what an error in each does, wherever the task runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace import Abort, RetryAfter, hooks, step, wait
from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.errors import ConfigurationError, NotInRunError
from headrace.hooks import Decision, Event
from headrace.protocol.statuses import RunStatus
from headrace.tasks import Retry, Task, current_run, task
from tests.invariants import fetch_sql
from tests.worker.helpers import await_end, execute, read_output, trigger, worker_process, working
from tests.worker.hook_jobs import PLACES, THRICE, add_hooks, bare, bare_in_process, plain, read
from tests.worker.test_cancel_trees import living

pytestmark = pytest.mark.anyio

ROOT = str(Path(__file__).parents[2])
"""Where worker processes find the package of these tests."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def make_task(function: Callable[..., Any], name: str, **options: Any) -> Task[Any, Any]:
    """A task that only this test knows."""
    return Task(function, id=f"h.{name}", **{"retry": THRICE, **options})


async def note_run(payload: dict[str, Any]) -> str:
    run = current_run()
    assert run is not None
    if payload.get("failures", 0) > run.failures:
        raise ValueError(f"attempt {run.attempt}")
    return "done"


def note_run_in_thread(payload: dict[str, Any]) -> str:
    run = current_run()
    assert run is not None
    if payload.get("failures", 0) > run.failures:
        raise ValueError(f"attempt {run.attempt}")
    return "done"


@pytest.mark.parametrize("place", PLACES)
async def test_the_hooks_of_a_run_that_succeeds_come_in_order(engine: Engine, log: Path, place: str) -> None:
    async with working(engine, PLACES[place]):
        run = await execute(engine, PLACES[place], {"log": str(log)})
    assert read_output(run) == "done"
    assert read(log) == [
        "task.enter",
        "task.init",
        "task.on_start",
        "task.on_start_attempt",
        "run 1 init task",
        "task.on_success (output done)",
        "task.on_complete (output done, ok True)",
        "task.leave",
    ]


@pytest.mark.parametrize("place", PLACES)
async def test_the_hooks_of_a_run_that_fails_come_in_order_and_those_of_its_end_once(
    engine: Engine, log: Path, place: str
) -> None:
    async with working(engine, PLACES[place]):
        run = await execute(engine, PLACES[place], {"log": str(log), "failures": 9}, max_attempts=2)
    assert (run.status, run.attempt) == (RunStatus.FAILED, 2)
    first = [
        "task.enter",
        "task.init",
        "task.on_start",
        "task.on_start_attempt",
        "run 1 init task",
        "task.catch_error (ValueError: attempt 1)",
        "task.error ValueError",
        "task.leave",
    ]
    last = [
        "task.enter",
        "task.init",
        "task.on_start_attempt",
        "run 2 init task",
        "task.catch_error (ValueError: attempt 2)",
        "task.on_failure (ValueError: attempt 2)",
        "task.on_complete (ValueError: attempt 2, ok False)",
        "task.error ValueError",
        "task.leave",
    ]
    assert read(log) == first + last


@pytest.mark.parametrize("place", PLACES)
async def test_a_run_that_is_put_down_starts_and_succeeds_once_and_is_entered_twice(
    engine: Engine, log: Path, place: str
) -> None:
    """In the second attempt, so that going on is told from a new attempt by more than its number."""
    async with living(engine, PLACES[place], wait_linger=0.0):
        run = await execute(engine, PLACES[place], {"log": str(log), "failures": 1, "wait": 0.5})
    assert (read_output(run), run.attempt, run.resumes) == ("done", 3, 1)
    lines = read(log)
    left = [line for line in lines if line.startswith("task.error") and "ValueError" not in line]
    assert len(left) == 1, "it was put down once"
    begin = lines.index("run 2 init task")
    assert [line for line in lines[begin:] if line not in left] == [
        "run 2 init task",
        "task.on_wait (time wait:for)",
        "task.leave",
        "task.enter",
        "task.init",
        "run 2 init task",
        "task.on_resume (time wait:for)",
        "waited",
        "task.on_success (output done)",
        "task.on_complete (output done, ok True)",
        "task.leave",
    ]
    assert lines.count("task.on_start") == 1
    assert lines.count("task.on_start_attempt") == 2


async def test_a_wait_in_the_first_attempt_does_not_start_it_again(engine: Engine, log: Path) -> None:
    async with living(engine, plain, wait_linger=0.0):
        await execute(engine, plain, {"log": str(log), "wait": 0.5})
        kept = await fetch_sql(engine, "SELECT point FROM headrace.journal WHERE point LIKE '~%'")
    lines = read(log)
    assert (lines.count("task.enter"), lines.count("task.init")) == (2, 2)
    assert (lines.count("task.on_start"), lines.count("task.on_start_attempt")) == (1, 1)
    assert kept == [], "nothing had to be kept for that"


async def test_a_wait_in_memory_calls_the_hooks_around_it(engine: Engine, log: Path) -> None:
    async with living(engine, plain, wait_linger=30.0):
        await execute(engine, plain, {"log": str(log), "wait": 0.2})
    lines = read(log)
    assert lines.count("task.enter") == 1
    assert lines[5:8] == ["task.on_wait (time wait:for)", "task.on_resume (time wait:for)", "waited"]


@pytest.mark.parametrize("kind", ["child", "batch", "iterate", "token"])
async def test_hooks_around_waits_are_told_what_for(engine: Engine, log: Path, kind: str) -> None:
    child = make_task(note_run, "child")

    async def parent(payload: dict[str, Any]) -> str:
        if kind == "child":
            await child.trigger_and_wait({}, delay=0.4)
        elif kind == "batch":
            await child.batch_trigger_and_wait([{}, {}], delay=0.4)
        elif kind == "iterate":
            async for _ in child.batch_trigger_and_iterate([{}, {}], delay=0.4):
                pass
        else:
            with pytest.raises(Exception, match="nobody completed"):
                await wait.for_token(await wait.create_token(timeout=0.2, key="k"))
        return "done"

    waiting = make_task(parent, "parent")
    said: list[str] = []
    waiting.on_wait(lambda event: said.append(f"wait {event.wait.kind}"))
    waiting.on_resume(lambda event: said.append(f"resume {event.wait.kind}"))
    async with living(engine, waiting, child, wait_linger=0.0):
        assert read_output(await execute(engine, waiting, {"log": str(log)})) == "done"
    name = {"child": "run", "iterate": "batch"}.get(kind, kind)
    assert said[:2] == [f"wait {name}", f"resume {name}"]
    assert said.count(f"wait {name}") == said.count(f"resume {name}")
    assert len(said) == 2 or kind == "iterate"


async def test_hooks_of_all_tasks_come_first_and_their_middleware_is_outermost(engine: Engine, log: Path) -> None:
    with hooks.isolated():
        add_hooks(hooks, "all", asynchronous=True)
        async with working(engine, plain):
            await execute(engine, plain, {"log": str(log), "failures": 1}, max_attempts=2)
    lines = [line.partition(" (")[0] for line in read(log)]
    assert lines[: lines.index("run 1 init task")] == [
        "all.enter", "task.enter", "all.init", "task.init", "all.on_start", "task.on_start", "all.on_start_attempt",
        "task.on_start_attempt",
    ]  # fmt: skip
    assert lines[lines.index("run 1 init task") + 1 :][:6] == [
        "task.catch_error", "all.catch_error", "task.error ValueError", "task.leave", "all.error ValueError", "all.leave",
    ]  # fmt: skip
    assert lines[-6:] == [
        "all.on_success", "task.on_success", "all.on_complete", "task.on_complete", "task.leave", "all.leave",
    ]  # fmt: skip


async def test_hooks_of_all_tasks_reach_a_process_whose_task_does_not_import_them(engine: Engine, log: Path) -> None:
    with hooks.isolated():
        known = sys.modules.get("tests.worker.global_hooks")
        importlib.reload(known) if known else importlib.import_module("tests.worker.global_hooks")
        async with working(engine, bare_in_process):
            await execute(engine, bare_in_process, {"log": str(log)})
    assert read(log) == ["everywhere.on_start", "run 1", "everywhere.on_complete True"]


async def test_a_worker_process_has_the_hooks_of_the_module_that_it_is_given(engine: Engine, log: Path) -> None:
    target = str(Path(__file__).with_name("global_hooks.py"))
    async with worker_process(engine.settings, target, PYTHONPATH=ROOT):
        for each in (bare, bare_in_process):
            assert read_output(await execute(engine, each, {"log": str(log)})) == "done"
    assert read(log) == ["everywhere.on_start", "run 1", "everywhere.on_complete True"] * 2


async def test_runs_that_go_on_in_another_worker_have_each_hook_as_often_as_in_one(engine: Engine, log: Path) -> None:
    """Two worker processes; each run is put down as it waits, and whoever is free takes it up."""
    target = str(Path(__file__).with_name("hook_jobs.py"))
    extra = {"PYTHONPATH": ROOT, "HEADRACE_WAIT_LINGER": "0", "HEADRACE_CONCURRENCY": "4"}
    async with worker_process(engine.settings, target, **extra), worker_process(engine.settings, target, **extra):
        made = [await trigger(engine, plain, {"log": f"{log}{n}", "wait": 0.2}) for n in range(40)]
        ended = [await await_end(engine, run_id) for run_id in made]
    assert {run.status for run in ended} == {RunStatus.COMPLETED}
    workers = await fetch_sql(engine, "SELECT DISTINCT worker_id FROM headrace.attempts WHERE worker_id IS NOT NULL")
    assert len(workers) == 2
    for n in range(40):
        said = [line.split(" ")[0] for line in read(Path(f"{log}{n}"))]
        for moment in ("on_start", "on_wait", "on_resume", "on_success", "on_complete"):
            assert said.count(f"task.{moment}") == 1, said
        assert said.count("task.init") == 2  # once in each worker's memory
        assert said.index("task.on_start") < said.index("task.on_wait") < said.index("task.on_resume")
        assert said[-1] == "task.leave" or said[-1] == "task.on_complete"


FAILS_THE_ATTEMPT = ["middleware", "init", "on_start", "on_start_attempt", "catch_error", "on_wait", "on_resume"]
IS_LOGGED = ["on_success", "on_failure", "on_complete"]


def raising(moment: str) -> Callable[..., Any]:
    def hook(event: Event) -> None:
        raise KeyError(moment)

    def entering(event: Event) -> Iterator[None]:
        raise KeyError(moment)
        yield

    return entering if moment == "middleware" else hook


@pytest.mark.parametrize("moment", FAILS_THE_ATTEMPT)
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_an_error_in_a_hook_before_the_end_fails_the_attempt(engine: Engine, moment: str, kind: str) -> None:
    async def waits(payload: Any) -> None:
        await wait.for_(0.01)
        if moment == "catch_error":
            raise ValueError("the code's own")

    def waits_in_thread(payload: Any) -> None:
        wait.for_(0.01).result()
        if moment == "catch_error":
            raise ValueError("the code's own")

    broken = make_task(waits if kind == "loop" else waits_in_thread, "broken")
    getattr(broken, moment)(raising(moment))
    ended: list[str] = []
    broken.on_failure(lambda event: ended.append(repr(event.error)))
    async with living(engine, broken):
        run = await execute(engine, broken, {}, max_attempts=1)
    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error["name"], run.error["message"]) == ("KeyError", repr(moment))
    assert ended == [f"KeyError({moment!r})"]


@pytest.mark.parametrize("moment", IS_LOGGED)
async def test_an_error_in_a_hook_after_the_end_changes_nothing(
    engine: Engine, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make_task(note_run, "broken")
    getattr(broken, moment)(raising(moment))
    called: list[str] = []
    broken.on_complete(lambda event: called.append(f"ok {event.ok}"))
    failures = 9 if moment == "on_failure" else 0
    async with working(engine, broken):
        run = await execute(engine, broken, {"failures": failures}, max_attempts=1)
    assert run.status is (RunStatus.FAILED if failures else RunStatus.COMPLETED)
    assert called == [f"ok {not failures}"], "those that follow are called"
    assert "a hook failed" in caplog.text


async def test_a_middleware_that_fails_on_its_way_out_fails_what_had_succeeded(engine: Engine) -> None:
    leaving = make_task(note_run, "leaving")

    @leaving.middleware
    def fail_after(event: Event) -> Iterator[None]:
        yield
        raise KeyError("on the way out")

    async with working(engine, leaving):
        run = await execute(engine, leaving, {}, max_attempts=1)
    assert run.status is RunStatus.FAILED
    assert (run.error or {})["name"] == "KeyError"


async def test_a_middleware_can_not_swallow_an_error(engine: Engine) -> None:
    swallowing = make_task(note_run, "swallowing")

    @swallowing.middleware
    def swallow(event: Event) -> Iterator[None]:
        with suppress(ValueError):
            yield

    async with working(engine, swallowing):
        run = await execute(engine, swallowing, {"failures": 9}, max_attempts=1)
    assert (run.status, (run.error or {})["name"]) == (RunStatus.FAILED, "ValueError")


async def test_a_middleware_may_give_any_context_manager(engine: Engine) -> None:
    around = make_task(note_run_in_thread, "around")
    around.middleware(nullcontext)
    async with working(engine, around):
        assert read_output(await execute(engine, around, {})) == "done"


async def test_a_middleware_that_is_none_says_what_it_has_to_be(engine: Engine) -> None:
    around = make_task(note_run, "around")

    @around.middleware
    async def wrong(event: Event) -> int:
        return 3

    async with working(engine, around):
        run = await execute(engine, around, {}, max_attempts=1)
    assert "it has to yield once" in str((run.error or {})["message"])


async def test_durable_points_work_in_middleware_and_are_refused_where_a_replay_does_not_come(engine: Engine) -> None:
    calls: list[str] = []
    durable = make_task(note_run, "durable")

    @durable.middleware
    async def lock(event: Event) -> Any:
        calls.append(f"got {await step('lock', lambda: len(calls))}")
        await wait.for_(0.5)
        yield

    @durable.on_start
    async def start(event: Event) -> None:
        with pytest.raises(NotInRunError, match="this hook: a replay does not call it again"):
            await wait.for_(1)
        calls.append("refused")

    async with living(engine, durable, wait_linger=0.0):
        run = await execute(engine, durable, {})
    assert (run.status, run.resumes) == (RunStatus.COMPLETED, 1)
    assert calls == ["got 0", "got 0"], "a run that goes on was started before"


async def test_a_durable_point_in_the_middleware_of_a_thread_is_met_again(engine: Engine) -> None:
    """Its async middleware has a loop of its own."""
    calls: list[str] = []

    def waits(payload: Any) -> str:
        wait.for_(0.4).result()
        return "done"

    durable = make_task(waits, "durable")

    @durable.middleware
    async def lock(event: Event) -> Any:
        calls.append(f"got {await step('lock', lambda: len(calls))}")
        yield

    async with living(engine, durable, wait_linger=0.0):
        run = await execute(engine, durable, {})
    assert (run.status, run.resumes, calls) == (RunStatus.COMPLETED, 1, ["got 0", "got 0"])


DECISIONS: dict[str, tuple[Callable[[], Any], int, str]] = {
    "nothing": (lambda: None, 3, "ValueError"),
    "skip": (lambda: Decision(skip_retrying=True), 1, "ValueError"),
    "after": (lambda: Decision(retry_after=0.02), 3, "ValueError"),
    "at": (lambda: Decision(retry_at=datetime.now(UTC) + timedelta(seconds=0.02)), 3, "ValueError"),
    "policy": (lambda: Decision(retry=Retry(max_attempts=2, min_delay=0.01)), 2, "ValueError"),
    "other error": (lambda: Decision(error=LookupError("other")), 3, "LookupError"),
    "other error, skip": (lambda: Decision(error=LookupError("other"), skip_retrying=True), 1, "LookupError"),
    "final error": (lambda: Decision(error=Abort("enough")), 1, "Abort"),
    "nonsense": (lambda: 7, 3, "TypeError"),
}


@pytest.mark.parametrize("name", DECISIONS)
async def test_catch_error_changes_what_follows(engine: Engine, name: str) -> None:
    decide, attempts, error = DECISIONS[name]
    caught = make_task(note_run, "caught")
    caught.catch_error(lambda event: decide())
    async with working(engine, caught):
        run = await execute(engine, caught, {"failures": 9})
    assert (run.status, run.attempt, (run.error or {})["name"]) == (RunStatus.FAILED, attempts, error)


RAISES: dict[str, tuple[Callable[[], BaseException], int]] = {
    "Abort": (lambda: Abort("enough"), 1),
    "RetryAfter": (lambda: RetryAfter(0.02), 3),
}


@pytest.mark.parametrize("name", RAISES)
async def test_catch_error_may_raise_what_a_task_may(engine: Engine, name: str) -> None:
    make, attempts = RAISES[name]
    caught = make_task(note_run_in_thread, "caught")

    @caught.catch_error
    def decide(event: Event) -> None:
        assert event.error is not None
        raise make() from event.error

    async with working(engine, caught):
        run = await execute(engine, caught, {"failures": 9})
    assert (run.attempt, (run.error or {})["name"]) == (attempts, name)


async def test_catch_error_of_the_task_goes_before_that_of_all(engine: Engine) -> None:
    seen: list[str] = []
    caught = make_task(note_run, "caught")
    caught.catch_error(lambda event: Decision(error=LookupError("the task's")))
    with hooks.isolated():
        hooks.catch_error(lambda event: seen.append(f"{event.error} {event.retry_in}"))
        async with working(engine, caught):
            await execute(engine, caught, {"failures": 9}, max_attempts=2)
    assert seen == ["the task's 0.01", "the task's None"]


async def test_an_output_that_can_not_be_written_is_a_failure_for_the_hooks(engine: Engine) -> None:
    async def give_object(payload: Any) -> Any:
        return object()

    odd = make_task(give_object, "odd")
    called: list[str] = []
    odd.on_success(lambda: called.append("success"))
    odd.on_failure(lambda event: called.append(type(event.error).__name__))
    async with working(engine, odd):
        run = await execute(engine, odd, {})
    assert ((run.error or {})["code"], called) == ("TASK_OUTPUT_ERROR", ["TypeError"])


async def test_what_init_gives_is_there_for_the_code_and_the_tasks_own_goes_before(engine: Engine) -> None:
    async def use(payload: Any) -> Any:
        run = current_run()
        return run.init if run else None

    using = make_task(use, "using")
    with hooks.isolated():
        hooks.init(lambda: "of all")
        async with working(engine, using):
            assert read_output(await execute(engine, using, {})) == "of all"
            using.init(lambda: "its own")
            assert read_output(await execute(engine, using, {})) == "its own"


async def test_a_hook_can_ask_for_its_run(engine: Engine) -> None:
    asked: list[bool] = []
    asking = make_task(note_run_in_thread, "asking")
    asking.on_start(lambda event: asked.append(current_run() is event.run))
    async with working(engine, asking):
        await execute(engine, asking, {})
    assert asked == [True]


async def test_a_payload_that_the_task_does_not_take_calls_no_hook(engine: Engine) -> None:
    async def count(payload: int) -> int:
        return payload

    counting = make_task(count, "counting")
    called: list[str] = []
    for moment in ("init", "on_start", "on_failure", "on_complete", "catch_error"):
        getattr(counting, moment)(lambda: called.append("called"))
    async with working(engine, counting):
        run = await execute(engine, counting, "three")
    assert ((run.error or {})["code"], called) == ("TASK_INPUT_ERROR", [])


async def test_a_run_knows_where_it_stands(engine: Engine) -> None:
    async def tell(payload: Any) -> Any:
        run = current_run()
        assert run is not None
        return {
            "parent": run.parent_run_id, "root": run.root_run_id, "depth": run.depth, "version": run.version,
            "id": run.run_id, "cancelled": run.cancelled, "failures": run.failures,
        }  # fmt: skip

    telling = make_task(tell, "telling")

    async def parent(payload: Any) -> Any:
        run = current_run()
        assert run is not None
        return [run.run_id, (await telling.trigger_and_wait({})).unwrap()]

    top = make_task(parent, "top")
    async with living(engine, telling, top, version="v7"):
        run_id, said = read_output(await execute(engine, top, {}))
    assert said == {
        "parent": run_id, "root": run_id, "depth": 1, "version": "v7", "id": said["id"], "cancelled": False, "failures": 0,
    }  # fmt: skip


async def test_attempts_of_a_run_with_hooks_are_recorded_as_ever(engine: Engine, log: Path) -> None:
    async with working(engine, plain):
        run = await await_end(engine, await trigger(engine, plain, {"log": str(log), "failures": 1}))
        attempts = await runs.list_attempts(engine, 1, run.id)
    assert [attempt.status for attempt in attempts] == [RunStatus.FAILED, RunStatus.COMPLETED]


@pytest.mark.parametrize(
    ("moment", "function", "said"),
    [
        ("on_start", 3, "goes on a function"),
        ("on_start", lambda one, two: None, "takes one hooks.Event"),
        ("on_start", lambda *, key: None, "takes one hooks.Event"),
        ("on_success", lambda event: (yield), "which only a middleware has"),
    ],
)
def test_what_can_not_be_a_hook_is_refused_where_it_stands(moment: str, function: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        getattr(make_task(note_run, "x"), moment)(function)


def test_a_module_that_is_loaded_again_registers_its_hooks_once() -> None:
    with hooks.isolated() as registered:
        known = importlib.import_module("tests.worker.global_hooks")
        importlib.reload(known)
        importlib.reload(known)
        assert len(registered.at("on_start")) == 1


def test_a_decision_says_one_thing() -> None:
    with pytest.raises(ConfigurationError, match="one of skip_retrying"):
        Decision(skip_retrying=True, retry_after=1)
    with pytest.raises(ConfigurationError, match="retry_after"):
        Decision(retry_after="soon")


def test_a_decorated_hook_stays_the_function() -> None:
    @task(id="h.decorated")
    async def decorated() -> None: ...

    @decorated.on_start
    def start() -> str:
        return "as before"

    assert start() == "as before"


def test_the_page_of_hooks_has_every_hook_and_what_an_error_in_it_does() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "hooks.md"
    rows = [line.split("|") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    said = {row[1].strip(" `"): row[-2].strip() for row in rows}
    assert tuple(sorted(said)) == tuple(sorted(hooks.MOMENTS))
    logged = [*IS_LOGGED, "on_cancel"]
    assert sorted(name for name, error in said.items() if error == "is logged") == sorted(logged)
    assert sorted(name for name, error in said.items() if error != "is logged") == sorted(FAILS_THE_ATTEMPT)
