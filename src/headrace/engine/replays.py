"""Replay: a new run of what an earlier one was asked to do, with the same payload or another.

It is no child of the first one and no further try of it: it has an id, attempts and an end of its own, and says which run
it replays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.engine import Engine
from headrace.engine.items import Origin
from headrace.engine.lanes import LaneFinder
from headrace.engine.ordering import hold_order_keys
from headrace.engine.outcomes import Packet, RunCreated, RunView
from headrace.engine.rows import read_run
from headrace.engine.runs import TriggerAnswer, make_run, trigger_run
from headrace.protocol.options import QueueOption, RunOptions
from headrace.store.statements import Plan, query

_COPIED: Final = (
    "concurrency_key", "machine", "metadata", "metadata_type", "order_key", "payload_type", "region", "tags", "test",
)  # fmt: skip
"""Who the work is for and what it is. When, how often and how long it is tried is not copied: that was said of the first
run (delay, ttl, priority, attempts, duration, version), and an idempotency key would only find it again."""

_WIRE_NAMES: Final = {field.name: field.encode_name for field in msgspec.structs.fields(RunOptions)}


def replay_options(run: RunView, given: RunOptions | None = None, *, same_payload: bool = True) -> RunOptions:
    """The options of a replay: what is copied of ``run``, and ``given`` over it."""
    said = {_WIRE_NAMES[name]: run.options.get(_WIRE_NAMES[name]) for name in _COPIED}
    if not same_payload:
        said[_WIRE_NAMES["payload_type"]] = None
    if given is not None and (given.order_key or given.concurrency_key):  # a run has one of them
        said[_WIRE_NAMES["order_key"]] = said[_WIRE_NAMES["concurrency_key"]] = None
    copied = msgspec.convert({name: value for name, value in said.items() if value is not None}, RunOptions)
    if run.queue != f"task/{run.task}":  # the task's own is left to be the one that it has now
        copied = msgspec.structs.replace(copied, queue=QueueOption(run.queue))
    if given is None:
        return copied
    over = {name: value for name in _WIRE_NAMES if (value := getattr(given, name)) is not None}
    return msgspec.structs.replace(copied, **over)


async def replay_run(
    engine: Engine,
    environment_id: int,
    run: RunView,
    given: RunOptions | None = None,
    *,
    packet: Packet | None = None,
    request_id: str | None = None,
    traceparent: str | None = None,
) -> TriggerAnswer:
    """Makes a run of what ``run`` was asked to do, with its payload unless ``packet`` is another one."""
    return await trigger_run(
        engine,
        environment_id,
        run.task,
        run.payload if packet is None else packet,
        replay_options(run, given, same_payload=packet is None),
        request_id=request_id,
        traceparent=traceparent,
        origin=Origin(replayed_from=run.id),
    )


def replay_runs(engine: Engine, environment_id: int, run_ids: Sequence[UUID]) -> Plan[dict[UUID, UUID]]:
    """Plan: a replay of each of the runs that are there, by the id of the one that it replays."""
    rows: list[Any] = yield from query("find_runs", environment_id, list(run_ids))
    runs = [read_run(row) for row in rows]
    options = [replay_options(run) for run in runs]
    yield from hold_order_keys(environment_id, [(run.task, one) for run, one in zip(runs, options, strict=True)])
    lanes = LaneFinder(environment_id, engine.lanes)
    made: dict[UUID, UUID] = {}
    for run, chosen in zip(runs, options, strict=True):
        origin = Origin(replayed_from=run.id)
        answer = yield from make_run(run.task, run.payload, chosen, lanes, engine.settings, origin=origin)
        if isinstance(answer, RunCreated):
            made[run.id] = answer.run_id
    return made
