"""Replay: a new run of what an earlier one was asked to do, with the same payload or another.

It is no child of the first one and no further try of it: it has an id, attempts and an end of its own, and says which run
it replays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.engine.engine import Engine
from headrace.engine.items import Origin, lane_name, stored_options
from headrace.engine.lanes import LaneFinder
from headrace.engine.ordering import hold_order_keys
from headrace.engine.outcomes import Packet, RunView
from headrace.engine.rows import read_json
from headrace.engine.runs import TriggerAnswer, trigger_run
from headrace.ids import mint_run_id
from headrace.protocol.options import QueueOption, RunOptions
from headrace.store.statements import Plan, query

_COPIED: Final = (
    "concurrency_key", "machine", "metadata", "metadata_type", "order_key", "payload_type", "region", "tags", "test",
)  # fmt: skip
"""Who the work is for and what it is. When, how often and how long it is tried is not copied: that was said of the first
run (delay, ttl, priority, attempts, duration, version), and an idempotency key would only find it again."""

_WIRE_NAMES: Final = {field.name: field.encode_name for field in msgspec.structs.fields(RunOptions)}


def replay_options(
    task: str, queue: str, options: Mapping[str, Any], given: RunOptions | None = None, *, same_payload: bool = True
) -> RunOptions:
    """The options of a replay: what is copied of a run of ``task`` on ``queue``, and ``given`` over it."""
    said = {_WIRE_NAMES[name]: options.get(_WIRE_NAMES[name]) for name in _COPIED}
    if not same_payload:
        said[_WIRE_NAMES["payload_type"]] = None
    if given is not None and (given.order_key or given.concurrency_key):  # a run has one of them
        said[_WIRE_NAMES["order_key"]] = said[_WIRE_NAMES["concurrency_key"]] = None
    copied = msgspec.convert({name: value for name, value in said.items() if value is not None}, RunOptions)
    if queue != f"task/{task}":  # the task's own is left to be the one that it has now
        copied = msgspec.structs.replace(copied, queue=QueueOption(queue))
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
        replay_options(run.task, run.queue, run.options, given, same_payload=packet is None),
        request_id=request_id,
        traceparent=traceparent,
        origin=Origin(replayed_from=run.id),
    )


def replay_runs(
    engine: Engine, environment_id: int, run_ids: Sequence[UUID], *, ordered_only: bool = False
) -> Plan[dict[UUID, UUID]]:
    """Plan: a replay of each of the runs that are there, by the id of the one that it replays.

    With ``ordered_only`` of those with an order key alone: they have no other store to go to than home.
    """
    rows: list[Any] = yield from query("find_replayed", environment_id, list(run_ids))
    chosen = [(row["task"], replay_options(row["task"], row["queue"], read_json(row["options"]) or {})) for row in rows]
    if ordered_only:
        kept = [number for number, (_, options) in enumerate(chosen) if options.order_key]
        rows, chosen = [rows[number] for number in kept], [chosen[number] for number in kept]
    yield from hold_order_keys(environment_id, chosen)
    lanes = LaneFinder(environment_id, engine.lanes)
    names = [lane_name(task, options) for task, options in chosen]
    found = yield from lanes.find_lanes(names)
    made: list[Any] = yield from query(
        "insert_replays",
        environment_id,
        sorted(mint_run_id(engine.key) for _ in rows),  # they come in the order of those that they replay
        [found[name] for name in names],
        [row["id"] for row in rows],
        [
            stored_options(options, Origin(replayed_from=row["id"]))
            for row, (_, options) in zip(rows, chosen, strict=True)
        ],
    )
    return {row["replayed_from"]: row["id"] for row in made}
