"""Order keys: the runs of one are started in the order in which they came, one at a time.

A run's place is a number, taken while its key is locked to the end of the transaction: the numbers of a key are in the
order of their commits, so nobody can see a run of it and miss an earlier one (research/hindsight.md 5).
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.protocol.options import RunOptions
from headrace.store.statements import Plan, query


def hold_order_keys(environment_id: int, named: Iterable[tuple[str, RunOptions | None]]) -> Plan[None]:
    """Plan: locks the order keys of runs that are about to be made, (task, options).

    All of a transaction at once: the statement takes the locks in one order, two of them might not.
    """
    keys = {f"{environment_id}:{task}:{options.order_key}" for task, options in named if options and options.order_key}
    if keys:
        yield from query("lock_order_keys", sorted(keys))
