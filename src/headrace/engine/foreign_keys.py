"""Keys with more than one store: the home store's row is the authority, and a key stands for one run wherever that lives.

A plan claims keys in the transaction that makes what they stand for (``headrace.engine.idempotency``), which works within
one store. Before a plan in any other store, ``reserve_keys`` claims its keys at home for the ids that the plan will give,
and writes what home says to the plan's own store, where the plan then finds it: its own id where it won. Both rows say that
the key is only *reserved*, until what it stands for was made, or seen: a plan that finds somebody else's reservation is
rolled back with KeyMovedError, and reserves anew.

What a key stands for in another store is looked at, with home's row locked, so that nobody else reserves the key meanwhile:

- It is there: the key is settled. A run that failed there has freed it.
- It is not there, and the reservation is young: whoever made it is about to make the run. It is waited for.
- It is not there, and the reservation is old, because its maker died. In the store where the run would be the key's row is
  made to stand for nobody (``VOID``). A plan there claims its keys first, so it has either made the run by now, which is
  then seen, or will find its key taken. After that home's row stands for the new id.

So a home transaction may wait for another store, never the other way round, and for ``store_patience`` at most. A store
that is away makes this raise: whether its run is there can't be known, and a duplicate would be worse than no answer.
With one store nothing of this happens.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.forwards import find_moved
from headrace.engine.idempotency import VOID, KeyClaim, claim_keys
from headrace.ids import LEGACY_STORE, store_of
from headrace.protocol.statuses import KEY_FREEING_STATUSES
from headrace.store.statements import Plan, query
from headrace.store.store import run_plan_on
from headrace.timeouts import answers_within

YOUNG_SECONDS: Final = 2.0
"""For so long what a key is reserved for may still come."""

_PAUSE: Final = 0.02
_MOST_SECONDS: Final = 36_500 * 86_400.0

_Name = tuple[str, bytes]


class _ReservedError(Exception):
    """Somebody else is about to make what a key stands for: roll back, and look again."""


class _UnheardOfError(Exception):
    """What a key stands for is to be in a store that this process does not know yet: roll back, read the registry, look again."""


@dataclass(frozen=True, slots=True)
class _Seed:
    """What a key is to stand for in a store."""

    name: _Name
    target: UUID
    fingerprint: bytes | None = None
    seconds: float = _MOST_SECONDS
    reserved: bool = False


async def reserve_keys(engine: Engine, environment_id: int, claims: Sequence[KeyClaim]) -> None:
    """To be called before a plan on ``engine``'s store claims these keys. Does nothing where there is one store.

    Raises the database's errors where a store is away that a key may stand for something in.
    """
    if not claims or not engine.stores.others():
        return None
    wanted = {(claim.scope, claim.key_hash): claim for claim in reversed(claims)}  # the first of a name counts
    ordered = {name: wanted[name] for name in sorted(wanted)}
    while True:
        try:
            return await _reserve(engine, environment_id, ordered)
        except _UnheardOfError:
            await engine.home.refresh_stores()
        except _ReservedError:
            await asyncio.sleep(_PAUSE)


async def _reserve(engine: Engine, environment_id: int, wanted: dict[_Name, KeyClaim]) -> None:
    home = engine.home
    async with home.store.connect() as connection, connection.transaction():
        if engine is not home:
            await run_plan_on(connection, claim_keys(environment_id, list(wanted.values()), settled=False))
        rows = await run_plan_on(connection, _lock_holders(environment_id, list(wanted)))
        held: dict[_Name, Any] = {(row["scope"], bytes(row["key_hash"])): row for row in rows}
        others = {
            name: row["target_id"]
            for name, row in held.items()
            if row["target_id"] != wanted[name].target_id
            and (engine is not home or store_of(row["target_id"]) != home.key or row["moved"])
        }
        young = {name for name in others if (held[name]["reserved_for"] or YOUNG_SECONDS) < YOUNG_SECONDS}
        over = await _find_over(home, connection, environment_id, others, young)
        made = [_Seed(name, target) for name, target in others.items() if name not in over]
        await run_plan_on(connection, _settle(environment_id, made))
        if engine is home:  # the plan claims them in its own transaction
            await run_plan_on(connection, _drop(environment_id, [_Seed(name, others[name]) for name in sorted(over)]))
            return
        own = [
            _Seed(name, claim.target_id, claim.fingerprint, claim.ttl, reserved=True)
            for name, claim in wanted.items()
            if name not in others or name in over
        ]
        await run_plan_on(connection, _seed(environment_id, own))
        found = [
            _Seed(name, row["target_id"], row["fingerprint"], min(row["seconds"], _MOST_SECONDS))
            for name, row in held.items()
            if name in others and name not in over
        ]
        seeds = _seed(environment_id, sorted([*own, *found], key=lambda seed: seed.name))
        await engine.stores.ask(engine.key, engine.store.run_plan(seeds))


async def _find_over(
    home: Engine, connection: Any, environment_id: int, others: dict[_Name, UUID], young: set[_Name]
) -> set[_Name]:
    """Those of ``others`` whose target holds the key no more, or was never made and now never will be."""
    if not others:
        return set()
    state: dict[UUID, Any] = {}
    await _look(home, connection, environment_id, others.values(), state)
    if absent := [target for target in others.values() if target not in state or not state[target]["found"]]:
        await answers_within(find_moved(home, absent, home_connection=connection), home.settings.store_patience)
        await _look(home, connection, environment_id, absent, state)
    freed = {
        name
        for name, target in others.items()
        if name[0].startswith("task:") and target in state and state[target]["run_status"] in KEY_FREEING_STATUSES
    }
    missing = {name: target for name, target in others.items() if target not in state}
    if missing.keys() & young:
        raise _ReservedError
    by_store: defaultdict[str, dict[_Name, UUID]] = defaultdict(dict)
    for name, target in missing.items():
        by_store[store_of(target)][name] = target
    for key, some in by_store.items():
        owner = home.stores.named(key)
        if owner is home and key not in (home.key, LEGACY_STORE) and await _has_store(connection, key):
            raise _UnheardOfError
        if owner is not home:  # where it would be made, if that is still to come: home's own row is locked here
            voiding = owner.store.run_plan(_void(environment_id, some))
            freed |= await home.stores.ask(owner.key, voiding)
        else:  # nothing is made any more in a store that is no more
            freed |= some.keys()
    return freed


async def _has_store(connection: Any, key: str) -> bool:
    """Whether the registry has a store with this key that is not removed."""
    rows = await run_plan_on(connection, query("list_stores"))
    return any(row["key"] == key and row["state"] != "removed" for row in rows)


async def _look(home: Engine, connection: Any, environment_id: int, targets: Any, state: dict[UUID, Any]) -> None:
    by_store: defaultdict[str, list[UUID]] = defaultdict(list)
    for target in targets:
        by_store[home.at(target).key].append(target)
    rows: list[Any] = []
    if own := by_store.pop(home.key, []):
        # on the connection that holds the keys: who waits for them has taken others of that pool, and may have taken all
        rows += await run_plan_on(connection, query("find_key_targets", environment_id, own))
    answers = await asyncio.gather(
        *(
            home.stores.ask(key, home.stores.named(key).store.fetch("find_key_targets", environment_id, some))
            for key, some in by_store.items()
        )
    )
    rows += [row for some in answers for row in some]
    # one that is on its way is there, however it stands
    state.update({row["id"]: row for row in rows if row["found"] or (row["moved"] and row["id"] not in state)})


def _void(environment_id: int, missing: dict[_Name, UUID]) -> Plan[set[_Name]]:
    """Plan, in the store where they would be: nothing that is not there by now can be made under these keys."""
    yield from _seed(environment_id, [_Seed(name, VOID) for name in sorted(missing)])
    # a statement of its own, with the keys' rows held: whoever held them before has committed
    rows = yield from query("find_key_targets", environment_id, list(missing.values()))
    made = {row["id"] for row in rows if row["found"] or row["moved"]}
    yield from _seed(
        environment_id, [_Seed(name, target) for name, target in sorted(missing.items()) if target in made]
    )
    return {name for name, target in missing.items() if target not in made}


def _seed(environment_id: int, seeds: Sequence[_Seed]) -> Plan[None]:
    if seeds:
        yield from query(
            "seed_keys",
            environment_id,
            *_columns(seeds),
            [seed.fingerprint for seed in seeds],
            [seed.seconds for seed in seeds],
            [seed.reserved for seed in seeds],
        )


def _settle(environment_id: int, made: Sequence[_Seed]) -> Plan[None]:
    if made:
        yield from query("settle_keys", environment_id, *_columns(made))


def _drop(environment_id: int, over: Sequence[_Seed]) -> Plan[None]:
    if over:
        yield from query("drop_keys", environment_id, *_columns(over))


def _columns(seeds: Sequence[_Seed]) -> tuple[list[str], list[bytes], list[UUID]]:
    return [seed.name[0] for seed in seeds], [seed.name[1] for seed in seeds], [seed.target for seed in seeds]


def _lock_holders(environment_id: int, names: Sequence[_Name]) -> Plan[list[Any]]:
    return (
        yield from query(
            "lock_key_holders", environment_id, [scope for scope, _ in names], [key_hash for _, key_hash in names]
        )
    )
