"""Taking runs from workers that have ended: what is written over each, and when enough is enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from headrace.engine.lanes import LaneFinder, LaneName
from headrace.store.statements import Plan, query

Held = Any
"""A row of ``find_abandoned_runs`` or ``find_held_runs``."""


def rescue_arguments(
    held: Sequence[Held],
    worker_id: int,
    *,
    final: Callable[[Held], bool],
    counted: int,
    error: Callable[[Held], dict[str, str]],
    lanes: Mapping[UUID, int],
) -> list[Any]:
    """The arguments of ``rescue_runs`` for runs of one worker in one environment."""
    ids: list[UUID] = [row["id"] for row in held]
    return [
        held[0]["environment_id"],
        worker_id,
        ids,
        [row["attempt"] for row in held],
        [final(row) for row in held],
        [counted] * len(held),
        [msgspec.json.encode(_say_last(error(row), row) if final(row) else error(row)).decode("utf-8") for row in held],
        [lanes.get(run_id) for run_id in ids],
    ]


def find_pinned_lanes(environment_id: int, runs: Sequence[UUID], version: str) -> Plan[dict[UUID, int]]:
    """Plan: those of ``runs`` that have a journal, and the lane of the version that began it, where they go on."""
    if not version:
        return {}
    rows = yield from query("find_journaled", environment_id, list(runs))
    names = {row["id"]: LaneName(row["task"], row["queue"], row["kind"]) for row in rows}
    lanes = LaneFinder(environment_id, version=version)
    found = (yield from lanes.find_lanes(set(names.values()))) if names else {}
    return {run_id: found[name] for run_id, name in names.items()}


def _say_last(error: dict[str, str], row: Held) -> dict[str, str]:
    text = (
        f"It is the worker number {row['rescues'] + 1} that this run is lost with, which is more than HEADRACE_MAX_RESCUES allows: "
        "it is not tried again."
    )
    return {**error, "message": f"{error['message']} {text}"}


def worker_lost_error(row: Held) -> dict[str, str]:
    """The error of an attempt whose worker went silent."""
    return {
        "type": "INTERNAL_ERROR",
        "code": "WORKER_LOST",
        "message": f"Worker {row['worker_name']} went silent in attempt {row['attempt']}: killed, frozen, or cut off.",
    }


def worker_stopped_error(row: Held) -> dict[str, str]:
    """The error of an attempt whose worker was told to stop."""
    return {
        "type": "INTERNAL_ERROR",
        "code": "WORKER_STOPPED",
        "message": f"The worker was told to stop before attempt {row['attempt']} had ended.",
    }
