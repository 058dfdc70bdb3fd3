"""``headrace environment``: what holds for all runs of an environment. Talks to the database itself."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import App, Parameter

from headrace.cli.connection import use_engine
from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import NOT_FOUND, USAGE, CommandError
from headrace.cli.output import print_json, print_table
from headrace.durations import parse_duration
from headrace.engine import ttls
from headrace.engine.engine import Engine
from headrace.items import spell_duration

environment_app: Final = App(name="environment", help="List environments, and say how long their runs may wait.")


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
