"""``headrace environment``: what holds for all runs of an environment. Talks to the database itself."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from cyclopts import App, Parameter

from headrace.cli.connection import use_engine
from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import NOT_FOUND, USAGE, CommandError
from headrace.cli.output import print_fields, print_json, print_table
from headrace.durations import parse_duration
from headrace.engine import queues, ttls
from headrace.engine.engine import Engine
from headrace.engine.environments import find_environment, list_environments
from headrace.engine.notices import READY_CHANNEL
from headrace.engine.queues import EnvironmentLimits
from headrace.items import spell_duration

environment_app: Final = App(name="environment", help="List, pause and limit environments.")

Slug = Annotated[str, Parameter(help="dev, staging or prod")]


@environment_app.command(name="list")
def list_(*, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """List environments, and how long runs of each may wait for their start."""
    _show(use_engine(database_url, ttls.list_ttls), json=json)


@environment_app.command
def ttl(
    environment: Annotated[str, Parameter(help="dev, staging or prod")],
    /,
    *,
    default: Annotated[
        str | None,
        Parameter(help="For runs that say nothing, such as 10m; 'none' is any time", env_var="HEADRACE_TTL_DEFAULT"),
    ] = None,
    max: Annotated[  # noqa: A002 - the name of the option
        str | None,
        Parameter(help="The most that a run may say, such as 14d; 'none' is any time", env_var="HEADRACE_TTL_MAX"),
    ] = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Say how long runs of an environment may wait for their start, before they end as EXPIRED.

    What is not named stays as it is. It holds for runs that are made from now on.
    """

    async def change(engine: Engine) -> list[ttls.EnvironmentTtls]:
        known = {one.environment: one for one in await ttls.list_ttls(engine)}
        if (old := known.get(environment)) is None:
            raise CommandError(f"There is no environment {environment!r}, but {', '.join(known)}.", NOT_FOUND)
        wanted = [_read(given, before) for given, before in ((default, old.default), (max, old.most))]
        await ttls.set_ttls(engine, environment, default=wanted[0], most=wanted[1])
        return [one for one in await ttls.list_ttls(engine) if one.environment == environment]

    _show(use_engine(database_url, change), json=json)


@environment_app.command
def show(environment: Slug, /, *, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Show what an environment may do at once, and does."""
    _tell(_change(database_url, environment, queues.find_limits), json=json)


@environment_app.command
def pause(environment: Slug, /, *, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Pause an environment: nothing of it starts until it is resumed. What executes goes on."""
    work = functools.partial(queues.pause_environment, paused=True)
    _tell(_change(database_url, environment, work), json=json)


@environment_app.command
def resume(environment: Slug, /, *, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Let a paused environment go on."""
    work = functools.partial(queues.pause_environment, paused=False)
    _tell(_change(database_url, environment, work), json=json)


@environment_app.command
def limit(
    environment: Slug,
    limit: Annotated[
        str,
        Parameter(
            help="Runs at once, on all queues together; 'none' is any number", env_var="HEADRACE_ENVIRONMENT_LIMIT"
        ),
    ],
    /,
    *,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Set how many runs of an environment may execute at once."""
    try:
        number = None if limit == "none" else int(limit)
        work = functools.partial(queues.limit_environment, limit=number)
        found = _change(database_url, environment, work)
    except ValueError as error:
        told = str(error) if limit.isdecimal() else f"The limit is a number of runs or 'none', but not {limit!r}."
        raise CommandError(told, USAGE) from None
    _tell(found, json=json)


def _change(
    database_url: str | None, slug: str, work: Callable[[Engine, int], Awaitable[EnvironmentLimits]]
) -> EnvironmentLimits:
    async def run(engine: Engine) -> EnvironmentLimits:
        environment = await find_environment(engine, slug)
        if environment is None:
            known = ", ".join(one.slug for one in await list_environments(engine))
            raise CommandError(f"There is no environment {slug!r}, but {known}.", NOT_FOUND)
        found = await work(engine, environment.id)
        # this process ends at once: what it would send in the background is sent here
        await engine.store.fetch("send_notice", READY_CHANNEL, str(environment.id))
        return found

    return use_engine(database_url, run)


def _tell(found: EnvironmentLimits, *, json: bool) -> None:
    if json:
        fields = {"environment": found.slug, "paused": found.paused_at is not None, "concurrencyLimit": found.limit}
        print_json({**fields, "running": found.running, "queued": found.queued})
        return
    print_fields(
        {
            "environment": found.slug,
            "state": "paused" if found.paused_at else "open",
            "limit": "any number" if found.limit is None else found.limit,
            "running": found.running,
            "queued": found.queued,
        }
    )


def _read(given: str | None, before: float | None) -> float | None:
    if given is None:
        return before
    if given == "none":
        return None
    try:
        return parse_duration(given)
    except ValueError as error:
        raise CommandError(f"{error}, or 'none'.", USAGE) from None


def _show(found: list[ttls.EnvironmentTtls], *, json: bool) -> None:
    rows = [
        (one.environment, *(None if s is None else spell_duration(s) for s in (one.default, one.most))) for one in found
    ]
    if json:
        print_json([{"environment": name, "defaultTtl": default, "maxTtl": most} for name, default, most in rows])
    else:
        print_table(["environment", "default ttl", "max ttl"], rows)
