"""Cron patterns: what they mean, and the moments at which they tick in a time zone.

Pure, but for the time zone database of the system (or of the package tzdata, where the system has none).

A pattern names local times of day, or it goes on all day long. Where its hours are all 24 (``*/15 * * * *``) it follows the
time that passes: in the hour that is repeated in autumn it ticks both times, and of the hour that is left out in spring there
is nothing. Any other pattern (``30 2 * * *``, ``0 */2 * * *``) ticks once for each time that it names: at the first of two
such times in autumn, and in spring later by as much as the clock was put forward (2:30 comes at 3:30).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from headrace.errors import ConfigurationError

CatchUp = Literal["skip", "one", "all"]
"""What becomes of ticks that were missed, because no server ran: nothing, one run for all of them, or a run for each."""

CATCH_UPS: Final[tuple[CatchUp, ...]] = get_args(CatchUp)

_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_LONGEST_PATTERN: Final = 1000
_SOME_DAY: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - a local time, of no zone

_SHORTHANDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ALLOWED: Final = {
    "second": "0 to 59",
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L (the last day) and LW (the last weekday)",
    "month": "1 to 12 and JAN to DEC",
    "day-of-week": "0 to 7 and SUN to SAT (0 and 7 are Sunday), 5L (the last Friday) and 5#2 (the second Friday)",
}


@dataclass(frozen=True, slots=True)
class Cron:
    """A schedule as a task declares it: ``@task(cron=Cron("30 2 * * *", timezone="Europe/Berlin"))``.

    pattern: minute, hour, day of month, month, day of week; with six fields the first one is the second.
    timezone: an IANA name; local times are meant in it, summer time included.
    catch_up: of ticks that were missed: "skip" (no run), "one" (one run, for the latest) or "all" (a run each, up to a limit).
    environments: those in which it ticks ("dev", "staging", "prod"); default: wherever a worker has the task.
    options: of its runs, as for ``trigger``: ``{"tags": ["nightly"], "ttl": "1h"}``.
    """

    pattern: str
    timezone: str = "UTC"
    catch_up: CatchUp = "skip"
    environments: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        try:
            read_cron(self.pattern, self.timezone)
            read_catch_up(self.catch_up)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if isinstance(self.environments, str):
            raise ConfigurationError(f"environments is {self.environments!r}: give a list of names, such as ['prod']")


def read_declared(cron: str | Cron | None) -> Cron | None:
    """What ``@task(cron=...)`` is given. Raises ConfigurationError where that is no cron."""
    if cron is None or isinstance(cron, Cron):
        return cron
    if not isinstance(cron, str):  # pyright: ignore[reportUnnecessaryIsInstance] - not everybody checks types
        raise ConfigurationError(f"cron is {cron!r}: give a pattern such as '0 2 * * *', or a Cron")
    return Cron(cron)


@lru_cache(maxsize=4096)
def read_cron(pattern: str, timezone: str = "UTC") -> Ticker:
    """When ``pattern`` ticks in ``timezone``. Raises ValueError saying what is wrong with either.

    >>> read_cron("30 2 * * *", "Europe/Berlin").next_tick(datetime(2026, 3, 29, tzinfo=UTC)).isoformat()
    '2026-03-29T01:30:00+00:00'
    """
    return Ticker(pattern, timezone)


def read_catch_up(text: str) -> CatchUp:
    """A policy by its name. Raises ValueError on any other."""
    for known in CATCH_UPS:
        if text == known:
            return known
    raise ValueError(f"catchUp is {text!r}, but must be one of: {', '.join(CATCH_UPS)}")


def describe_cron(pattern: str, timezone: str) -> str:
    """A pattern in English; as it stands, in a time zone that this machine does not know."""
    try:
        return read_cron(pattern, timezone).description
    except ValueError:
        return pattern


@cache
def list_timezones() -> tuple[str, ...]:
    """The names of all time zones: UTC, and the others by name."""
    return ("UTC", *sorted(available_timezones() - {"UTC"}))


class Ticker:
    """The ticks of one pattern in one time zone. All moments are aware, in UTC, and ticks are whole seconds."""

    def __init__(self, pattern: str, timezone: str = "UTC") -> None:
        self._zone = _find_zone(timezone)
        self._pattern = _parse(pattern)
        self._all_day = len(self._pattern.hours) == 24
        self._steady = timezone == "UTC"

    @property
    def description(self) -> str:
        """The pattern in English."""
        return self._pattern.explain()

    def next_tick(self, after: datetime) -> datetime | None:
        """The first tick after a moment. None where there is none for 50 years."""
        at = after.astimezone(UTC).replace(microsecond=0) + _SECOND
        while True:  # a round is a stretch of time in which the zone's offset does not change
            tick = self._find_tick(at)
            end = self._find_change(at, tick)
            if end is None:
                return tick
            at = end

    def next_ticks(self, after: datetime, count: int) -> list[datetime]:
        """The first ticks after a moment."""
        ticks: list[datetime] = []
        while len(ticks) < count and (tick := self.next_tick(ticks[-1] if ticks else after)) is not None:
            ticks.append(tick)
        return ticks

    def last_ticks(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """The ticks after one moment and up to another, in order; of more than ``most`` the latest."""
        few: list[datetime] = []
        tick = self.next_tick(after)
        while tick is not None and tick <= until and len(few) <= most:
            few.append(tick)
            tick = self.next_tick(tick)
        if len(few) <= most:
            return few
        latest: list[datetime] = []
        end = until.astimezone(UTC).replace(microsecond=0)
        while len(latest) < most:
            latest.append(self._last_tick(end))
            end = latest[-1] - _SECOND
        return latest[::-1]

    def _last_tick(self, end: datetime) -> datetime:
        """The last tick up to a moment, where it is known that there is one: looked for in longer and longer spans."""
        span, high = _SECOND, end
        low = end - span
        while not self._ticks_within(low, end):
            high, span = low, span * 2
            low = end - span
        while high - low > _SECOND:
            middle = low + (high - low) // 2
            middle = middle.replace(microsecond=0)
            if self._ticks_within(middle, end):
                low = middle
            else:
                high = middle
        tick = self.next_tick(low)
        assert tick is not None
        return tick

    def _ticks_within(self, after: datetime, until: datetime) -> bool:
        tick = self.next_tick(after)
        return tick is not None and tick <= until

    def _find_tick(self, at: datetime) -> datetime | None:
        """The first tick at or after a moment, as if the zone's offset there stayed what it is."""
        offset = self._offset(at)
        begin = _local(at, offset)
        left_out: datetime | None = None
        if not self._all_day and not self._steady and (before := self._offset(at - _DAY)) != offset:
            change = self._bisect(at - _DAY, at)
            if before > offset:  # what the clock shows now it has shown before, up to here
                begin = max(begin, _local(change, before))
            else:  # times that the clock has left out: they come as if it had not
                found = self._find_local(_local(at, before))
                left_out = found if found is not None and found < _local(change, offset) else None
                left_out = None if left_out is None else _instant(left_out, before)
        found = self._find_local(begin)
        tick = None if found is None else _instant(found, offset)
        return min((one for one in (tick, left_out) if one is not None), default=None)

    def _find_local(self, at: datetime) -> datetime | None:
        """The first local time at or after one that the pattern names."""
        search = copy.copy(self._pattern)
        search.dt = at - _SECOND
        try:
            return next(search, None)
        except OverflowError:  # Python's calendar ends with the year 9999
            return None

    def _find_change(self, after: datetime, until: datetime | None) -> datetime | None:
        """The first moment after one and up to another at which the zone's offset is another than before."""
        if until is None or self._steady:
            return None
        offset = self._offset(after)
        while after < until:
            day_on = min(after + _DAY, until)
            if self._offset(day_on) != offset:
                return self._bisect(after, day_on)
            after = day_on
        return None

    def _bisect(self, before: datetime, after: datetime) -> datetime:
        """The second of the one change of offset between two moments."""
        offset = self._offset(before)
        while after - before > _SECOND:
            middle = (before + (after - before) / 2).replace(microsecond=0)
            if self._offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self._zone).utcoffset() or timedelta()


def _local(moment: datetime, offset: timedelta) -> datetime:
    return (moment + offset).replace(tzinfo=None)


def _instant(local: datetime, offset: timedelta) -> datetime:
    return (local - offset).replace(tzinfo=UTC)


def _find_zone(name: str) -> ZoneInfo:
    known = list_timezones()
    if name in known:
        return ZoneInfo(name)
    near = difflib.get_close_matches(name[:100], known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"timezone is {name[:100]!r}, but must be an IANA name, such as 'Europe/Berlin' or 'UTC'.{hint}")


def _parse(pattern: str) -> CronSim:
    if len(pattern) > _LONGEST_PATTERN:
        raise ValueError(f"cron has {len(pattern)} characters, but may have at most {_LONGEST_PATTERN}")
    fields = _SHORTHANDS.get(pattern.strip().lower(), pattern).split()
    if len(fields) not in (5, 6):
        raise ValueError(
            f"cron is {pattern!r}, which has {len(fields)} fields, but must have five (minute, hour, day of month, month, "
            f"day of week), six (a second before them), or be one of {', '.join(_SHORTHANDS)}"
        )
    text = " ".join(fields)
    try:
        parsed = CronSim(text, _SOME_DAY)
    except CronSimError as error:
        raise ValueError(_describe_fault(pattern, fields, str(error).removeprefix("Bad "))) from None
    if next(copy.copy(parsed), None) is None:
        raise ValueError(f"cron is {pattern!r}, which no date ever matches")
    return parsed


def _describe_fault(pattern: str, fields: list[str], name: str) -> str:
    given = fields[list(_ALLOWED).index(name) - 6]
    if name == "day-of-month" and _is_day(given):
        return f"cron is {pattern!r}, which no date ever matches: there is no day {given} in month {fields[-2]}"
    return (
        f"cron is {pattern!r}: its {name} is {given!r}, but can be *, {_ALLOWED[name]}, and lists (1,2), ranges (1-5) and "
        "steps (*/5) of these"
    )


def _is_day(text: str) -> bool:
    try:
        CronSim(f"0 0 {text} * *", _SOME_DAY)
    except CronSimError:
        return False
    return True
