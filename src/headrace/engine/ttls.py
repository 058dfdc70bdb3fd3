"""How long the runs of an environment may wait for their start: what holds where a run says nothing, and the most it may say."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.engine.control_copies import spread_control
from headrace.engine.engine import Engine
from headrace.engine.idempotency import LONGEST_TTL
from headrace.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class EnvironmentTtls:
    """Seconds that runs of an environment may wait: by default, and at most. None is any time."""

    environment: str
    default: float | None
    most: float | None


async def list_ttls(engine: Engine) -> list[EnvironmentTtls]:
    """Those of all environments, the oldest first."""
    rows = await engine.home.store.fetch("list_ttls")
    return [EnvironmentTtls(row["slug"], row["default_ttl"], row["max_ttl"]) for row in rows]


async def set_ttls(engine: Engine, slug: str, *, default: float | None, most: float | None) -> bool:
    """Says how long runs of an environment that are made from now on may wait. False where there is no such environment.

    Raises ConfigurationError where the default is more than what is allowed.
    """
    for what, seconds in (("default", default), ("maximum", most)):
        if seconds is not None and not 0 < seconds <= LONGEST_TTL:
            raise ConfigurationError(
                f"The {what} time to live is {seconds:g} s, but must be more than 0 and at most {LONGEST_TTL // 86_400} days."
            )
    if default is not None and most is not None and default > most:
        raise ConfigurationError(f"The default time to live, {default:g} s, is more than the maximum, {most:g} s.")
    changed = bool(await engine.home.store.fetch("set_ttls", slug, default, most))
    await spread_control(engine)
    return changed
