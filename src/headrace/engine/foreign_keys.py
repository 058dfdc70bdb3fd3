"""Keys with more than one store: the home store's row is the authority, and a key stands for one run wherever that lives.

A plan claims keys in the transaction that makes what they stand for (``headrace.engine.idempotency``), which works within
one store. Before a plan in any other store, ``reserve_keys`` claims its keys at home for the ids that the plan will give,
and writes what home says to the plan's own store, where the plan then finds it: its own id where it won. What a key
stands for in another store is looked at, because runs that failed there have freed it, and because a process may have
died between the two steps. Then nothing is there, and the key is taken from it, in this order:

1. home's row is locked, so nobody else does the same, nor reserves the key meanwhile;
2. in the store where the missing run would be, the key's row is made to stand for nobody (``VOID``). A plan there claims
   its keys first, so it has either made the run by now, which is then seen, or will find its key taken: KeyMovedError,
   after which it reserves the key anew;
3. home's row stands for the new id, and commits.

So a home transaction may wait for another store, never the other way round, and for ``store_patience`` at most. A store
that is away makes this raise: whether its run is there can't be known, and a duplicate would be worse than no answer.
With one store nothing of this happens.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.idempotency import VOID, KeyClaim, claim_keys
from headrace.protocol.statuses import KEY_FREEING_STATUSES
from headrace.store.statements import Plan, query
from headrace.store.store import run_plan_on

_Name = tuple[str, bytes]
_MOST_SECONDS: Final = 36_500 * 86_400.0


async def reserve_keys(engine: Engine, environment_id: int, claims: Sequence[KeyClaim]) -> None:
    """To be called before a plan on ``engine``'s store claims these keys. Does nothing where there is one store.

    Raises the database's errors where a store is away that a key may stand for something in.
    """
    if not claims or not engine.stores.others():
        return
    wanted = {(claim.scope, claim.key_hash): claim for claim in reversed(claims)}  # the first of a name counts
    ordered = [wanted[name] for name in sorted(wanted)]
    home = engine.home
    async with (
        asyncio.timeout(engine.settings.store_patience),
        home.store.connect() as connection,
        connection.transaction(),
    ):
        if engine is not home:
            await run_plan_on(connection, claim_keys(environment_id, ordered))
        rows = await run_plan_on(connection, _lock_holders(environment_id, list(wanted)))
        held: dict[_Name, Any] = {(row["scope"], bytes(row["key_hash"])): row for row in rows}
        others = [
            (name, row["target_id"])
            for name, row in held.items()
            if row["target_id"] != wanted[name].target_id
            and (engine is not home or home.at(row["target_id"]) is not home)
        ]
        over = await _find_over(home, environment_id, others)
        if engine is home:
            await run_plan_on(connection, _drop(environment_id, over))  # the plan claims them in its own transaction
            return
        seeds: list[tuple[_Name, UUID, bytes | None, float]] = []
        taken = {name for name, _ in over}
        await run_plan_on(connection, _retake(environment_id, [wanted[name] for name in sorted(taken)]))
        for name in sorted(wanted):
            claim, row = wanted[name], held[name]
            if name in taken:
                seeds.append((name, claim.target_id, claim.fingerprint, claim.ttl))
            else:
                seeds.append((name, row["target_id"], row["fingerprint"], min(row["seconds"], _MOST_SECONDS)))
        await engine.store.run_plan(_seed(environment_id, seeds))


async def _find_over(
    home: Engine, environment_id: int, others: Sequence[tuple[_Name, UUID]]
) -> list[tuple[_Name, UUID]]:
    """Those of ``others`` whose target holds the key no more, or was never made and now never will be."""
    by_store: defaultdict[str, list[tuple[_Name, UUID]]] = defaultdict(list)
    for name, target in others:
        by_store[home.at(target).key].append((name, target))
    found = await asyncio.gather(
        *(_find_over_in(home.at(some[0][1]), environment_id, some) for some in by_store.values())
    )
    return [one for some in found for one in some]


async def _find_over_in(
    owner: Engine, environment_id: int, held: Sequence[tuple[_Name, UUID]]
) -> list[tuple[_Name, UUID]]:
    absent, freed = await _look(owner, environment_id, held)
    if absent and owner is not owner.home:  # at home a key is claimed in the transaction that makes its run
        over = await owner.store.run_plan(_void(environment_id, absent))
        return freed + over
    return freed + absent


async def _look(
    owner: Engine, environment_id: int, held: Sequence[tuple[_Name, UUID]]
) -> tuple[list[tuple[_Name, UUID]], list[tuple[_Name, UUID]]]:
    rows = await owner.store.fetch("find_key_targets", environment_id, [target for _, target in held])
    return _sort_targets(held, rows)


def _sort_targets(
    held: Sequence[tuple[_Name, UUID]], rows: Sequence[Any]
) -> tuple[list[tuple[_Name, UUID]], list[tuple[_Name, UUID]]]:
    state = {row["id"]: row for row in rows}
    absent = [one for one in held if not state[one[1]]["found"]]
    freed = [
        (name, target)
        for name, target in held
        if name[0].startswith("task:") and state[target]["run_status"] in KEY_FREEING_STATUSES
    ]
    return absent, freed


def _void(environment_id: int, absent: Sequence[tuple[_Name, UUID]]) -> Plan[list[tuple[_Name, UUID]]]:
    """Plan, in the store where they would be: nothing that is not there by now can be made under these keys."""
    ordered = sorted(absent)
    yield from _seed(environment_id, [(name, VOID, None, _MOST_SECONDS) for name, _ in ordered])
    # a statement of its own, with the keys' rows held: whoever held them before has committed
    rows = yield from query("find_key_targets", environment_id, [target for _, target in ordered])
    made = {row["id"] for row in rows if row["found"]}
    back = [(name, target, None, _MOST_SECONDS) for name, target in ordered if target in made]
    if back:
        yield from _seed(environment_id, back)
    return [(name, target) for name, target in ordered if target not in made]


def _seed(environment_id: int, seeds: Sequence[tuple[_Name, UUID, bytes | None, float]]) -> Plan[None]:
    if seeds:
        yield from query(
            "seed_keys",
            environment_id,
            [name[0] for name, _, _, _ in seeds],
            [name[1] for name, _, _, _ in seeds],
            [target for _, target, _, _ in seeds],
            [fingerprint for _, _, fingerprint, _ in seeds],
            [seconds for _, _, _, seconds in seeds],
        )


def _retake(environment_id: int, claims: Sequence[KeyClaim]) -> Plan[None]:
    yield from _seed(
        environment_id,
        [((claim.scope, claim.key_hash), claim.target_id, claim.fingerprint, claim.ttl) for claim in claims],
    )


def _drop(environment_id: int, over: Sequence[tuple[_Name, UUID]]) -> Plan[None]:
    if over:
        yield from query(
            "drop_keys",
            environment_id,
            [name[0] for name, _ in over],
            [name[1] for name, _ in over],
            [target for _, target in over],
        )


def _lock_holders(environment_id: int, names: Sequence[_Name]) -> Plan[list[Any]]:
    return (
        yield from query(
            "lock_key_holders", environment_id, [scope for scope, _ in names], [key_hash for _, key_hash in names]
        )
    )
