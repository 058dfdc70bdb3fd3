"""An object store that takes 50 ms a put: the S3 calls that an upload makes, on loopback. Holds nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PUT_SECONDS: Final = 0.05


async def _answer(request: Request) -> Response:
    async for _ in request.stream():
        pass
    if request.method == "PUT":
        await asyncio.sleep(PUT_SECONDS)
        return Response(headers={"etag": '"0"'})
    return Response(status_code=204 if request.method == "DELETE" else 404)


@contextmanager
def running_slow_store() -> Generator[dict[str, str]]:
    """The environment variables that make a server keep its large payloads there."""
    app = Starlette(routes=[Route("/{path:path}", _answer, methods=["PUT", "GET", "HEAD", "DELETE"])])
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield {
            "HEADRACE_PAYLOAD_STORE": "s3://bench",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.should_exit = True
        thread.join()
