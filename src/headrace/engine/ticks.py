"""Ticks: what a schedule does when its time has come.

Finding what is due, making the runs and moving the schedule on to its next tick are one transaction, which holds the
schedule's row: whoever dies in between leaves the tick as due as it was, and whoever comes second finds it done. The request
id of a run follows from schedule and tick as well, so that not even a clock that is put back makes a tick's run twice.

A run may live in another store. Then what is made here is the order for it, with its id, which the outbox delivers.

A tick that is found later than the setting ``schedule_tolerance`` allows counts as missed; the schedule's policy says what
becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from headrace.crons import CatchUp, Ticker, read_cron
from headrace.engine.items import Origin
from headrace.engine.lanes import LaneBook, LaneFinder
from headrace.engine.outcomes import BatchRefused, KeyConflict, Packet, RunCreated, RunExists
from headrace.engine.relay import TriggerMessage, order_run
from headrace.engine.runs import TriggerAnswer, claim_run, make_run
from headrace.engine.schedule_outcomes import ScheduleView, TicksFired
from headrace.engine.schedules import check_options, read_schedule
from headrace.ids import HOME_STORE, format_schedule_id, mint_run_id
from headrace.logs import get_logger
from headrace.protocol.options import RunOptions
from headrace.protocol.schedules import ScheduledPayload
from headrace.settings import Settings
from headrace.store.statements import Plan, query

UPCOMING: Final = 10
"""How many of the ticks that come next a run is told."""

_MOST_RUNS: Final = 500
"""How many runs one transaction makes at most: what is left is as due as it was."""

_MOST_FRESH: Final = 10_000
_SECOND: Final = timedelta(seconds=1)

_log = get_logger("headrace.ticks")


@dataclass(slots=True)
class _Progress:
    """Where a schedule is when its due ticks are done with."""

    next_tick: datetime | None = None
    last_tick: datetime | None = None
    last_run_id: UUID | None = None
    fault: str | None = None
    ticks: int = 0
    runs: int = 0


def fire_due(
    settings: Settings, lanes: LaneBook, limit: int, *, pick: Callable[[], str] = lambda: HOME_STORE
) -> Plan[TicksFired]:
    """Plan: the runs of ticks that are due, of at most ``limit`` schedules, and their next ticks.

    ``pick`` gives the key of the store that a run is to live in.
    """
    rows = yield from query("lock_due_schedules", limit)
    finders: dict[int, LaneFinder] = {}
    fired = TicksFired(schedules=len(rows), more=len(rows) == limit)
    moved: list[tuple[int, UUID, datetime | None, datetime | None, UUID | None, str | None]] = []
    room = _MOST_RUNS
    for row in rows:
        if not room:
            fired.more = True
            break
        schedule = read_schedule(row)
        finder = finders.setdefault(schedule.environment_id, LaneFinder(schedule.environment_id, lanes))
        done = yield from _fire(schedule, row["now"], room, finder, settings, pick)
        moved.append(
            (schedule.environment_id, schedule.id, done.next_tick, done.last_tick, done.last_run_id, done.fault)
        )
        room -= done.ticks
        fired.runs += done.runs
        if done.runs:
            fired.environments.add(schedule.environment_id)
    if moved:
        yield from query("advance_schedules", *(list(column) for column in zip(*moved, strict=True)))
    return fired


def choose_ticks(
    ticker: Ticker, due: datetime, now: datetime, policy: CatchUp, *, tolerance: float, most: int
) -> list[datetime]:
    """The ticks from ``due`` to ``now`` that get a run: those that are not missed, and of the missed what the policy says."""
    before, fresh = due - _SECOND, now - timedelta(seconds=tolerance)
    wanted = {"skip": 0, "one": 1, "all": most}[policy]
    missed = ticker.last_ticks(before, fresh, wanted) if wanted else []
    return missed + ticker.last_ticks(max(before, fresh), now, _MOST_FRESH)


def _fire(
    schedule: ScheduleView,
    now: datetime,
    room: int,
    lanes: LaneFinder,
    settings: Settings,
    pick: Callable[[], str],
) -> Plan[_Progress]:
    done = _Progress()
    assert schedule.next_tick is not None  # it is active, and due
    try:
        ticker = read_cron(schedule.pattern, schedule.timezone)
        ticks = choose_ticks(
            ticker,
            schedule.next_tick,
            now,
            schedule.catch_up,
            tolerance=settings.schedule_tolerance,
            most=settings.schedule_catch_up,
        )
    except (ValueError, OverflowError) as error:  # a time zone that this machine does not know any more, say
        done.fault = str(error)
        _log.error("a schedule can't go on", schedule=format_schedule_id(schedule.id), error=done.fault)
        return done
    ticks, left = ticks[:room], ticks[room:]
    done.next_tick = left[0] if left else ticker.next_tick(now)
    done.ticks = len(ticks)
    for tick in ticks:
        last = done.last_tick or schedule.last_tick
        payload = _describe_tick(schedule, tick, last, ticker.next_ticks(tick, UPCOMING))
        answer = yield from _make_run(schedule, tick, payload, lanes, settings, pick())
        _note(done, tick, answer)
    if done.fault:
        _log.warning("a tick made no run", schedule=format_schedule_id(schedule.id), task=schedule.task, why=done.fault)
    return done


def _make_run(
    schedule: ScheduleView,
    tick: datetime,
    payload: ScheduledPayload,
    lanes: LaneFinder,
    settings: Settings,
    store: str,
) -> Plan[TriggerAnswer]:
    packet, origin = Packet(msgspec.json.encode(payload)), Origin(schedule_id=schedule.id)
    request_id = f"{format_schedule_id(schedule.id)} {tick.isoformat()}"
    try:
        options = msgspec.convert(schedule.options, RunOptions)
        check_options(options)
        is_elsewhere = store != lanes.store and not _belongs_home(options)
        # what this process believes of a store may be some seconds old: what is ordered where nothing is made any more is lost
        if is_elsewhere and (yield from query("hold_store", store)):
            run_id = mint_run_id(store)
            answer = yield from claim_run(
                schedule.environment_id,
                run_id,
                schedule.task,
                packet,
                options,
                settings,
                request_id=request_id,
                origin=origin,
            )
            if isinstance(answer, RunCreated):
                message = TriggerMessage(schedule.task, (packet.data or b"").decode("utf-8"), options, origin)
                yield from order_run(store, schedule.environment_id, run_id, message)
            return answer
        return (
            yield from make_run(schedule.task, packet, options, lanes, settings, request_id=request_id, origin=origin)
        )
    except ValueError as error:  # options that were right once, and are not any more
        return BatchRefused(422, str(error))


def _belongs_home(options: RunOptions) -> bool:
    """Whether its keys are to be claimed in the transaction that makes it, which is home's."""
    return bool(options.idempotency_key or options.order_key or options.debounce)


def _describe_tick(
    schedule: ScheduleView, tick: datetime, last: datetime | None, upcoming: Sequence[datetime]
) -> ScheduledPayload:
    return ScheduledPayload(
        type="DECLARATIVE" if schedule.declared else "IMPERATIVE",
        timestamp=tick,
        timezone=schedule.timezone,
        schedule_id=format_schedule_id(schedule.id),
        upcoming=list(upcoming),
        last_timestamp=last,
        external_id=schedule.external_id,
    )


def _note(done: _Progress, tick: datetime, answer: TriggerAnswer) -> None:
    match answer:
        case RunCreated(run_id):
            done.runs += 1
            done.last_tick, done.last_run_id, done.fault = tick, run_id, None
        case RunExists(run_id, cached):
            if cached:  # by the idempotency key of the schedule's options: that run is this tick's too
                done.last_tick, done.last_run_id, done.fault = tick, run_id, None
        case KeyConflict():  # made before, with other options than now
            pass
        case BatchRefused(_, message):
            done.fault = message
