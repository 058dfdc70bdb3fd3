"""The report of the benchmark: what is held to a floor is a figure, and one that is missed is named."""

from __future__ import annotations

import msgspec
import pytest

from headrace.bench.report import (
    CEILINGS,
    FLOORS,
    INGEST_SHARE,
    LIMITED_SHARE,
    Figures,
    list_misses,
    take_median,
    take_percentiles,
)

MET = {
    **dict.fromkeys(Figures.__struct_fields__, 1.0),
    **FLOORS,
    **CEILINGS,
    "unnest_rows_per_s": FLOORS["ingest_http_items_per_s"] / INGEST_SHARE,
    "drain_limited_runs_per_s": FLOORS["drain_runs_per_s"] * LIMITED_SHARE,
}


def test_a_figure_that_is_its_floor_is_no_miss():
    assert list_misses(msgspec.convert(MET, Figures)) == []


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_a_figure_below_its_floor_is_a_miss(name):
    figures = msgspec.convert({**MET, name: FLOORS[name] * 0.99}, Figures)
    assert any(miss.startswith(f"{name} is ") and "below" in miss for miss in list_misses(figures))


@pytest.mark.parametrize("name", sorted(CEILINGS))
def test_a_figure_above_its_ceiling_is_a_miss(name):
    [miss] = list_misses(msgspec.convert({**MET, name: CEILINGS[name] * 1.01}, Figures))
    assert miss.startswith(f"{name} is ")
    assert "above" in miss


def test_ingest_is_held_to_its_share_of_the_machine():
    figures = msgspec.convert({**MET, "unnest_rows_per_s": MET["unnest_rows_per_s"] * 1.01}, Figures)
    assert list_misses(figures) == ["ingest_http_items_per_s is less than 25% of unnest_rows_per_s"]


def test_a_drain_with_limits_is_held_to_its_share_of_one_without():
    figures = msgspec.convert({**MET, "drain_limited_runs_per_s": MET["drain_limited_runs_per_s"] * 0.99}, Figures)
    assert list_misses(figures) == ["drain_limited_runs_per_s is less than 50% of drain_runs_per_s"]


def test_percentiles_are_values_that_were_measured():
    assert take_percentiles([float(number) for number in range(200, 0, -1)]) == (101.0, 199.0)
    assert take_percentiles([7.0]) == (7.0, 7.0)


def test_a_median_has_a_sensible_number_of_digits():
    assert [take_median([1.23456]), take_median([12345.6]), take_median([1.0, 9.0, 2.0])] == [1.23, 12346, 2.0]
