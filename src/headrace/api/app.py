"""The table of routes, and the application that they make."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from headrace.api import batches, health, items, limits, runs, tasks
from headrace.api.access import AccessLog
from headrace.api.authentication import require_authorization
from headrace.api.errors import AnsweredError, answer_error, answer_missing
from headrace.api.routing import Endpoint, build_routes
from headrace.engine.engine import Engine
from headrace.protocol.batches import (
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
from headrace.protocol.runs import RunDetail, RunList, RunResult, TriggerResponse, TriggerTask

ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/api/v3/batches",
        batches.create_batch,
        "Create a batch",
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
        request_type=CreateBatch,
        response_types={202: CreateBatchResponse, 200: CreateBatchResponse},
    ),
    Endpoint(
        "POST",
        "/api/v3/batches/{batch_id}/items",
        items.stream_items,
        "Stream the items of a batch, as NDJSON",
        precheck=items.refuse_content_type,
        response_types={200: StreamItemsResponse},
        wrong_method="Method not allowed. Use POST to stream batch items.",
    ),
    Endpoint(
        "POST",
        "/api/v3/batches/{batch_id}/seal",
        batches.seal_batch,
        "Name the final count of an open-ended batch",
        max_body=lambda _: limits.CREATE_BATCH_MAX_SIZE,
        request_type=SealBatch,
        response_types={200: StreamItemsResponse},
    ),
    Endpoint(
        "GET",
        "/api/v1/batches/{batch_id}",
        batches.retrieve_batch_v1,
        "Retrieve a batch, in the older shape",
        response_types={200: BatchV1},
    ),
    Endpoint(
        "GET",
        "/api/v2/batches/{batch_id}",
        batches.retrieve_batch_v2,
        "Retrieve a batch, at once or when it has ended",
        response_types={200: BatchV2},
    ),
    Endpoint(
        "GET",
        "/api/v1/batches/{batch_id}/results",
        batches.list_results,
        "List how the ended items of a batch ended",
        response_types={200: BatchResults},
    ),
    Endpoint(
        "POST",
        "/api/v1/tasks/{task_id}/trigger",
        tasks.trigger_task,
        "Trigger a run",
        max_body=lambda settings: settings.body_max_size,
        request_type=TriggerTask,
        response_types={200: TriggerResponse},
    ),
    Endpoint(
        "POST",
        "/api/v2/tasks/batch",
        tasks.submit_batch,
        "Submit a small batch in one request",
        max_body=lambda settings: settings.body_max_size,
        request_type=OneShotBatch,
        response_types={202: OneShotBatchResponse, 200: OneShotBatchResponse},
    ),
    Endpoint("GET", "/api/v1/runs", runs.list_runs, "List runs", response_types={200: RunList}),
    Endpoint("GET", "/api/v3/runs/{run_id}", runs.retrieve_run, "Retrieve a run", response_types={200: RunDetail}),
    Endpoint(
        "GET",
        "/api/v1/runs/{run_id}/result",
        runs.retrieve_result,
        "Retrieve how a run ended, at once or when it has",
        response_types={200: RunResult},
    ),
    Endpoint("GET", "/metrics", health.answer_metrics, "What this server counts, for Prometheus"),
)


def build_app(engine: Engine, stopping: asyncio.Event | None = None) -> Starlette:
    """The application over an open engine. Once ``stopping`` is set, long polls end and ``/readyz`` says no."""
    stop = stopping or asyncio.Event()
    return Starlette(
        routes=[*build_routes(engine, stop, ENDPOINTS), *health.build_health_routes(engine, stop)],
        middleware=[Middleware(AccessLog)],
        exception_handlers={404: _answer_unknown_path, 405: _answer_wrong_method},
    )


async def _answer_unknown_path(request: Request, _: Exception) -> Response:
    try:
        require_authorization(request)
    except AnsweredError as error:
        return error.response
    return answer_missing()


async def _answer_wrong_method(_request: Request, error: Exception) -> Response:
    return answer_error(405, "Method not allowed", getattr(error, "headers", None))
