"""Runs: retrieved, listed, and their results awaited."""

from __future__ import annotations

from uuid import UUID

from msgspec import UNSET
from starlette.responses import Response

from headrace import ids
from headrace.api import filters, polling, run_filters, views
from headrace.api.errors import AnsweredError, answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.engine import cancels, listings, runs
from headrace.engine.outcomes import RunCanceled, RunEnded, RunMissing, RunView
from headrace.protocol.runs import CancelResponse, Pagination, RunList
from headrace.protocol.statuses import TERMINAL_RUN_STATUSES


async def retrieve_run(call: Call) -> Response:
    """A run with its payload, output, error and ended attempts."""
    return await _answer_run(call, await _find_readable(call))


async def answer_run(call: Call, run_id: UUID) -> Response:
    """A run as it is retrieved, by whoever may have just changed it."""
    run = await runs.find_run(call.engine, call.environment_id, run_id)
    return await _answer_run(call, run) if run else answer_missing()


async def retrieve_result(call: Call) -> Response:
    """How a run ended. Not ended yet: 404, as published servers answer; with ``?wait=`` 202, once that time is over."""
    waits = "wait" in call.request.query_params
    run = await _find_readable(call, seconds=polling.read_wait(call))
    if run.status in TERMINAL_RUN_STATUSES:
        return answer_json(200, await views.view_result(call, run))
    if waits:
        return answer_json(202, {"id": run.spelt, "status": run.status})
    return answer_error(404, "Run either doesn't exist or is not finished", {"x-should-retry": "false"})


async def cancel_run(call: Call) -> Response:
    """Cancels a run, and what it waits for. One that has ended stays as it is, and is answered alike."""
    text = call.path_param("run_id")
    run_id = ids.parse_run_id(text)
    forbid_unless(call.caller.may("write", ("runs", text)))
    outcome = await cancels.cancel_run(call.engine, call.environment_id, run_id) if run_id else RunMissing()
    match outcome:
        case RunCanceled() | RunEnded():
            return answer_json(200, CancelResponse(id=text))
        case RunMissing():
            return answer_error(404, "Run not found", {"x-should-retry": "false"})


async def list_runs(call: Call) -> Response:
    """A page of runs, newest first: ``filter[...]`` chooses, ``page[...]`` leafs."""
    wanted = run_filters.read_run_filter(call)
    size, after, before = filters.read_page(call, ids.parse_run_id, "a run id")
    batch = ids.format_batch_id(wanted.batch_id) if wanted.batch_id else None
    forbid_unless(call.caller.may("read", ("runs", None), *([("batch", batch)] if batch else [])))
    page = await listings.list_runs(call.engine, call.environment_id, wanted, after=after, before=before, limit=size)
    answer = RunList(
        data=await views.view_runs(call, page.runs),
        pagination=Pagination(
            next=ids.format_run_id(page.older) if page.older else UNSET,
            previous=ids.format_run_id(page.newer) if page.newer else UNSET,
        ),
        warnings=filters.warn_missing(page.missing, "runs"),
    )
    return answer_json(200, answer)


async def _answer_run(call: Call, run: RunView) -> Response:
    attempts = await runs.list_attempts(call.engine, call.environment_id, run.id)
    return answer_json(200, await views.view_run_detail(call, run, attempts))


async def _find_readable(call: Call, *, seconds: float = 0) -> RunView:
    text = call.path_param("run_id")
    run_id = ids.parse_run_id(text)
    run = None
    if run_id is not None:
        if seconds:
            waiting = runs.await_run(call.engine, call.environment_id, run_id, seconds)
            run = await polling.await_change(call, waiting)
        run = run or await runs.find_run(call.engine, call.environment_id, run_id)
    forbid_unless(call.caller.may("read", *_resources(text, run)))
    if run is None:
        raise AnsweredError(answer_missing())
    return run


def _resources(run_id: str, run: RunView | None) -> list[tuple[str, str | None]]:
    """What a token may name to be shown a run: the run, its task, its batch or one of its tags."""
    resources: list[tuple[str, str | None]] = [("runs", run_id)]
    if run is not None:
        resources.append(("tasks", run.task))
        resources += [("tags", tag) for tag in run.tags]
        if run.batch_id is not None:
            resources.append(("batch", ids.format_batch_id(run.batch_id)))
    return resources
