"""The table of routes, and the application that they make."""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.metadata import version
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from headrace.api import (
    batches,
    bulk_actions,
    deployments,
    filters,
    health,
    idempotency_keys,
    items,
    limits,
    metadata,
    queues,
    replays,
    reschedules,
    run_filters,
    runs,
    schedules,
    tasks,
    waitpoints,
)
from headrace.api.access import AccessLog
from headrace.api.authentication import require_authorization
from headrace.api.errors import AnsweredError, answer_error, answer_missing
from headrace.api.routing import Call, Endpoint, build_routes
from headrace.engine.engine import Engine
from headrace.protocol import bulk_actions as bulk
from headrace.protocol.batches import (
    BatchItem,
    BatchResults,
    BatchV1,
    BatchV2,
    CreateBatch,
    CreateBatchResponse,
    OneShotBatch,
    OneShotBatchResponse,
    SealBatch,
    StreamItemsResponse,
)
from headrace.protocol.deployments import Deployment, DeploymentList, PromotedDeployment
from headrace.protocol.metadata import MetadataResponse, UpdateMetadata
from headrace.protocol.openapi import NDJSON_MEDIA, Operation, Parameter, build_document
from headrace.protocol.queues import (
    DeclareQueue,
    EnvironmentState,
    LimitEnvironment,
    NamedQueue,
    OverrideQueue,
    PauseEnvironment,
    PauseQueue,
    QueueItem,
    QueueList,
)
from headrace.protocol.runs import (
    AddTags,
    AddTagsResponse,
    CancelResponse,
    ReplayRun,
    RescheduleRun,
    ResetKey,
    ResetKeyResponse,
    RunDetail,
    RunList,
    RunResult,
    TriggerResponse,
    TriggerTask,
)
from headrace.protocol.schedules import (
    CreateSchedule,
    DeletedSchedule,
    Schedule,
    ScheduleDetail,
    ScheduleList,
    Timezones,
    UpdateSchedule,
)
from headrace.protocol.tokens import (
    CompleteToken,
    CreateToken,
    CreateTokenResponse,
    TokenDetail,
    TokenDone,
    TokenList,
    TokenStatus,
)

_WAIT: Final = Parameter("wait", "query", "Seconds to wait for the end, at most 30; 0 answers at once", float)
_REQUEST_ID: Final = Parameter(
    batches.REQUEST_ID_HEADER, "header", "Names this request: sent again with the same one, it does nothing twice"
)
_KEY: Final = Parameter(tasks.KEY_HEADER, "header", "Idempotency key: while it holds, one run or batch stands for it")
_KEY_TTL: Final = Parameter(tasks.KEY_TTL_HEADER, "header", "How long the key holds, such as 1h30m (default 30d)")
_TRACE: Final = Parameter("traceparent", "header", "W3C Trace Context that the runs belong to")

_TOKEN_FILTERS: Final = (
    Parameter("filter[status]", "query", f"Of {', '.join(TokenStatus)}, with commas between"),
    Parameter("filter[tags]", "query", "Tags, with commas between: any of them"),
    Parameter("filter[id]", "query", "A token's id"),
    Parameter("filter[idempotencyKey]", "query", "An idempotency key"),
    *filters.CREATED,
    Parameter("page[after]", "query", "Tokens older than this one"),
    Parameter("page[before]", "query", "Tokens newer than this one"),
)


_SCHEDULE_PAGES: Final = (
    Parameter("filter[task]", "query", "A task id"),
    Parameter("page", "query", "Which page, from 1", int),
    Parameter("perPage", "query", f"Schedules a page: 1 to {filters.MAX_PAGE}, default {filters.DEFAULT_PAGE}", int),
)

_QUEUE_PAGES: Final = (
    Parameter("page", "query", "Which page, from 1", int),
    Parameter("perPage", "query", f"Queues a page: 1 to {filters.MAX_PAGE}, default {filters.DEFAULT_PAGE}", int),
)


async def answer_openapi(_: Call) -> Response:
    """The OpenAPI document of these routes."""
    return Response(_encode_document(), media_type="application/json")


ENDPOINTS: Final = (
    Endpoint(
        Operation(
            "POST",
            "/api/v3/batches",
            "Create a batch (phase 1)",
            request=CreateBatch,
            responses={202: CreateBatchResponse, 200: CreateBatchResponse},
            parameters=(_REQUEST_ID, _TRACE),
        ),
        batches.create_batch,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v3/batches/{batch_id}/items",
            "Stream the items of a batch (phase 2)",
            request=BatchItem,
            request_media=NDJSON_MEDIA,
            responses={200: StreamItemsResponse},
            parameters=(
                Parameter(items.PARTIAL_HEADER, "header", "1: a segment of several; nothing is sealed after it"),
                Parameter(items.RUN_COUNT_HEADER, "header", "The final count of an open-ended batch", int),
            ),
        ),
        items.stream_items,
        precheck=items.refuse_content_type,
        wrong_method="Method not allowed. Use POST to stream batch items.",
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v3/batches/{batch_id}/seal",
            "Name the final count of an open-ended batch, and seal it",
            request=SealBatch,
            responses={200: StreamItemsResponse},
        ),
        batches.seal_batch,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "GET", "/api/v1/batches/{batch_id}", "Retrieve a batch, in the older shape", responses={200: BatchV1}
        ),
        batches.retrieve_batch_v1,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v2/batches/{batch_id}",
            "Retrieve a batch, at once or when it has ended",
            responses={200: BatchV2},
            parameters=(_WAIT,),
        ),
        batches.retrieve_batch_v2,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/batches/{batch_id}/results",
            "List how the ended items of a batch ended",
            responses={200: BatchResults},
            parameters=(
                Parameter("after", "query", "Only items with an index above this one", int),
                Parameter("limit", "query", f"At most so many items, up to {batches.MAX_PAGE}; default: all", int),
            ),
        ),
        batches.list_results,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/tasks/{task_id}/trigger",
            "Trigger a run",
            request=TriggerTask,
            responses={200: TriggerResponse},
            parameters=(_REQUEST_ID, _KEY, _KEY_TTL, _TRACE),
        ),
        tasks.trigger_task,
        max_body=lambda settings: settings.body_max_size,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v2/tasks/batch",
            "Submit a small batch in one request",
            request=OneShotBatch,
            responses={202: OneShotBatchResponse, 200: OneShotBatchResponse},
            parameters=(_REQUEST_ID, _KEY, _KEY_TTL, _TRACE),
        ),
        tasks.submit_batch,
        max_body=lambda settings: settings.body_max_size,
    ),
    Endpoint(
        Operation("GET", "/api/v1/runs", "List runs", responses={200: RunList}, parameters=run_filters.PARAMETERS),
        runs.list_runs,
    ),
    Endpoint(
        Operation("GET", "/api/v3/runs/{run_id}", "Retrieve a run", responses={200: RunDetail}), runs.retrieve_run
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/runs/{run_id}/result",
            "Retrieve how a run ended, at once or when it has",
            responses={200: RunResult, 202: None},
            parameters=(_WAIT,),
        ),
        runs.retrieve_result,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/waitpoints/tokens",
            "Create a token that a run can wait for",
            request=CreateToken,
            responses={200: CreateTokenResponse},
            parameters=(_REQUEST_ID,),
        ),
        waitpoints.create_token,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/waitpoints/tokens",
            "List tokens",
            responses={200: TokenList},
            parameters=_TOKEN_FILTERS,
        ),
        waitpoints.list_tokens,
    ),
    Endpoint(
        Operation("GET", "/api/v1/waitpoints/tokens/{token_id}", "Retrieve a token", responses={200: TokenDetail}),
        waitpoints.retrieve_token,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/waitpoints/tokens/{token_id}/complete",
            "Complete a token",
            request=CompleteToken,
            responses={200: TokenDone},
        ),
        waitpoints.complete_token,
        max_body=lambda settings: settings.body_max_size,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/waitpoints/tokens/{token_id}/callback/{hash}",
            "Complete a token by its callback URL: the body, JSON or other text, is the output",
            responses={200: TokenDone},
            needs_key=False,
        ),
        waitpoints.receive_callback,
        identify=waitpoints.identify_callback,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v2/runs/{run_id}/cancel",
            "Cancel a run, and what it waits for",
            responses={200: CancelResponse},
        ),
        runs.cancel_run,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/runs/{run_id}/replay",
            "Make a new run of what a run was asked to do; a body is optional",
            request=ReplayRun,
            responses={200: TriggerResponse},
            parameters=(_REQUEST_ID, _TRACE),
        ),
        replays.replay_run,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/bulk-actions",
            "Cancel or replay many runs in the background",
            request=bulk.CreateBulkAction,
            responses={202: bulk.BulkActionId},
            parameters=(_REQUEST_ID,),
        ),
        bulk_actions.create_bulk_action,
        max_body=lambda _: bulk_actions.MAX_BODY,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/bulk-actions",
            "List bulk actions",
            responses={200: bulk.BulkActionList},
            parameters=bulk_actions.PAGES,
        ),
        bulk_actions.list_bulk_actions,
    ),
    Endpoint(
        Operation(
            "GET", "/api/v1/bulk-actions/{action_id}", "Retrieve a bulk action", responses={200: bulk.BulkAction}
        ),
        bulk_actions.retrieve_bulk_action,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/bulk-actions/{action_id}/abort",
            "End a bulk action before its time; what it has done stays",
            responses={200: bulk.BulkActionId},
        ),
        bulk_actions.abort_bulk_action,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/runs/{run_id}/reschedule",
            "Give a run that is delayed another time",
            request=RescheduleRun,
            responses={200: RunDetail},
        ),
        reschedules.reschedule_run,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/idempotencyKeys/{key:path}/reset",
            "Free an idempotency key of a task: the next trigger with it makes a new run",
            request=ResetKey,
            responses={200: ResetKeyResponse},
        ),
        idempotency_keys.reset_key,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/schedules",
            "Create a schedule, or change the one of its deduplication key",
            request=CreateSchedule,
            responses={200: Schedule},
        ),
        schedules.create_schedule,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "GET", "/api/v1/schedules", "List schedules", responses={200: ScheduleList}, parameters=_SCHEDULE_PAGES
        ),
        schedules.list_schedules,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/schedules/{schedule_id}",
            "Retrieve a schedule and its next runs",
            responses={200: ScheduleDetail},
        ),
        schedules.retrieve_schedule,
    ),
    Endpoint(
        Operation(
            "PUT",
            "/api/v1/schedules/{schedule_id}",
            "Change a schedule that was made over the API",
            request=UpdateSchedule,
            responses={200: Schedule},
        ),
        schedules.update_schedule,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "DELETE",
            "/api/v1/schedules/{schedule_id}",
            "Delete a schedule that was made over the API",
            responses={200: DeletedSchedule},
        ),
        schedules.delete_schedule,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/schedules/{schedule_id}/activate",
            "Switch a schedule on",
            responses={200: Schedule},
        ),
        schedules.activate_schedule,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/schedules/{schedule_id}/deactivate",
            "Switch a schedule off",
            responses={200: Schedule},
        ),
        schedules.deactivate_schedule,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/timezones",
            "List the time zones that a schedule can be in",
            responses={200: Timezones},
            parameters=(Parameter("excludeUtc", "query", "true: without UTC", bool),),
            needs_key=False,
        ),
        schedules.answer_timezones,
        identify=schedules.identify_anybody,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/runs/{run_id}/metadata",
            "Retrieve what a run shows of itself",
            responses={200: MetadataResponse},
        ),
        metadata.retrieve_metadata,
    ),
    Endpoint(
        Operation(
            "PUT",
            "/api/v1/runs/{run_id}/metadata",
            "Change the metadata of a run, and of the runs above it",
            request=UpdateMetadata,
            responses={200: MetadataResponse},
            parameters=(_REQUEST_ID,),
        ),
        metadata.update_metadata,
        max_body=lambda settings: settings.body_max_size,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/runs/{run_id}/tags",
            "Add tags to a run",
            request=AddTags,
            responses={200: AddTagsResponse},
        ),
        metadata.add_tags,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/deployments",
            "List the versions that workers brought",
            responses={200: DeploymentList},
            parameters=(
                Parameter("status", "query", "All are DEPLOYED"),
                Parameter("page[after]", "query", "Those that came before this deployment"),
                Parameter("page[size]", "query", f"1 to {filters.MAX_PAGE}, default {deployments.DEFAULT_PAGE}", int),
            ),
        ),
        deployments.list_deployments,
    ),
    Endpoint(
        Operation(
            "GET", "/api/v1/deployments/current", "Retrieve the version promoted last", responses={200: Deployment}
        ),
        deployments.retrieve_current,
    ),
    Endpoint(
        Operation(
            "GET", "/api/v1/deployments/latest", "Retrieve the version that came last", responses={200: Deployment}
        ),
        deployments.retrieve_latest,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/deployments/{deployment_id}",
            "Retrieve a version, by the id of its deployment or its name",
            responses={200: Deployment},
        ),
        deployments.retrieve_deployment,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/deployments/{version}/promote",
            "Let a version, newer or older, take the new runs of its tasks",
            responses={200: PromotedDeployment},
        ),
        deployments.promote_deployment,
    ),
    Endpoint(
        Operation("GET", "/api/v1/queues", "List queues", responses={200: QueueList}, parameters=_QUEUE_PAGES),
        queues.list_queues,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/queues/{queue}",
            "Retrieve a queue",
            responses={200: QueueItem},
            parameters=(Parameter("type", "query", "What the path names it by: id (default), task or custom"),),
        ),
        queues.retrieve_queue,
    ),
    Endpoint(
        Operation(
            "PUT",
            "/api/v1/queues/{queue}",
            "Say what a queue may do at once",
            request=DeclareQueue,
            responses={200: QueueItem},
        ),
        queues.declare_queue,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/queues/{queue}/pause",
            "Pause a queue, or resume it",
            request=PauseQueue,
            responses={200: QueueItem},
        ),
        queues.pause_queue,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/queues/{queue}/concurrency/override",
            "Set a limit over the declared one",
            request=OverrideQueue,
            responses={200: QueueItem},
        ),
        queues.override_queue,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/queues/{queue}/concurrency/reset",
            "Let the declared limit hold again",
            request=NamedQueue,
            responses={200: QueueItem},
        ),
        queues.reset_queue,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "GET",
            "/api/v1/environment",
            "What the environment of the key may do at once, and does",
            responses={200: EnvironmentState},
        ),
        queues.retrieve_environment,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/environment/pause",
            "Pause the environment, or resume it",
            request=PauseEnvironment,
            responses={200: EnvironmentState},
        ),
        queues.pause_environment,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation(
            "POST",
            "/api/v1/environment/concurrency",
            "Set how many runs of the environment may execute at once",
            request=LimitEnvironment,
            responses={200: EnvironmentState},
        ),
        queues.limit_environment,
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
    ),
    Endpoint(
        Operation("GET", "/metrics", "What this server counts, for Prometheus", responses={200: None}),
        health.answer_metrics,
    ),
    Endpoint(Operation("GET", "/openapi.json", "This document", responses={200: None}), answer_openapi),
)

HEALTH: Final = (
    Operation("GET", "/healthz", "Whether this server lives", responses={200: None}, needs_key=False),
    Operation("GET", "/readyz", "Whether this server can work", responses={200: None, 503: None}, needs_key=False),
)


def build_app(engine: Engine, stopping: asyncio.Event | None = None) -> Starlette:
    """The application over an open engine. Once ``stopping`` is set, long polls end."""
    stop = stopping or asyncio.Event()
    return Starlette(
        routes=[*build_routes(engine, stop, ENDPOINTS), *health.build_health_routes(engine)],
        middleware=[Middleware(AccessLog)],
        exception_handlers={404: _answer_unknown_path, 405: _answer_wrong_method},
    )


@cache
def _encode_document() -> bytes:
    operations = [*(endpoint.operation for endpoint in ENDPOINTS), *HEALTH]
    return msgspec.json.encode(build_document(operations, title="headrace", version=version("headrace")))


async def _answer_unknown_path(request: Request, _: Exception) -> Response:
    try:
        require_authorization(request)
    except AnsweredError as error:
        return error.response
    return answer_missing()


async def _answer_wrong_method(_request: Request, error: Exception) -> Response:
    return answer_error(405, "Method not allowed", getattr(error, "headers", None))
