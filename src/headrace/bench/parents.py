"""Parents: from the call of ``trigger`` to the parent's result, children and all, on one worker."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from headrace.bench.database import empty_database
from headrace.bench.ingest import MemoryWatch
from headrace.bench.noop_tasks import iterate_batch, wait_for_batch, wait_for_each
from headrace.bench.processes import API_KEY, running_server, running_worker
from headrace.sdk import Client
from headrace.tasks import Task

_CONCURRENCY: Final = 500
_WARM_CHILDREN: Final = 20
_LIMIT: Final = 300.0


class ParentFigures(NamedTuple):
    """Seconds, a list of repeats each; MiB that the worker grew by while it held the parent of the largest batch."""

    small: list[float]
    large: list[float]
    gathered: list[float]
    iterated: float
    rss_growth: float


def measure_parents(database_url: str, small: int, large: int, largest: int, *, repeats: int) -> ParentFigures:
    """Parents of ``small`` and ``large`` batches, of ``small`` single children, and one that iterates over ``largest``."""
    asyncio.run(empty_database(database_url))
    with ExitStack() as stack:
        url, _ = stack.enter_context(running_server(database_url))
        client = stack.enter_context(Client(url, api_key=API_KEY))
        with running_worker(database_url, _CONCURRENCY):
            for parent in (wait_for_batch, wait_for_each):
                _time_parent(client, parent, _WARM_CHILDREN)
            of_small = [_time_parent(client, wait_for_batch, small) for _ in range(repeats)]
            of_large = [_time_parent(client, wait_for_batch, large) for _ in range(repeats)]
            gathered = [_time_parent(client, wait_for_each, small) for _ in range(repeats)]
        with running_worker(database_url, _CONCURRENCY) as worker:
            _time_parent(client, wait_for_batch, 1)  # it has started; what it holds at rest is what it is compared with
            with MemoryWatch(worker.pid) as watch:
                iterated = _time_parent(client, iterate_batch, largest)
    return ParentFigures(of_small, of_large, gathered, iterated, watch.growth)


def _time_parent(client: Client, parent: Task[Any, Any], children: int) -> float:
    """Seconds. Raises RuntimeError where not every child was well."""
    called = time.perf_counter()
    well = client.trigger(parent, children).result(timeout=_LIMIT)
    seconds = time.perf_counter() - called
    if well != children:
        raise RuntimeError(f"of {children} children of {parent.id} only {well} were well")
    return seconds
