"""Schedules, from outside of a run: made, changed, switched on and off, looked at. The calls of both clients over one body."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, Unpack

from headrace.crons import CatchUp, read_catch_up, read_cron
from headrace.errors import ConfigurationError
from headrace.items import AnyTask, Options, make_options, read_options, task_id
from headrace.sdk.effects import Flow, Send
from headrace.sdk.flows import make_headers, make_query, quote, retrieve
from headrace.sdk.retries import read_object, send_patiently

T = TypeVar("T")

_PATH = "/api/v1/schedules"


class ScheduleCalls:
    """What Client does with schedules."""

    def create_schedule(
        self: _Blocking,
        task: AnyTask,
        cron: str,
        *,
        deduplication_key: str,
        timezone: str | None = None,
        external_id: str | None = None,
        catch_up: CatchUp | None = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """Makes a schedule: from now on there is a run of ``task`` at each tick of ``cron``. Gives it as the server shows it.

        A second call with the same ``deduplication_key`` changes the schedule of the first. ``timezone`` is an IANA name
        (default UTC). ``external_id`` comes back in the payload of each run. ``catch_up`` says what becomes of ticks that
        were missed: "skip" (default), "one" or "all". ``options`` are those of the runs, as for ``trigger``.

        >>> with Client() as client:                            # doctest: +SKIP
        ...     client.create_schedule(report, "0 7 * * MON-FRI", deduplication_key="report-7", timezone="Europe/Berlin")

        Raises ConfigurationError on what can't be, ApiError and ConnectionFailedError where the server does not take it.
        """
        return self.run_flow(
            create_schedule(task, cron, deduplication_key, timezone, external_id, catch_up, dict(options))
        )

    def update_schedule(
        self: _Blocking,
        schedule_id: str,
        *,
        task: AnyTask | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        external_id: str | None = None,
        catch_up: CatchUp | None = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """Changes a schedule. What is not given stays as it is; options, where one is given, replace those that were there.

        Raises ApiError 404 where there is none, 409 where it is declared in the code of its task.
        """
        return self.run_flow(update_schedule(schedule_id, task, cron, timezone, external_id, catch_up, dict(options)))

    def activate_schedule(self: _Blocking, schedule_id: str) -> dict[str, Any]:
        """Switches a schedule on: its next run is at the next tick from now."""
        return self.run_flow(set_active(schedule_id, "activate"))

    def deactivate_schedule(self: _Blocking, schedule_id: str) -> dict[str, Any]:
        """Switches a schedule off: it makes no runs, until it is switched on."""
        return self.run_flow(set_active(schedule_id, "deactivate"))

    def delete_schedule(self: _Blocking, schedule_id: str) -> None:
        """Deletes a schedule; the runs that it made stay. Raises ApiError 404, and 409 where its task's code declares it."""
        self.run_flow(delete_schedule(schedule_id))

    def retrieve_schedule(self: _Blocking, schedule_id: str) -> dict[str, Any]:
        """``GET /api/v1/schedules/{id}``: ``nextRun`` and ``upcoming`` say when it ticks. Raises ApiError 404."""
        return self.run_flow(retrieve_schedule(schedule_id))

    def list_schedules(
        self: _Blocking, *, page: int = 1, per_page: int = 25, task: AnyTask | None = None
    ) -> dict[str, Any]:
        """A page of schedules, newest first: ``data``, and ``pagination`` with the number of pages. ``per_page`` is 1 to 100."""
        return self.run_flow(list_schedules(page, per_page, task))

    def list_timezones(self: _Blocking) -> list[str]:
        """The names that a schedule's time zone can have."""
        return self.run_flow(list_timezones())


class AsyncScheduleCalls:
    """What AsyncClient does with schedules."""

    async def create_schedule(
        self: _Awaiting,
        task: AnyTask,
        cron: str,
        *,
        deduplication_key: str,
        timezone: str | None = None,
        external_id: str | None = None,
        catch_up: CatchUp | None = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """See Client.create_schedule."""
        return await self.run_flow(
            create_schedule(task, cron, deduplication_key, timezone, external_id, catch_up, dict(options))
        )

    async def update_schedule(
        self: _Awaiting,
        schedule_id: str,
        *,
        task: AnyTask | None = None,
        cron: str | None = None,
        timezone: str | None = None,
        external_id: str | None = None,
        catch_up: CatchUp | None = None,
        **options: Unpack[Options],
    ) -> dict[str, Any]:
        """See Client.update_schedule."""
        return await self.run_flow(
            update_schedule(schedule_id, task, cron, timezone, external_id, catch_up, dict(options))
        )

    async def activate_schedule(self: _Awaiting, schedule_id: str) -> dict[str, Any]:
        """See Client.activate_schedule."""
        return await self.run_flow(set_active(schedule_id, "activate"))

    async def deactivate_schedule(self: _Awaiting, schedule_id: str) -> dict[str, Any]:
        """See Client.deactivate_schedule."""
        return await self.run_flow(set_active(schedule_id, "deactivate"))

    async def delete_schedule(self: _Awaiting, schedule_id: str) -> None:
        """See Client.delete_schedule."""
        await self.run_flow(delete_schedule(schedule_id))

    async def retrieve_schedule(self: _Awaiting, schedule_id: str) -> dict[str, Any]:
        """See Client.retrieve_schedule."""
        return await self.run_flow(retrieve_schedule(schedule_id))

    async def list_schedules(
        self: _Awaiting, *, page: int = 1, per_page: int = 25, task: AnyTask | None = None
    ) -> dict[str, Any]:
        """See Client.list_schedules."""
        return await self.run_flow(list_schedules(page, per_page, task))

    async def list_timezones(self: _Awaiting) -> list[str]:
        """See Client.list_timezones."""
        return await self.run_flow(list_timezones())


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def create_schedule(
    task: AnyTask,
    cron: str,
    deduplication_key: str,
    timezone: str | None,
    external_id: str | None,
    catch_up: str | None,
    options: dict[str, Any],
) -> Flow[dict[str, Any]]:
    """Flow: a schedule. Safe to repeat: the key leads to the same one."""
    body = _make_body(task, cron, timezone, external_id, catch_up, options)
    body["deduplicationKey"] = deduplication_key
    return read_object(
        (yield from send_patiently(Send("POST", _PATH, json=body, headers=make_headers()))), "id", "generator"
    )


def update_schedule(
    schedule_id: str,
    task: AnyTask | None,
    cron: str | None,
    timezone: str | None,
    external_id: str | None,
    catch_up: str | None,
    options: dict[str, Any],
) -> Flow[dict[str, Any]]:
    """Flow: a schedule as it is now."""
    body = _make_body(task, cron, timezone, external_id, catch_up, options)
    request = Send("PUT", f"{_PATH}/{quote(schedule_id)}", json=body, headers=make_headers())
    return read_object((yield from send_patiently(request)), "id", "generator")


def set_active(schedule_id: str, verb: str) -> Flow[dict[str, Any]]:
    """Flow: a schedule that is switched on or off."""
    request = Send("POST", f"{_PATH}/{quote(schedule_id)}/{verb}", json={}, headers=make_headers())
    return read_object((yield from send_patiently(request)), "id", "active")


def delete_schedule(schedule_id: str) -> Flow[None]:
    """Flow: a schedule that is gone."""
    request = Send("DELETE", f"{_PATH}/{quote(schedule_id)}", headers=make_headers())
    read_object((yield from send_patiently(request)), "id")


def retrieve_schedule(schedule_id: str) -> Flow[dict[str, Any]]:
    """Flow: a schedule as it stands."""
    return (yield from retrieve(f"{_PATH}/{quote(schedule_id)}"))


def list_schedules(page: int, per_page: int, task: AnyTask | None) -> Flow[dict[str, Any]]:
    """Flow: a page of schedules."""
    query = {"page": page, "perPage": per_page, "filter[task]": None if task is None else task_id(task)}
    answer = yield from send_patiently(Send("GET", _PATH + make_query(query)))
    return read_object(answer, "data", "pagination")


def list_timezones() -> Flow[list[str]]:
    """Flow: the names of all time zones."""
    answer = yield from send_patiently(Send("GET", "/api/v1/timezones"))
    return read_object(answer, "timezones")["timezones"]


def _make_body(
    task: AnyTask | None,
    cron: str | None,
    timezone: str | None,
    external_id: str | None,
    catch_up: str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """What was given, as it stands on the wire. Raises ConfigurationError on what no server would take."""
    try:
        if cron is not None:
            read_cron(cron)
        if catch_up is not None:
            read_catch_up(catch_up)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    body: dict[str, Any] = {}
    if task is not None:
        body["task"] = task_id(task)
    given = {"cron": cron, "timezone": timezone, "externalId": external_id, "catchUp": catch_up}
    body |= {name: value for name, value in given.items() if value is not None}
    if options:  # by the task's id: the queue that its code names is looked up when the run is made
        wire = make_options("" if task is None else task_id(task), options)
        read_options(wire)
        body["options"] = wire
    return body
