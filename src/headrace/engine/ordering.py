"""Order keys: the runs of one are started in the order in which they came, one at a time.

A run's place is a number, taken while its key is locked to the end of the transaction: the numbers of a key are in the
order of their commits, so nobody can see a run of it and miss an earlier one (research/hindsight.md 5).
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.ids import HOME_STORE
from headrace.protocol.options import RunOptions
from headrace.store.statements import Plan, query


class OrderRefusedError(ValueError):
    """A run of an order key was to be made where those of its key are not: its place in their line can't be kept."""


def hold_order_keys(
    environment_id: int, named: Iterable[tuple[str, RunOptions | None]], store: str = HOME_STORE
) -> Plan[None]:
    """Plan: locks the order keys of runs that are about to be made in a store, (task, options).

    All of a transaction at once: the statement takes the locks in one order, two of them might not. Raises OrderRefusedError
    in another store than home (decision 0014).
    """
    keys = {f"{environment_id}:{task}:{options.order_key}" for task, options in named if options and options.order_key}
    if keys and store != HOME_STORE:
        raise OrderRefusedError(
            "orderKey: all runs of a key are in the home store, where they stand in one line, and this one would be in another "
            "store. A run with an order key must not have a parent that lives elsewhere (trigger it from outside, or give the "
            'root an order key, so that its tree is at home); a batch is made at home with "ordered": true.'
        )
    if keys:
        yield from query("lock_order_keys", sorted(keys))
