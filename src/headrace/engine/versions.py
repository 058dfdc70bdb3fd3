"""Versions of the code: which ones workers brought, and which one takes the new runs of a task: its current one.

A claim leaves the new runs of a task to the workers of its current version while one of them lives that would claim them;
where none does, any worker takes them, so nothing waits for a version that is gone (docs/decisions/0012).

Home decides which version is current, as workers register there; other stores know the versions that their own workers run, and
copy the rest (engine/control_copies). So all agree, in whatever order a version came to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headrace.engine.control_copies import spread_control
from headrace.engine.declarations import apply_declarations
from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease
from headrace.logs import get_logger
from headrace.settings import Settings
from headrace.store.statements import Plan, query

_log = get_logger("headrace.versions")


@dataclass(frozen=True, slots=True)
class VersionView:
    """A version as it is read. ``current_for`` are those of its tasks whose new runs it takes; ``workers`` how many live."""

    number: int
    version: str
    first_seen_at: datetime
    last_seen_at: datetime
    promoted_at: datetime | None
    tasks: list[str]
    current_for: list[str]
    workers: int


@dataclass(frozen=True, slots=True)
class VersionPage:
    """Versions, the one that came last first, and whether more lie behind."""

    versions: list[VersionView]
    has_older: bool


@dataclass(frozen=True, slots=True)
class VersionPromoted:
    """The version is the current one of all its tasks."""

    version: VersionView


@dataclass(frozen=True, slots=True)
class VersionMissing:
    """No worker has ever brought that version to this environment."""


def note_version(environment_id: int, version: str, tasks: Sequence[str], *, promotes: bool) -> Plan[None]:
    """Plan: a worker runs this version of these tasks, whose rows the transaction holds.

    Of a task that the version did not have before it becomes the current one where ``promotes`` says so, or none is.
    """
    promoted = yield from query("register_version", environment_id, version, list(tasks), promotes)
    if promoted:
        yield from query("note_promotion", environment_id, version)
        _log.info("version is current", version=version, tasks=sorted(row["id"] for row in promoted))


def children_version(lease: WorkerLease, settings: Settings) -> str | None:
    """The version whose workers take the children that a run of this worker waits for; None: the current one."""
    return lease.version or None if settings.child_version == "parent" else None


async def promote_version(engine: Engine, environment_id: int, version: str) -> VersionPromoted | VersionMissing:
    """Makes a version, newer or older, the current one of all its tasks: from now on its workers take their new runs."""
    engine = engine.home
    await engine.store.run_plan(_promote(environment_id, version))
    found = await find_version(engine, environment_id, version)
    if found is None:
        return VersionMissing()
    engine.notices.runs_ready(environment_id)
    await spread_control(engine)
    return VersionPromoted(found)


async def find_version(engine: Engine, environment_id: int, version: str) -> VersionView | None:
    """A version by its name."""
    rows = await engine.home.store.fetch("list_versions", environment_id, version, None, 1)
    return _read_version(rows[0]) if rows else None


async def find_current_version(engine: Engine, environment_id: int) -> VersionView | None:
    """The version that became current last, of those that take new runs of any task."""
    rows = await engine.home.store.fetch("find_current_version", environment_id)
    return await find_version(engine, environment_id, rows[0]["version"]) if rows else None


async def list_versions(
    engine: Engine, environment_id: int, *, after: int | None = None, limit: int = 20
) -> VersionPage:
    """A page of versions, the one that came last first; those that came before the one with number ``after``."""
    rows = await engine.home.store.fetch("list_versions", environment_id, None, after, limit + 1)
    return VersionPage([_read_version(row) for row in rows[:limit]], len(rows) > limit)


def _promote(environment_id: int, version: str) -> Plan[None]:
    promoted = yield from query("promote_version", environment_id, version)
    if promoted:
        yield from query("note_promotion", environment_id, version)
        yield from apply_declarations(environment_id, [row["id"] for row in promoted])


def _read_version(row: Any) -> VersionView:
    return VersionView(
        row["id"],
        row["version"],
        row["first_seen_at"],
        row["last_seen_at"],
        row["promoted_at"],
        row["tasks"],
        row["current_for"],
        row["workers"],
    )
