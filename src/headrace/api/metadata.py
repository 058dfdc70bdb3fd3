"""What a run shows: its metadata, and tags that are added to it later."""

from __future__ import annotations

from uuid import UUID

from msgspec import UNSET
from starlette.responses import Response

from headrace import ids
from headrace.api import limits
from headrace.api.batches import REQUEST_ID_HEADER, answer_conflict
from headrace.api.bodies import read_body
from headrace.api.errors import answer_error, answer_json, answer_missing, forbid_unless
from headrace.api.routing import Call
from headrace.engine import metadata, tags
from headrace.engine.metadata import MetadataRefused, MetadataShown
from headrace.engine.outcomes import KeyConflict, RunMissing
from headrace.engine.tags import TagsAdded, TagsRefused
from headrace.protocol.metadata import MetadataResponse, UpdateMetadata
from headrace.protocol.runs import AddTags, AddTagsResponse


async def retrieve_metadata(call: Call) -> Response:
    """The run's metadata as it is now."""
    run_id = _read_run_id(call, "read")
    found = await metadata.find_metadata(call.engine, call.environment_id, run_id) if run_id else RunMissing()
    match found:
        case MetadataShown(shown):
            return answer_json(200, MetadataResponse(shown))
        case RunMissing():
            return answer_missing("Run not found")


async def update_metadata(call: Call) -> Response:
    """Operations on it and on that of the runs above, or all of it anew. What can't be done leaves all as it was."""
    request_id = limits.read_key_header(call.request, REQUEST_ID_HEADER)
    update = await read_body(call, UpdateMetadata)
    run_id = _read_run_id(call, "write")
    if update.metadata is not UNSET and update.operations:
        return answer_error(400, "metadata and operations were given: give one of them")
    answer = RunMissing()
    if run_id is not None:
        answer = await metadata.update_metadata(call.engine, call.environment_id, run_id, update, request_id)
    match answer:
        case MetadataShown(shown):
            return answer_json(200, MetadataResponse(shown))
        case MetadataRefused(message):
            return answer_error(422, message)
        case KeyConflict(message):
            return answer_conflict(message)
        case RunMissing():
            return answer_missing("Task Run not found")


async def add_tags(call: Call) -> Response:
    """Tags beside those that the run has: all of them, or none."""
    body = await read_body(call, AddTags)
    run_id = _read_run_id(call, "write")
    given = [body.tags] if isinstance(body.tags, str) else body.tags
    answer = await tags.add_tags(call.engine, call.environment_id, run_id, given) if run_id else RunMissing()
    match answer:
        case TagsAdded(_, []):
            return answer_json(200, AddTagsResponse("No new tags to add"))
        case TagsAdded(_, added):
            return answer_json(200, AddTagsResponse(f"Successfully set {len(added)} new tags."))
        case TagsRefused(message):
            return answer_error(422, message)
        case RunMissing():
            return answer_missing("Run not found")


def _read_run_id(call: Call, action: str) -> UUID | None:
    text = call.path_param("run_id")
    forbid_unless(call.caller.may(action, ("runs", text)))
    return ids.parse_run_id(text)
