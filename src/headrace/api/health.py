"""Whether this server lives, whether it can work, and what it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace import metrics
from headrace.api.errors import answer_exception, answer_json
from headrace.api.routing import Call
from headrace.engine.engine import Engine
from headrace.engine.measures import check_database, measure_queues


async def answer_metrics(call: Call) -> Response:
    """What this process counts, and what waits in the queues of the caller's environment, for Prometheus."""
    measured = await measure_queues(call.engine)
    metrics.set_stores(measured.stores)
    own = [one for one in measured.queues if one.environment == call.caller.environment.slug]
    metrics.set_queues((one.environment, one.queue, one.depth, one.oldest_seconds) for one in own)
    return Response(metrics.render_metrics(), headers={"content-type": metrics.CONTENT_TYPE})


def build_health_routes(engine: Engine) -> Sequence[Route]:
    """The routes that need no key: a load balancer and an orchestrator ask them."""

    async def answer_alive(_: Request) -> Response:
        return answer_json(200, {"status": "ok"})

    async def answer_ready(request: Request) -> Response:
        try:
            async with asyncio.timeout(2):
                await check_database(engine)
        except Exception as error:  # noqa: BLE001 - whatever it is, this server can't work
            return answer_exception(error, request.url.path)
        return answer_json(200, {"status": "ready"})

    return [Route("/healthz", answer_alive), Route("/readyz", answer_ready)]
