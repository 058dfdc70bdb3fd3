"""What a process of headrace counts, as Prometheus reads it.

One registry a process. Hot paths count by the chunk (a flush, a claim, a stream's chunk), never by the run or item. The
gauges of the queues and stores are set from a query when somebody asks (``set_queues``, ``set_stores``), so they cost
nothing in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REGISTRY: Final = CollectorRegistry()
"""All of headrace's metrics of this process."""

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""The media type of ``render_metrics``."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

_queue_depth: Final = Gauge(
    "headrace_queue_depth", "Runs that are ready and wait for a worker", ["environment", "queue"], registry=REGISTRY
)
_oldest_ready: Final = Gauge(
    "headrace_queue_oldest_ready_seconds",
    "Age of the run that has been ready the longest",
    ["environment", "queue"],
    registry=REGISTRY,
)
_store_up: Final = Gauge("headrace_store_up", "Whether a store answers", ["store"], registry=REGISTRY)
_claims: Final = Counter("headrace_claims", "Runs that this process has claimed", registry=REGISTRY)
_executing: Final = Gauge("headrace_executing_runs", "Runs that this process is executing", registry=REGISTRY)
_run_seconds: Final = Histogram(
    "headrace_run_seconds",
    "How long attempts took from their start to their end",
    ["task", "status"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
_retries: Final = Counter(
    "headrace_retries", "Attempts that failed and will be tried again", ["task"], registry=REGISTRY
)
_lease_losses: Final = Counter("headrace_lease_losses", "Leases that this process has lost", registry=REGISTRY)
_lost_results: Final = Counter(
    "headrace_lost_results", "Results that were not written because their run was not held any more", registry=REGISTRY
)
_repairs: Final = Counter(
    "headrace_repairs",
    "Runs, batches and mirrors that an audit found stuck and repaired: each is a bug",
    ["kind"],
    registry=REGISTRY,
)
_withheld_claims: Final = Counter(
    "headrace_withheld_claims",
    "Claims that took nothing under limits because a store that would have to be counted did not answer",
    registry=REGISTRY,
)
_put_downs: Final = Counter(
    "headrace_put_downs", "Runs that this process put down because they wait", registry=REGISTRY
)
_ingest_items: Final = Counter("headrace_ingest_items", "Items of batches that were stored", registry=REGISTRY)
_ingest_bytes: Final = Counter("headrace_ingest_bytes", "Payload bytes of items that were stored", registry=REGISTRY)

ProcessCollector(registry=REGISTRY)

_seconds_of = cache(_run_seconds.labels)
_retries_of = cache(_retries.labels)


def count_ingested(items: int, size: int) -> None:
    """A chunk of ``items`` items with ``size`` payload bytes in all was stored."""
    _ingest_items.inc(items)
    _ingest_bytes.inc(size)


def count_withheld_claim() -> None:
    """A claim under limits was left alone: a store that would have to be counted is away."""
    _withheld_claims.inc()


def count_claims(runs: int) -> None:
    """``runs`` runs were claimed."""
    _claims.inc(runs)


def observe_attempts(task: str, status: str, seconds: Iterable[float]) -> None:
    """Attempts of ``task`` ended with ``status``, each after so many seconds."""
    observe = _seconds_of(task, status).observe
    for value in seconds:
        observe(value)


def count_retries(task: str, runs: int) -> None:
    """``runs`` attempts of ``task`` failed and will be tried again."""
    _retries_of(task).inc(runs)


def count_lease_loss() -> None:
    """This process was silent for too long and lost a lease."""
    _lease_losses.inc()


def count_lost_results(runs: int) -> None:
    """The results of ``runs`` attempts were refused: this process no longer held them."""
    _lost_results.inc(runs)


def count_repairs(kind: str, found: int) -> None:
    """An audit had to repair ``found`` rows of a kind: run, batch, mirror or interest."""
    if found:
        _repairs.labels(kind).inc(found)


def count_put_downs(runs: int) -> None:
    """``runs`` runs were put down: they wait, and hold no slot."""
    if runs:
        _put_downs.inc(runs)


def watch_executing(read: Callable[[], int]) -> None:
    """How many runs this process is executing: ``read`` is called when somebody asks."""
    _executing.set_function(read)


def set_queues(queues: Iterable[tuple[str, str, int, float]]) -> None:
    """What waits now: (environment, queue, depth, age of the oldest in seconds). A queue not named has nothing."""
    _queue_depth.clear()
    _oldest_ready.clear()
    for environment, queue, depth, age in queues:
        _queue_depth.labels(environment, queue).set(depth)
        _oldest_ready.labels(environment, queue).set(age)


def set_stores(stores: Mapping[str, bool]) -> None:
    """Which stores there are, by name, and whether each answers."""
    _store_up.clear()
    for name, answers in stores.items():
        _store_up.labels(name).set(answers)


def render_metrics() -> bytes:
    """Everything in the text form that Prometheus scrapes, of type ``CONTENT_TYPE``."""
    return generate_latest(REGISTRY)
