"""Rescheduling: another time for a run that is delayed."""

from __future__ import annotations

from starlette.responses import Response

from headrace import ids
from headrace.api.bodies import read_body
from headrace.api.errors import answer_error, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.api.runs import answer_run
from headrace.engine import reschedules
from headrace.engine.outcomes import RunMissing
from headrace.engine.reschedules import RunNotDelayed, RunRescheduled
from headrace.protocol.runs import RescheduleRun


async def reschedule_run(call: Call) -> Response:
    """Gives a delayed run another time, and answers it as it is then. One that is not delayed stays as it is: 400."""
    text = call.path_param("run_id")
    body = await read_body(call, RescheduleRun)
    forbid_unless(call.caller.may("write", ("runs", text)))
    run_id = ids.parse_run_id(text)
    try:
        outcome = (
            await reschedules.reschedule_run(call.engine, call.environment_id, run_id, body.delay)
            if run_id
            else RunMissing()
        )
    except ValueError as error:
        return answer_error(400, str(error))
    match outcome:
        case RunRescheduled(moved):
            return await answer_run(call, moved)
        case RunNotDelayed(_, status):
            return answer_error(400, f"Cannot reschedule a run that is not delayed: it is {status}")
        case RunMissing():
            return answer_missing("Run not found")
