"""Durations: one parser for all of them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.durations import Duration, parse_duration


@pytest.mark.parametrize(
    ("given_as", "seconds"),
    [
        (0, 0.0),
        (90, 90.0),
        (2.5, 2.5),
        (timedelta(minutes=2), 120.0),
        (timedelta(0), 0.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        (" 1H30M ", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("5 m", 300.0),
        ("2d", 172_800.0),
        ("1w2d3h4m5s", 788_645.0),
        ("0s", 0.0),
    ],
)
def test_what_is_a_duration(given_as: Duration, seconds: float) -> None:
    assert parse_duration(given_as) == pytest.approx(seconds)
    assert isinstance(parse_duration(given_as), float)


@pytest.mark.parametrize(
    "given_as",
    [
        "",
        " ",
        "soon",
        "90",
        "m",
        "5 minutes",
        "-5m",
        "1h-30m",
        "1.5.5s",
        "1e3s",
        "5y",
        "+5m",
        "٣s",
        "5m,",
        "1h30",
        "9" * 400 + "s",
        -1,
        -0.1,
        math.nan,
        math.inf,
        -math.inf,
        timedelta(seconds=-1),
    ],
)
def test_what_is_none(given_as: Duration) -> None:
    """The text names what was given, and the kinds that there are."""
    with pytest.raises(ValueError, match="is no duration: give seconds as a number, a timedelta, or text") as caught:
        parse_duration(given_as)
    assert repr(given_as) in str(caught.value)


@given(st.integers(0, 500), st.integers(0, 30), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_parts_add_up(days: int, hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    text = f"{days}d{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert parse_duration(text) == pytest.approx(parse_duration(span))


@given(st.text() | st.text("0123456789.smhdw -", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert math.isfinite(seconds)
    assert seconds >= 0
