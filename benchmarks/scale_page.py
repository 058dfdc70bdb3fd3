"""The tables of docs/explanation/scale.md, from the figures that were measured.

python -m benchmarks.scale_page           # writes them into the page, after benchmarks.stores_local
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks.stores_model import (
    FIGURES,
    HOME,
    MOST_STORES,
    STORE,
    WORKER,
    Figures,
    Fleet,
    find_limits,
    format_table,
    list_parts,
    predict_shared_drain,
    read_figures,
)

PAGE: Final = Path(__file__).parent.parent / "docs" / "explanation" / "scale.md"

_STORES: Final = (1, 2, 4, 10, 100, 1_000)
_PLACE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ONE: Final = Fleet(stores=1, workers=1, servers=1)
_UNMEASURED: Final = (
    "The measure needs a machine that does nothing else, and there was none when this page was written: the table comes with\n"
    "the next run of the two commands above on one."
)


def write_tables(page: str, figures_path: Path = FIGURES) -> str:
    """The page with its tables made anew."""
    told = json.loads(figures_path.read_text(encoding="utf-8"))
    makers = _list_makers(read_figures(figures_path), told["drains"])
    return _PLACE.sub(lambda found: f"{found[1]}\n{makers[found[2]]()}\n\n{found[3]}", page)


def _list_makers(figures: Figures, drains: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[], str]]:
    second = replace(_ONE, run_seconds=1.0, pool_size=2, max_connections=1_000)
    return {
        "figures": lambda: _tell_figures(figures),
        "check": lambda: _tell_check(figures, drains),
        "noop": lambda: format_table(figures, _ONE, _STORES),
        "second": lambda: format_table(figures, second, _STORES),
        "second_many": lambda: format_table(figures, replace(second, concurrency=1_000), _STORES),
        "second_pooled": lambda: format_table(figures, replace(second, pooled=True), _STORES),
        "costs": lambda: _tell_costs(figures),
        "single": lambda: _tell_single(figures),
    }


def _tell_figures(figures: Figures) -> str:
    rows = [
        ("One store drains, runs that do nothing, one worker", f"{figures.drain_runs_per_s:,.0f} runs/s"),
        (
            "... CPU time of a run",
            f"{figures.drain_worker_cpu_us:.0f} µs worker, {figures.drain_store_cpu_us:.0f} µs PostgreSQL",
        ),
        ("One store takes in, by one stream over HTTP", f"{figures.ingest_items_per_s:,.0f} items/s"),
        (
            "... CPU time of an item",
            f"{figures.ingest_server_cpu_us:.0f} µs server, {figures.ingest_store_cpu_us:.0f} µs PostgreSQL",
        ),
        (
            "A worker at rest, a second and store",
            f"{figures.idle_worker_cpu_ms_per_s:.1f} ms of its own CPU time, {figures.idle_worker_store_cpu_ms_per_s:.1f} ms of PostgreSQL's",
        ),
        (
            "A server at rest, a second and store",
            f"{figures.idle_server_cpu_ms_per_s:.1f} ms, {figures.idle_server_store_cpu_ms_per_s:.1f} ms",
        ),
        (
            "Home, for a run that is triggered singly and lives elsewhere",
            f"{figures.key_claim_store_cpu_us:.0f} µs of PostgreSQL",
        ),
        ("A small read", f"{figures.read_client_cpu_us:.0f} µs client, {figures.read_store_cpu_us:.0f} µs PostgreSQL"),
    ]
    return "\n".join(["| What | Measured |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)])


def _tell_check(figures: Figures, drains: Sequence[Mapping[str, Any]]) -> str:
    if not drains:
        return _UNMEASURED
    lines = [
        "| Stores | Cores that others used | Measured, runs/s | Predicted | Error | CPU time of a run |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for count in sorted({drain["stores"] for drain in drains}):
        of_count = [drain for drain in drains if drain["stores"] == count]
        rate = statistics.median(drain["runs_per_s"] for drain in of_count)
        others = statistics.median(drain["others_cores"] for drain in of_count)
        cost = statistics.median(drain["headrace_cpu_us"] + drain["postgres_cpu_us"] for drain in of_count)
        predicted = predict_shared_drain(figures, count, others_cores=others)
        lines.append(
            f"| {count} | {others:.2f} | {rate:,.0f} | {predicted:,.0f} | {predicted / rate - 1:+.0%} | {cost:.0f} µs |"
        )
    return "\n".join(lines)


def _tell_costs(figures: Figures) -> str:
    lines = [
        "| Stores | Workers | Servers | Of a worker's core | Of a store with two cores | Of home, which is read for the registry too |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for stores, workers, servers in ((2, 10, 2), (10, 100, 5), (MOST_STORES, 100, 10), (MOST_STORES, 500, 20)):
        parts = {
            part.name: part
            for part in list_parts(figures, replace(_ONE, stores=stores, workers=workers, servers=servers))
        }
        lines.append(
            f"| {stores} | {workers} | {servers} | {parts[WORKER].fixed:.1%} | {parts[STORE].fixed:.1%} | {parts[HOME].fixed:.1%} |"
        )
    return "\n".join(lines)


def _tell_single(figures: Figures) -> str:
    lines = [
        "| Stores | Home's cores | Single triggers/s, home being a store as the others | Home having no runs of its own |",
        "|---:|---:|---:|---:|",
    ]
    for stores, cores in ((2, 2), (4, 2), (10, 2), (10, 16), (MOST_STORES, 16)):
        # enough of everything that is not home; a store is counted on for what two cores were seen to do, home's claims by its cores
        fleet = replace(
            _ONE,
            stores=stores,
            workers=10**6,
            servers=10**6,
            keyed=1.0,
            store_cores=float(cores),
            max_connections=10**9,
        )
        quiet = replace(
            figures, idle_worker_store_cpu_ms_per_s=0, idle_server_store_cpu_ms_per_s=0, read_store_cpu_us=0
        )
        rates = [find_limits(quiet, replace(fleet, home_weight=weight)).runs_per_s for weight in (1.0, 0.0)]
        lines.append(f"| {stores} | {cores} | {rates[0]:,.0f} | {rates[1]:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(write_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
