"""The figures: medians of repeats, all of one run, and the floors that they are held to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

import msgspec


class Figures(msgspec.Struct, kw_only=True):
    """What ``headrace bench --json`` prints. Rates are rows, runs or items a second; times are in milliseconds
    (``_ms``) or seconds (``_s``), memory is in MiB.
    """

    unnest_rows_per_s: float
    copy_rows_per_s: float
    bulk_trigger_runs_per_s: float
    ingest_http_items_per_s: float
    ingest_rss_growth_mib: float
    drain_runs_per_s: float
    start_p50_ms: float
    start_p99_ms: float
    offload_speedup: float
    parent_1000_s: float
    parent_10000_s: float
    parent_gather_1000_s: float
    parent_iterate_100000_s: float
    parent_iterate_100000_rss_growth_mib: float
    resume_p50_ms: float
    resume_p99_ms: float
    suspended_100000_rss_mib: float
    suspended_100000_rss_growth_mib: float
    suspended_100000_queries_per_worker_and_s: float
    suspended_100000_queries_with_server_per_s: float
    drain_limited_runs_per_s: float
    claim_p95_ms: float
    claim_keyed_p95_ms: float
    keyed_triggers_per_s: float


FLOORS: Final = {
    "bulk_trigger_runs_per_s": 30_000.0,
    "ingest_http_items_per_s": 20_000.0,
    "drain_runs_per_s": 6_000.0,
    "offload_speedup": 8.0,
}
"""At least this, on two cores with PostgreSQL on the same machine."""

CEILINGS: Final = {
    "start_p50_ms": 5.0,
    "start_p99_ms": 15.0,
    "ingest_rss_growth_mib": 150.0,
    "parent_1000_s": 0.5,
    "parent_10000_s": 3.0,
    "parent_iterate_100000_rss_growth_mib": 32.0,
    "resume_p50_ms": 10.0,
    "suspended_100000_rss_growth_mib": 50.0,
    "suspended_100000_queries_per_worker_and_s": 1.0,
    "claim_p95_ms": 5.0,
    "claim_keyed_p95_ms": 5.0,
}
"""At most this."""

INGEST_SHARE: Final = 0.25
"""Of the machine's own rate of UNNEST inserts, what HTTP ingest has to reach at least."""

LIMITED_SHARE: Final = 0.5
"""Of the drain without limits and keys, what one with a limit and 1,000 keys has to reach at least."""


def take_median(values: Sequence[float]) -> float:
    """The median, to a sensible number of digits."""
    middle = statistics.median(values)
    return round(middle) if middle >= 100 else round(middle, 2)


def take_percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def list_misses(figures: Figures) -> list[str]:
    """Which floors are missed, in words."""
    values = msgspec.structs.asdict(figures)
    missed = [f"{name} is {values[name]:g}, below {floor:g}" for name, floor in FLOORS.items() if values[name] < floor]
    missed += [f"{name} is {values[name]:g}, above {most:g}" for name, most in CEILINGS.items() if values[name] > most]
    if figures.ingest_http_items_per_s < INGEST_SHARE * figures.unnest_rows_per_s:
        missed.append(f"ingest_http_items_per_s is less than {INGEST_SHARE:.0%} of unnest_rows_per_s")
    if figures.drain_limited_runs_per_s < LIMITED_SHARE * figures.drain_runs_per_s:
        missed.append(f"drain_limited_runs_per_s is less than {LIMITED_SHARE:.0%} of drain_runs_per_s")
    return missed
