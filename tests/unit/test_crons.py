"""When cron patterns tick: against a count of every minute by hand, over both changes of the clock, in three zones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import ConfigurationError, Cron, ScheduledPayload, task
from headrace.crons import Ticker, list_timezones, read_catch_up, read_cron

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
MINUTE, HALF_DAY, DAY = timedelta(minutes=1), timedelta(hours=12), timedelta(days=1)

CHANGES = {  # the clock's changes of 2026 and 2027, to the day: forward, back
    BERLIN: ("2026-03-29", "2026-10-25", "2027-03-28", "2027-10-31"),
    NEW_YORK: ("2026-03-08", "2026-11-01", "2027-03-14", "2027-11-07"),
    LORD_HOWE: ("2026-10-04", "2026-04-05", "2027-10-03", "2027-04-04"),  # by half an hour
}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def local_ticks(pattern: str, zone: str, after: str, count: int) -> list[str]:
    """The first ticks after a local time, as a clock in the zone shows them."""
    start = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    return [tick.astimezone(ZoneInfo(zone)).isoformat() for tick in read_cron(pattern, zone).next_ticks(start, count)]


@dataclass(frozen=True)
class Times:
    """A pattern of minutes and hours of some days of the week, and which times it names."""

    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday

    @property
    def pattern(self) -> str:
        return " ".join([_spell(self.minutes), _spell(self.hours), "* *", _spell(self.weekdays)])

    def names(self, local: datetime) -> bool:
        return local.minute in self.minutes and local.hour in self.hours and local.isoweekday() % 7 in self.weekdays


def _spell(numbers: frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


def subsets(size: int) -> st.SearchStrategy[frozenset[int]]:
    few = st.frozensets(st.integers(0, size - 1), min_size=1, max_size=4)
    return st.one_of(few, st.just(frozenset(range(size))), st.just(frozenset(range(0, size, 2))))


TIMES = st.builds(Times, subsets(60), subsets(24), subsets(7))


def count_by_hand(times: Times, zone: ZoneInfo, first: datetime, last: datetime) -> Iterator[datetime]:
    """Every tick from one UTC moment to another: each local minute is looked at, and asked when it is."""
    local = (first - HALF_DAY).replace(tzinfo=None)
    while local < (last + HALF_DAY).replace(tzinfo=None):
        if times.names(local):
            early, late = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
            there = early.astimezone(zone).replace(tzinfo=None) == local
            if len(times.hours) < 24:
                yield early  # also of a time that is left out: as if the clock had not been put forward yet
            elif there:
                yield from {early, late}
        local += MINUTE


@pytest.mark.parametrize("zone", CHANGES)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(times=TIMES, change=st.integers(0, 3))
def test_ticks_around_a_change_of_the_clock_are_those_counted_by_hand(zone: str, times: Times, change: int) -> None:
    middle = utc(CHANGES[zone][change])
    first, last = middle - DAY, middle + 2 * DAY
    expected = sorted({tick for tick in count_by_hand(times, ZoneInfo(zone), first, last) if first < tick <= last})
    ticker = read_cron(times.pattern, zone)
    found: list[datetime] = []
    at: datetime | None = first
    while (at := ticker.next_tick(at)) is not None and at <= last:
        found.append(at)
    assert found == expected


@pytest.mark.parametrize("zone", CHANGES)
@settings(derandomize=True, max_examples=40, deadline=None)
@given(hour=st.integers(0, 23), minute=st.integers(0, 59))
def test_a_time_of_day_comes_once_a_day_all_year(zone: str, hour: int, minute: int) -> None:
    ticks = read_cron(f"{minute} {hour} * * *", zone).last_ticks(utc("2025-12-31 00:00"), utc("2027-01-02"), 400)
    days = [tick.astimezone(ZoneInfo(zone)).date() for tick in ticks]
    year = [day for day in days if day.year == 2026]
    assert len(year) == len(set(year)) == 365


@settings(derandomize=True, max_examples=60, deadline=None)
@given(times=TIMES, most=st.integers(1, 20), hours=st.integers(1, 90), zone=st.sampled_from(sorted(CHANGES)))
def test_the_last_ticks_are_the_end_of_all_of_them(times: Times, most: int, hours: int, zone: str) -> None:
    ticker = read_cron(times.pattern, zone)
    after = utc(CHANGES[zone][1]) - 2 * DAY
    until = after + timedelta(hours=hours)
    every = [tick for tick in ticker.next_ticks(after, 720) if tick <= until] if hours < 12 else None
    found = ticker.last_ticks(after, until, most)
    if every is not None:
        assert found == every[-most:]
    assert found == sorted(set(found))
    assert all(after < tick <= until for tick in found)
    assert found == ticker.next_ticks(found[0] - timedelta(seconds=1), len(found)) if found else True


# By name


@pytest.mark.parametrize(
    ("pattern", "zone", "after", "expected"),
    [
        # spring: 2:00 to 3:00 is left out
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", ["2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"]),
        ("30 2 * * *", NEW_YORK, "2026-03-07T12:00", ["2026-03-08T03:30:00-04:00", "2026-03-09T02:30:00-04:00"]),
        # by half an hour: 2:00 to 2:30 is left out
        ("15 2 * * *", LORD_HOWE, "2026-10-03T12:00", ["2026-10-04T02:45:00+11:00", "2026-10-05T02:15:00+11:00"]),
        ("*/30 2 * * *", BERLIN, "2026-03-29T00:00", ["2026-03-29T03:00:00+02:00", "2026-03-29T03:30:00+02:00"]),
        # two that come to one moment are one
        ("0 2,3 * * *", BERLIN, "2026-03-29T00:00", ["2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"]),
        # autumn: the hour from 2:00 comes twice
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]),
        ("30 1 * * *", NEW_YORK, "2026-10-31T12:00", ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]),
        ("45 1 * * *", LORD_HOWE, "2026-04-04T12:00", ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"]),
        ("0 */2 * * *", BERLIN, "2026-10-25T01:30", ["2026-10-25T02:00:00+02:00", "2026-10-25T04:00:00+01:00"]),
        # what goes on all day follows the time that passes
        ("0 * * * *", BERLIN, "2026-03-29T00:30", ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"]),
        ("0 * * * *", BERLIN, "2026-10-25T01:30", ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]),
        ("45 * * * *", LORD_HOWE, "2026-04-05T01:00", ["2026-04-05T01:45:00+11:00", "2026-04-05T01:45:00+10:30"]),
        # a second before the five, the last day, the last Friday, names, shorthands
        ("*/20 * * * * *", "UTC", "2026-01-01T00:00:05", ["2026-01-01T00:00:20+00:00", "2026-01-01T00:00:40+00:00"]),
        ("0 0 L * *", "UTC", "2026-01-31T00:00", ["2026-02-28T00:00:00+00:00", "2026-03-31T00:00:00+00:00"]),
        ("0 0 * * 5L", "UTC", "2026-01-01T00:00", ["2026-01-30T00:00:00+00:00", "2026-02-27T00:00:00+00:00"]),
        ("0 9 * jan mon-fri", "UTC", "2026-01-02T09:00", ["2026-01-05T09:00:00+00:00", "2026-01-06T09:00:00+00:00"]),
        ("@daily", "UTC", "2026-01-01T00:00", ["2026-01-02T00:00:00+00:00", "2026-01-03T00:00:00+00:00"]),
        ("0 0 29 2 *", NEW_YORK, "2026-01-01T00:00", ["2028-02-29T00:00:00-05:00", "2032-02-29T00:00:00-05:00"]),
    ],
)
def test_ticks(pattern: str, zone: str, after: str, expected: list[str]) -> None:
    assert local_ticks(pattern, zone, after, 2) == expected


def test_a_tick_is_after_the_moment_that_is_asked_about() -> None:
    ticker = Ticker("* * * * *")
    minute = utc("2026-01-01T00:01:00")
    assert ticker.next_tick(minute - timedelta(microseconds=1)) == minute
    assert ticker.next_tick(minute) == minute + MINUTE
    assert ticker.next_tick(minute + timedelta(microseconds=1)) == minute + MINUTE


def test_no_more_ticks_are_looked_for_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[datetime] = []
    find = Ticker.next_tick
    monkeypatch.setattr(Ticker, "next_tick", lambda self, after: (asked.append(after), find(self, after))[1])
    assert len(Ticker("0 * * * *").last_ticks(utc("2026-01-01T00:30"), utc("2026-01-01T02:30"), 10_000)) == 2
    assert len(asked) == 3


def test_the_latest_of_very_many_are_found_without_counting_them() -> None:
    until = utc("2026-12-31T20:00")
    ticks = read_cron("* * 0-11 * * *", BERLIN).last_ticks(utc("2020-01-01"), until, 3)
    assert [tick.isoformat() for tick in ticks] == [f"2026-12-31T10:59:{second}+00:00" for second in (57, 58, 59)]


# What is wrong


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("61 * * * *", "its minute is '61', but can be *, 0 to 59"),
        ("* 24 * * *", "its hour is '24', but can be *, 0 to 23"),
        ("* * 0 * *", "its day-of-month is '0', but can be *, 1 to 31, L"),
        ("* * * FOO *", "its month is 'FOO', but can be *, 1 to 12 and JAN to DEC"),
        ("* * * * 8", "its day-of-week is '8', but can be *, 0 to 7"),
        ("60 * * * * *", "its second is '60', but can be *, 0 to 59"),
        ("*/0 * * * *", "its minute is '*/0'"),
        ("5-1 * * * *", "its minute is '5-1'"),
        ("a b c d e", "its minute is 'a'"),
        ("1,,2 * * * *", "its minute is '1,,2'"),
        ("* * *", "which has 3 fields, but must have five"),
        ("", "which has 0 fields"),
        ("* * * * * * *", "which has 7 fields"),
        ("@sometimes", "@yearly, @annually"),
        ("0 0 30 2 *", "no date ever matches: there is no day 30 in month 2"),
        ("0 0 */30 2 1#5", "no date ever matches"),
        ("1" * 1000 + " * * * *", "has 1008 characters, but may have at most 1000"),
    ],
)
def test_a_wrong_pattern_is_refused_with_what_is_wrong_with_it(pattern: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_cron(pattern)


@pytest.mark.parametrize("zone", ["", "Berlin", "../etc/passwd", "America", "/etc/localtime", "x\0", "europe/berlin"])
def test_a_wrong_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="but must be an IANA name, such as 'Europe/Berlin' or 'UTC'"):
        read_cron("* * * * *", zone)
    with pytest.raises(ValueError, match="Did you mean 'Europe/Berlin'"):
        read_cron("* * * * *", "Europe/Berln")


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.text("0123456789*/,-#LWSUNJAN?@ \0é", min_size=1, max_size=5), min_size=4, max_size=7).map(" ".join))
def test_any_text_is_a_pattern_or_is_refused(text: str) -> None:
    try:
        ticker = read_cron(text)
    except ValueError as error:
        told = str(error)
    else:
        told = "cron " + ticker.description
        first, second = ticker.next_ticks(utc("2026-01-01"), 2)
        assert utc("2026-01-01") < first < second
    assert told.startswith("cron ")


def test_time_zones_are_listed_with_utc_first() -> None:
    names = list_timezones()
    assert names[0] == "UTC"
    assert {BERLIN, NEW_YORK, LORD_HOWE} < set(names)
    assert len(names) == len(set(names)) > 400


# As a task declares it


def test_a_task_declares_a_pattern_or_a_cron() -> None:
    @task(id="crons-plain", cron="0 2 * * *")
    def plain() -> None: ...

    @task(id="crons-zoned", cron=Cron("0 2 * * *", timezone=BERLIN, catch_up="one", options={"tags": ["a"]}))
    def zoned(tick: ScheduledPayload) -> None: ...

    @task(id="crons-none")
    def none() -> None: ...

    assert plain.cron == Cron("0 2 * * *", "UTC", "skip")
    assert zoned.cron is not None
    assert (zoned.cron.timezone, zoned.cron.catch_up, zoned.cron.options) == (BERLIN, "one", {"tags": ["a"]})
    assert none.cron is None


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Cron("61 * * * *"), "its minute is '61'"),
        (lambda: Cron("* * * * *", timezone="Berlin"), "timezone is 'Berlin'"),
        (lambda: Cron("* * * * *", catch_up="some"), "catchUp is 'some', but must be one of: skip, one, all"),
        (lambda: Cron("* * * * *", environments="prod"), r"give a list of names, such as \['prod'\]"),
        (lambda: task(id="crons-bad", cron="nightly")(lambda: None), "which has 1 fields"),
        (lambda: task(id="crons-bad", cron=5)(lambda: None), "cron is 5: give a pattern"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(declare, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        declare()


def test_policies_have_names() -> None:
    assert [read_catch_up(name) for name in ("skip", "one", "all")] == ["skip", "one", "all"]


def test_a_pattern_with_no_tick_left_in_the_calendar_has_none() -> None:
    assert read_cron("0 0 29 2 *").next_tick(datetime(9998, 5, 1, tzinfo=UTC)) is None
