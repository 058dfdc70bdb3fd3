"""Where things are that were moved: their ids name the store that they were made in, and lead on from there for ever.

An id is asked for in the store that it names (``Engine.at``). Only where nothing is found there, and there is more than one
store, is that store asked whether it sent the thing away, and where to; and so on from there. A process remembers where it
found something, so it is asked once. Each step is the word of the store that had the thing: rows leave it and the forward
is written in one transaction, so one that is asked for is found, however often it is moved meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from headrace.engine.arrivals import end_move
from headrace.engine.outcomes import BatchMissing, RunMissing
from headrace.engine.token_outcomes import TokenMissing
from headrace.ids import item_run_id
from headrace.logs import get_logger
from headrace.store.statements import query
from headrace.store.store import run_plan_on

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

R = TypeVar("R")

_HOPS: Final = 80
"""More than there are stores: what is being moved to and fro while it is asked for is followed for so long."""

_log: Final = get_logger("headrace.moves")


def is_missing(answer: Any) -> bool:
    """Whether an answer says that the store has no such thing."""
    return answer is None or isinstance(answer, RunMissing | BatchMissing | TokenMissing)


async def ask_owner(
    engine: Engine,
    value: UUID,
    ask: Callable[[Engine], Awaitable[R]],
    missed: Callable[[R], bool] = is_missing,
) -> R:
    """What the store says that has the thing of this id. ``missed`` tells from an answer that it was not there.

    With one store, and where the thing is found in the store that its id names, that is ``ask(engine.at(value))`` and
    nothing else.
    """
    place = engine.at(value)
    answer = await ask(place)
    for _ in range(_HOPS):
        if not missed(answer) or not engine.stores.others():
            return answer
        onward = await _find_next(place, value)
        if onward is None:
            return answer
        came_back = onward.key == place.key
        place = onward
        answer = await ask(place)
        if not missed(answer):
            engine.stores.remember(value, place)
        elif came_back:  # it was here at some time, and is asked for in vain: nothing of that kind has this id
            return answer
    _log.warning("a thing is not found where it is said to be", id=str(value), store=place.name)
    return answer


async def ask_owners(
    engine: Engine, values: Iterable[UUID], ask: Callable[[Engine, list[UUID]], Awaitable[Iterable[UUID]]]
) -> set[UUID]:
    """Asks the stores that have these things, each once for all that it has. Those that are nowhere are given back.

    ``ask`` says which of them the store has.
    """
    left = set(values)
    for _ in range(_HOPS):
        by_store: defaultdict[str, list[UUID]] = defaultdict(list)
        for value in sorted(left):
            by_store[engine.at(value).key].append(value)
        for key, some in by_store.items():
            left -= set(await ask(engine.stores.named(key), some))
        before = {value: engine.at(value).key for value in left}
        await find_moved(engine, left)
        if all(engine.at(value).key == key for value, key in before.items()):
            break
    return left


async def find_moved(engine: Engine, values: Iterable[UUID], *, home_connection: Any = None) -> None:
    """Remembers of all of these where they are, so that ``at`` says so: for what asks of many at once.

    Who holds a connection to home meanwhile gives it, and no other one is taken of home's pool.
    """
    if not engine.stores.others():
        return
    by_store: defaultdict[str, set[UUID]] = defaultdict(set)
    for value in values:
        by_store[engine.at(value).key].add(value)
    for _ in range(_HOPS):
        onward: defaultdict[str, set[UUID]] = defaultdict(set)
        for key, some in by_store.items():
            place = engine.stores.named(key)
            asked = sorted(some | {item_run_id(value, 0) for value in some})
            if home_connection is not None and place is place.home:
                rows = await run_plan_on(home_connection, query("find_forwards", asked))
            else:
                rows = await place.store.fetch("find_forwards", asked)
            found = {row["id"]: row["store"] for row in rows}
            for move_id in {row["move_id"] for row in rows if row["move_id"] is not None}:
                await end_move(place, move_id)
            for value in some:
                store = found.get(value) or found.get(item_run_id(value, 0))
                if store is not None and (there := engine.stores.named(store)).key != key:
                    engine.stores.remember(value, there)
                    onward[there.key].add(value)
        if not onward:
            return
        by_store = onward


async def _find_next(place: Engine, value: UUID) -> Engine | None:
    """Where a store sent something, once it has arrived there; None where it sent nothing of that id anywhere."""
    rows = await place.store.fetch("find_forward", value)
    if not rows:
        return None
    if rows[0]["move_id"] is not None:  # whoever moves it was killed, or is at it: it is done here too, and once
        await end_move(place, rows[0]["move_id"])
    return place.stores.named(rows[0]["store"])
