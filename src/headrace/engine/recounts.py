"""Counting what executes under limits that are new."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.store.statements import Plan, query


def count_executing(environment_id: int, queues: Sequence[str] | None) -> Plan[None]:
    """Plan: what executes on these queues (None: on all) is counted. Claims that are under way are waited for, and seen after it."""
    yield from query("lock_workers", environment_id)
    yield from query("count_executing", environment_id, None if queues is None else list(queues))
