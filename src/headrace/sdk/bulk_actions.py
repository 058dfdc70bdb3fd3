"""Bulk actions, from outside of a run: asked for, looked at, waited for, aborted. The calls of both clients over one body."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeVar, Unpack

from headrace.durations import Duration, parse_duration
from headrace.errors import ConfigurationError, ResultTimeoutError
from headrace.sdk.effects import Flow, Send, Sleep
from headrace.sdk.flows import make_headers, make_query, quote, retrieve
from headrace.sdk.retries import read_object, send_patiently
from headrace.sdk.run_filters import RunFilters, spell_filters

T = TypeVar("T")

_PATH = "/api/v1/bulk-actions"
_FIRST_LOOK = 0.1
_LONGEST_LOOK = 2.0


class BulkCalls:
    """What Client does with many runs at once."""

    def bulk_cancel(
        self: _Blocking,
        run_ids: Sequence[str] | None = None,
        /,
        *,
        name: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> str:
        """Cancels many runs in the background: up to 500 by their ids, or any number by what they have. Gives the action's id.

        What is meant is fixed now: the runs that are there. By a filter that names no status, those that have not ended.

        >>> with Client() as client:                            # doctest: +SKIP
        ...     action = client.bulk_cancel(tag="import-7", name="the wrong file")
        ...     client.await_bulk_action(action)["counts"]

        Raises ConfigurationError on what can't be, ApiError and ConnectionFailedError where the server does not take it.
        """
        return self.run_flow(create_bulk_action("cancel", run_ids, name, dict(filters)))

    def bulk_replay(
        self: _Blocking,
        run_ids: Sequence[str] | None = None,
        /,
        *,
        name: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> str:
        """Replays many runs in the background, each once, as replay_run does. Otherwise as bulk_cancel.

        >>> with Client() as client:                            # doctest: +SKIP
        ...     client.bulk_replay(status="FAILED", task="resize", period="24h")
        """
        return self.run_flow(create_bulk_action("replay", run_ids, name, dict(filters)))

    def retrieve_bulk_action(self: _Blocking, action_id: str) -> dict[str, Any]:
        """``GET /api/v1/bulk-actions/{id}``: status PENDING, COMPLETED or ABORTED, and counts. Raises ApiError 404."""
        return self.run_flow(retrieve(f"{_PATH}/{quote(action_id)}"))

    def await_bulk_action(self: _Blocking, action_id: str, timeout: Duration | None = None) -> dict[str, Any]:
        """The action once it is over. Raises ResultTimeoutError after ``timeout`` (a duration); it goes on then."""
        return self.run_flow(await_bulk_action(action_id, timeout))

    def abort_bulk_action(self: _Blocking, action_id: str) -> None:
        """Ends an action before its time: what it has done stays. Raises ApiError 400 where it is over, 404 where there is none."""
        self.run_flow(abort_bulk_action(action_id))

    def list_bulk_actions(
        self: _Blocking, *, limit: int = 25, after: str | None = None, before: str | None = None
    ) -> dict[str, Any]:
        """A page of actions, newest first: ``data``, and ``pagination`` with the cursors for ``after`` and ``before``."""
        return self.run_flow(list_bulk_actions(limit, after, before))


class AsyncBulkCalls:
    """What AsyncClient does with many runs at once."""

    async def bulk_cancel(
        self: _Awaiting,
        run_ids: Sequence[str] | None = None,
        /,
        *,
        name: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> str:
        """See Client.bulk_cancel."""
        return await self.run_flow(create_bulk_action("cancel", run_ids, name, dict(filters)))

    async def bulk_replay(
        self: _Awaiting,
        run_ids: Sequence[str] | None = None,
        /,
        *,
        name: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> str:
        """See Client.bulk_replay."""
        return await self.run_flow(create_bulk_action("replay", run_ids, name, dict(filters)))

    async def retrieve_bulk_action(self: _Awaiting, action_id: str) -> dict[str, Any]:
        """See Client.retrieve_bulk_action."""
        return await self.run_flow(retrieve(f"{_PATH}/{quote(action_id)}"))

    async def await_bulk_action(self: _Awaiting, action_id: str, timeout: Duration | None = None) -> dict[str, Any]:
        """See Client.await_bulk_action."""
        return await self.run_flow(await_bulk_action(action_id, timeout))

    async def abort_bulk_action(self: _Awaiting, action_id: str) -> None:
        """See Client.abort_bulk_action."""
        await self.run_flow(abort_bulk_action(action_id))

    async def list_bulk_actions(
        self: _Awaiting, *, limit: int = 25, after: str | None = None, before: str | None = None
    ) -> dict[str, Any]:
        """See Client.list_bulk_actions."""
        return await self.run_flow(list_bulk_actions(limit, after, before))


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def create_bulk_action(
    action: Literal["cancel", "replay"], run_ids: Sequence[str] | None, name: str | None, filters: dict[str, Any]
) -> Flow[str]:
    """Flow: the id of a new action."""
    if isinstance(run_ids, str):
        raise ConfigurationError(f"run_ids is one text, {run_ids!r}: give a list of ids.")
    body: dict[str, Any] = {"action": action}
    if name is not None:
        body["name"] = name
    if run_ids is not None:
        body["runIds"] = list(run_ids)
    if wire := spell_filters(filters):
        body["filter"] = wire
    if (run_ids is None) == (not wire):
        given = "neither was" if run_ids is None else "both were"
        raise ConfigurationError(
            f"bulk_{action}: give ids of runs or filters, not both and not nothing; {given} given."
        )
    answer = yield from send_patiently(Send("POST", _PATH, json=body, headers=make_headers()))
    return str(read_object(answer, "id")["id"])


def await_bulk_action(action_id: str, timeout: Duration | None) -> Flow[dict[str, Any]]:
    """Flow: an action that is over."""
    seconds = None if timeout is None else parse_duration(timeout)
    deadline = None if seconds is None else time.monotonic() + seconds
    pause = _FIRST_LOOK
    while True:
        action = yield from retrieve(f"{_PATH}/{quote(action_id)}")
        if action["status"] != "PENDING":
            return action
        if deadline is not None and time.monotonic() >= deadline:
            raise ResultTimeoutError(f"bulk action {action_id} was not over after {seconds:g} s; it goes on")
        yield Sleep(pause if deadline is None else max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 2, _LONGEST_LOOK)


def abort_bulk_action(action_id: str) -> Flow[None]:
    """Flow: ends an action. Asking twice does no harm."""
    request = Send("POST", f"{_PATH}/{quote(action_id)}/abort", json={}, headers=make_headers())
    read_object((yield from send_patiently(request)), "id")


def list_bulk_actions(limit: int, after: str | None, before: str | None) -> Flow[dict[str, Any]]:
    """Flow: a page of actions."""
    query = make_query({"page[size]": limit, "page[after]": after, "page[before]": before})
    return read_object((yield from send_patiently(Send("GET", _PATH + query))), "data", "pagination")
