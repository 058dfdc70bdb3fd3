"""The model of many stores: what follows from it by hand, what it conserves, and what can only get better with more."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from benchmarks.scale_page import PAGE, write_tables
from benchmarks.stores_model import (
    CONNECTIONS,
    HOME,
    MOST_STORES,
    REGISTRY_READS_PER_S,
    SERVER,
    SLOTS,
    STORE,
    WORKER,
    Figures,
    Fleet,
    count_connections,
    find_largest_cell,
    find_limits,
    list_parts,
    predict_shared_drain,
    simulate,
    size_fleet,
    split_into_cells,
)
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine import engine as engine_module
from headrace.settings import Settings

# Round numbers, so that results can be worked out by hand: a run's life is 1/10,000 s of a store.
ROUND = Figures(
    cores=2,
    drain_runs_per_s=12_500,
    drain_others_cores=0,
    drain_worker_cpu_us=50,
    drain_store_cpu_us=50,
    ingest_items_per_s=50_000,
    ingest_server_cpu_us=10,
    ingest_store_cpu_us=10,
    idle_worker_cpu_ms_per_s=0,
    idle_worker_store_cpu_ms_per_s=0,
    idle_server_cpu_ms_per_s=0,
    idle_server_store_cpu_ms_per_s=0,
    read_client_cpu_us=0,
    read_store_cpu_us=0,
    key_claim_store_cpu_us=400,
)
PLENTY = Fleet(stores=1, workers=1_000, servers=1_000, max_connections=1_000_000)
FLEETS = st.builds(
    Fleet,
    stores=st.integers(1, 12),
    workers=st.integers(1, 40),
    servers=st.integers(1, 8),
    keyed=st.sampled_from([0.0, 0.1, 1.0]),
    home_weight=st.sampled_from([0.5, 1.0, 3.0]),
    run_seconds=st.sampled_from([0.0, 0.01]),
    max_connections=st.sampled_from([50, 10_000]),
)
BUSY = replace(
    ROUND,
    idle_worker_cpu_ms_per_s=2,
    idle_worker_store_cpu_ms_per_s=3,
    idle_server_cpu_ms_per_s=2,
    idle_server_store_cpu_ms_per_s=3,
    read_client_cpu_us=100,
    read_store_cpu_us=50,
)


@pytest.mark.parametrize("stores", [1, 2, 4, 10, 36])
def test_stores_alone_carry_as_many_times_one_of_them(stores):
    limits = find_limits(ROUND, replace(PLENTY, stores=stores))
    assert limits.runs_per_s == pytest.approx(stores * 10_000)
    assert limits.first in {HOME, STORE}


def test_home_that_claims_all_keys_is_full_first():
    # of a run, home bears a tenth of its life, and of nine in ten the claim of its key: 400 us of two cores
    limits = find_limits(ROUND, replace(PLENTY, stores=10, keyed=1.0))
    assert limits.first == HOME
    assert limits.runs_per_s == pytest.approx(1 / (1 / 100_000 + 0.9 / 5_000))


def test_home_without_runs_of_its_own_claims_as_many_keys_as_it_can():
    limits = find_limits(ROUND, replace(PLENTY, stores=10, keyed=1.0, home_weight=0.0))
    assert limits.runs_per_s == pytest.approx(5_000)


def test_one_store_claims_keys_with_the_runs():
    assert find_limits(ROUND, replace(PLENTY, keyed=1.0)).runs_per_s == pytest.approx(10_000)


def test_a_store_of_more_weight_is_full_before_the_others():
    # home has three of twelve parts
    limits = find_limits(ROUND, replace(PLENTY, stores=10, home_weight=3.0))
    assert limits.first == HOME
    assert limits.runs_per_s == pytest.approx(10_000 * 12 / 3)


@pytest.mark.parametrize(
    ("fleet", "first", "rate"),
    [
        (replace(PLENTY, stores=10, workers=2), WORKER, 2 * 20_000),
        (replace(PLENTY, stores=36, servers=3), SERVER, 3 * 100_000),
        (replace(PLENTY, stores=10, workers=50, run_seconds=1.0), SLOTS, 50 * 100),
        (replace(PLENTY, stores=10, max_connections=21_999), CONNECTIONS, 0),
        (replace(PLENTY, stores=10, max_connections=22_000), HOME, 100_000),
        (replace(PLENTY, stores=10, max_connections=2_050, pooled=True), HOME, 100_000),
        (replace(PLENTY, stores=10, max_connections=2_049, pooled=True), CONNECTIONS, 0),
    ],
)
def test_each_part_can_be_the_one_that_is_full(fleet, first, rate):
    limits = find_limits(ROUND, fleet)
    assert limits.runs_per_s == pytest.approx(rate)
    assert limits.first == first


def test_processes_at_rest_take_of_every_store_and_stores_of_every_process():
    figures = replace(
        ROUND,
        idle_worker_store_cpu_ms_per_s=10,
        idle_worker_cpu_ms_per_s=10,
        idle_server_store_cpu_ms_per_s=5,
        idle_server_cpu_ms_per_s=20,
    )
    fleet = replace(PLENTY, stores=20, workers=30, servers=20, store_cores=2)
    parts = {part.name: part for part in list_parts(figures, fleet)}
    assert parts[STORE].fixed == pytest.approx((30 * 0.010 + 20 * 0.005) / 2)
    assert (parts[WORKER].fixed, parts[SERVER].fixed) == (pytest.approx(20 * 0.010), pytest.approx(20 * 0.020))
    assert find_limits(figures, fleet).runs_per_s == pytest.approx(20 * 10_000 * 0.8)


def test_a_process_with_more_stores_than_it_can_listen_to_does_nothing():
    figures = replace(ROUND, idle_worker_cpu_ms_per_s=50)
    limits = find_limits(figures, replace(PLENTY, stores=20))
    assert (limits.runs_per_s, limits.first) == (0, WORKER)


@given(FLEETS)
def test_what_is_full_first_is_full_and_nothing_is_fuller(fleet):
    limits = find_limits(BUSY, fleet)
    used = {part.name: part.used_at(limits.runs_per_s) for part in limits.parts}
    if limits.runs_per_s:
        assert used[limits.first] == pytest.approx(1)
        assert max(used.values()) <= 1 + 1e-9
    else:
        assert used[limits.first] >= 1


@given(
    FLEETS, st.sampled_from([("drain_runs_per_s", 1.5), ("ingest_items_per_s", 1.5), ("key_claim_store_cpu_us", 0.5)])
)
def test_a_faster_store_never_carries_less(fleet, change):
    name, factor = change
    faster = replace(BUSY, **{name: getattr(BUSY, name) * factor})
    assert find_limits(faster, fleet).runs_per_s >= find_limits(BUSY, fleet).runs_per_s


@given(FLEETS)
def test_processes_that_cost_nothing_at_rest_never_carry_less_when_there_are_more(fleet):
    many = replace(fleet, max_connections=10**9)
    more = replace(many, workers=many.workers + 1, servers=many.servers + 1)
    assert find_limits(ROUND, more).runs_per_s >= find_limits(ROUND, many).runs_per_s


@given(FLEETS)
def test_more_stores_never_carry_less_where_connections_cost_nothing(fleet):
    many = replace(fleet, max_connections=10**9, keyed=0.0)
    more = replace(many, stores=many.stores + 1)
    assert find_limits(ROUND, more).runs_per_s >= find_limits(ROUND, many).runs_per_s


@given(FLEETS)
def test_a_sized_fleet_is_held_up_by_its_stores(fleet):
    sized = size_fleet(BUSY, replace(fleet, max_connections=10**9))
    assert find_limits(BUSY, sized).first in {HOME, STORE}


@given(FLEETS, st.floats(0, 200_000), st.sampled_from([None, {0: (0.3, 0.9)}, {1: (0.2, 3.0)}]))
def test_no_run_is_lost_or_made_by_the_simulation(fleet, offered, away):
    done = 0
    for tick in simulate(BUSY, fleet, offered_per_s=offered, seconds=1.5, away=away):
        assert tick.arrived == tick.claiming + tick.storing + sum(tick.ready) + tick.done
        assert min(tick.claiming, tick.storing, *tick.ready) >= 0
        assert tick.done >= done
        done = tick.done
    assert tick.arrived == pytest.approx(offered * 1.5, abs=1.5)


@pytest.mark.parametrize(
    "fleet",
    [
        replace(PLENTY, stores=1),
        replace(PLENTY, stores=4),
        replace(PLENTY, stores=4, keyed=0.2),
        replace(PLENTY, stores=4, home_weight=3.0),
        replace(PLENTY, stores=4, workers=1),
        replace(PLENTY, stores=4, workers=20, run_seconds=1.0),
    ],
)
def test_the_simulation_carries_what_the_law_of_utilisation_says_and_no_more(fleet):
    most = find_limits(ROUND, fleet).runs_per_s
    [*_, calm] = simulate(ROUND, fleet, offered_per_s=most * 0.98, seconds=20)
    assert calm.done == pytest.approx(calm.arrived, rel=0.01)
    early, *_, late = simulate(ROUND, fleet, offered_per_s=most * 1.1, seconds=20)[99:]
    assert late.arrived - late.done > 1.8 * (early.arrived - early.done) > 0  # it grows for ever


def test_a_fleet_that_is_full_before_the_first_run_drains_nothing():
    fleet = replace(PLENTY, stores=10, max_connections=100)
    [*_, last] = simulate(ROUND, fleet, offered_per_s=1_000, seconds=2)
    assert (last.arrived, last.done) == (2_000, 0)


def test_a_store_that_is_away_keeps_what_it_has_and_gets_nothing_new():
    fleet = replace(PLENTY, stores=3)
    ticks = simulate(ROUND, fleet, offered_per_s=33_000, seconds=20, away={2: (5.0, 15.0)})
    at = {round(tick.seconds, 1): tick for tick in ticks}
    assert at[15.0].ready[2] == at[5.0].ready[2] > 0
    # its share goes to the others, which were full before
    grown = [after - before for before, after in zip(at[5.0].ready, at[15.0].ready, strict=True)]
    assert grown[0] == pytest.approx(grown[1], rel=0.01)
    assert grown[0] > 50_000
    assert ticks[-1].ready[2] != at[15.0].ready[2]


def test_keys_wait_for_home_and_the_rest_goes_on():
    fleet = replace(PLENTY, stores=3, keyed=0.5)
    ticks = simulate(ROUND, fleet, offered_per_s=4_000, seconds=10, away={0: (2.0, 6.0)})
    at = {round(tick.seconds, 1): tick for tick in ticks}
    # half of them are triggered one by one, and two in three of those are put elsewhere
    assert at[6.0].claiming == pytest.approx(4 * 4_000 / 3, rel=0.01)
    assert at[6.0].done == pytest.approx(at[2.0].done + 4 * 4_000 * 2 / 3, rel=0.05)
    assert (ticks[-1].claiming, ticks[-1].done) == (0, ticks[-1].arrived)


@given(st.integers(1, 5_000), st.integers(1, MOST_STORES))
def test_cells_hold_every_store_once_and_none_too_many(stores, most):
    cells = split_into_cells(stores, most)
    assert sum(cells) == stores
    assert len(cells) == math.ceil(stores / most)
    assert max(cells) <= most
    assert max(cells) - min(cells) <= 1


def test_the_largest_cell_fits_and_the_next_does_not():
    fleet = replace(PLENTY, run_seconds=1.0, max_connections=4_000)
    most = find_largest_cell(ROUND, fleet)
    assert 1 < most < MOST_STORES
    fits, fits_not = (size_fleet(ROUND, replace(fleet, stores=most + more)) for more in (0, 1))
    assert count_connections(fits) <= 4_000 < count_connections(fits_not)


@pytest.mark.parametrize(
    ("stores", "others", "rate"), [(1, 0, 12_500), (2, 0, 20_000), (4, 0, 20_000), (1, 1, 10_000), (4, 1, 10_000)]
)
def test_stores_that_share_cores_drain_what_the_cores_do(stores, others, rate):
    assert predict_shared_drain(ROUND, stores, others_cores=others) == pytest.approx(rate)


def test_one_worker_drains_no_more_than_its_core_does():
    figures = replace(ROUND, cores=8, drain_worker_cpu_us=50)
    assert predict_shared_drain(figures, 4, workers=1) == pytest.approx(20_000)
    assert predict_shared_drain(figures, 4) == pytest.approx(50_000)


def test_the_model_reads_the_registry_as_often_as_the_engine_does():
    assert 1 / REGISTRY_READS_PER_S == engine_module._REFRESH_SECONDS


def test_the_model_has_the_defaults_of_the_settings():
    settings, fleet = Settings(), PLENTY
    assert (fleet.pool_size, fleet.concurrency) == (settings.pool_size, settings.concurrency)


def test_the_tables_of_the_page_are_what_the_model_makes_of_the_figures():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table: ") == 8
    assert page == write_tables(page), "run: python -m benchmarks.scale_page"


def test_drains_that_were_measured_stand_beside_what_was_predicted(tmp_path):
    drains = [
        {"stores": stores, "runs_per_s": rate, "headrace_cpu_us": 50, "postgres_cpu_us": 50, "others_cores": 0.0}
        for stores, rate in [(1, 12_500), (1, 12_000), (1, 13_000), (2, 16_000)]
    ]
    figures = tmp_path / "stores.json"
    figures.write_text(json.dumps({"figures": asdict(ROUND), "drains": drains}), encoding="utf-8")
    written = write_tables("<!-- table: check -->\n<!-- end -->", figures)
    rows = [row.split("|")[3:6] for row in written.splitlines() if row.startswith(("| 1 |", "| 2 |"))]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["12,500", "12,500", "+0%"],
        ["16,000", "20,000", "+25%"],
    ]
