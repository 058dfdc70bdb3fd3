"""What the TypeScript SDK triggers."""

from __future__ import annotations

from headrace import Abort, task


@task
async def echo(payload: object) -> object:
    return payload


@task
async def fail(payload: object) -> None:
    raise Abort("made to fail")
