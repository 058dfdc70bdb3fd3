"""Replay, from outside of a run. The call of both clients over one body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, Unpack, cast

import msgspec

from headrace.items import Options, encode_payload, make_options, read_options
from headrace.sdk.effects import Flow, Send
from headrace.sdk.flows import RawJson, make_headers, quote
from headrace.sdk.handles import AsyncRunHandle, RunHandle
from headrace.sdk.retries import read_object, send_patiently

if TYPE_CHECKING:
    from headrace.sdk.client import AsyncClient, Client

T = TypeVar("T")


class ReplayCalls:
    """What Client does to replay a run."""

    def replay_run(
        self: _Blocking, run_id: str, /, *, payload: Any = msgspec.UNSET, **options: Unpack[Options]
    ) -> RunHandle[Any]:
        """Makes a new run of what another one was asked to do, whatever became of that; gives a handle of the new one.

        It has the same payload, or ``payload`` where that is given (None too); the same queue, tags, first metadata,
        concurrency or order key, machine and test flag. ``options``, as for ``trigger``, go over these. What was said of when and how often
        the first one was tried is not copied, and its idempotency key is not.

        >>> with Client() as client:                            # doctest: +SKIP
        ...     client.replay_run("run_06f3...", tags=["again"]).result()

        Raises PayloadError and ConfigurationError on what can't be, ApiError 404 where there is no such run.
        """
        return RunHandle(cast("Client", self), self.run_flow(replay_run(run_id, payload, dict(options))), "")


class AsyncReplayCalls:
    """What AsyncClient does to replay a run."""

    async def replay_run(
        self: _Awaiting, run_id: str, /, *, payload: Any = msgspec.UNSET, **options: Unpack[Options]
    ) -> AsyncRunHandle[Any]:
        """See Client.replay_run."""
        return AsyncRunHandle(
            cast("AsyncClient", self), await self.run_flow(replay_run(run_id, payload, dict(options))), ""
        )


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def replay_run(run_id: str, payload: Any, options: dict[str, Any]) -> Flow[str]:
    """Flow: the id of the new run."""
    wire = make_options("", options)
    read_options(wire)
    body: dict[str, Any] = {"options": wire} if wire else {}
    if payload is not msgspec.UNSET:
        body["payload"] = RawJson(encode_payload("", payload) or b"null")
    request = Send("POST", f"/api/v1/runs/{quote(run_id)}/replay", json=body, headers=make_headers())
    return str(read_object((yield from send_patiently(request)), "id")["id"])
