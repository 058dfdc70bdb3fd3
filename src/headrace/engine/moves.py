"""Moves: a tree of runs goes from one store to another while it lives, and its ids lead there for ever.

A tree is what depends on each other: a run that nobody triggered as a child, or a batch that no run made with its items; all
runs and batches below; their journals, attempts and tokens, and the tokens of nobody that only they have waited for. Large
payloads lie in an object store that all stores share: what moves is where they lie.

A move is three transactions, each in one database, and none is open while another decides anything:

1. **Cut**, in the source. The rows of the tree are locked (nobody is waited for; whoever is writing to it comes first, and
   it is tried again) and taken out of their tables into ``departures``; the ids of the tree go to ``forwards``. That commit
   is the switch: before it the tree is the source's, after it the target's. There is nothing to fence, because there is
   nothing left: no claim, end, cancel, deadline or list of the source can meet any of it.
2. **Landing**, in the target. The rows are written to the same tables, lanes and versions by their names, and the move to
   ``arrivals``, which makes it happen once. What waited there for nothing is claimed from that commit on.
3. **End**, in the source: ``departures`` and the row of the move are deleted. The forwards stay.

So a row is in one place at any time, and a process that is killed leaves one of three states: not cut, and the move is wanted
still; cut, and the tree is in ``departures``; landed, and nothing is left to do but to forget. The sweep of the source takes
each of them on, and so does whoever asks for something that is on its way (``forwards.ask_owner``): he lands it himself and
then gets his answer. A tree that is on its way is in no list, for as long as its rows take to be written.

What can't be cut stays wanted, and is tried again by the sweep: a tree in which a run executes, until it waits or ends, and
until then no other run of it is started (``parkings``); one that waits for a run or token of another tree, or is waited for by
one, in whatever store, until that has ended; runs in the line of an order key, or delayed under a debounce key, until they have
ended or are due; a batch until it is sealed; and all that a bulk action under way may be for, until it has been dealt with. Of
what has ended, whoever was told of it keeps a mirror (``mirrors``), on both sides, so that a tree can be told again where it is
now.

Keys stand for ids, so they stay as they are. A tree may move any number of times, back too: each store says where it sent a
thing, and a store that a tree comes back to says that it is here. A store that is taken out of use leaves its forwards to
home, which is asked where a store is not known.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from headrace.engine.arrivals import end_move
from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owner
from headrace.engine.parkings import let_tree_go, park_tree, release_runs
from headrace.errors import ConfigurationError
from headrace.ids import first_id_at, format_batch_id, format_run_id, format_token_id
from headrace.logs import get_logger
from headrace.store.statements import Plan, Record, query
from headrace.store.store import DATABASE_ERRORS

UnitKind = Literal["run", "batch", "token"]

_BULK: Final = "a bulk action is under way, which its runs may be meant by"

_PAGE: Final = 500
_TRIED: Final = 100
_ALL: Final = 2**31 - 1
_ROUNDS: Final = 3
_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)

_log: Final = get_logger("headrace.moves")


@dataclass(frozen=True, slots=True)
class Unit:
    """What moves as one, and the engine of the store that has it."""

    environment_id: int
    kind: UnitKind
    id: UUID

    @property
    def spelt(self) -> str:
        """Its id, as it stands on the wire."""
        return {"run": format_run_id, "batch": format_batch_id, "token": format_token_id}[self.kind](self.id)


@dataclass(frozen=True, slots=True)
class TreeMoved:
    """The tree is in the other store."""

    unit: Unit
    source: str


@dataclass(frozen=True, slots=True)
class MoveHeldUp:
    """The tree goes as soon as it can, by itself: this is why it could not go now."""

    unit: Unit
    source: str
    why: str


@dataclass(frozen=True, slots=True)
class NothingToMove:
    """There is no such run, batch or token; or it is there already."""

    is_there: bool


MoveOutcome = TreeMoved | MoveHeldUp | NothingToMove


async def move_tree(engine: Engine, value: UUID, to: str) -> MoveOutcome:
    """Moves the tree that a run, batch or token is part of, now or as soon as it can go. Repeating it does nothing.

    Raises ConfigurationError where there is no store of that name, and the database's errors where one does not answer:
    then the move is finished by a sweep, or was not begun.
    """
    target = find_target(engine, to)
    found = await ask_owner(engine, value, lambda place: _find_there(place, value))
    if found is None:
        return NothingToMove(is_there=False)
    source, unit = found
    return await _move_unit(source, unit, target)


async def move_all(
    engine: Engine, source: str, to: str, *, before: datetime | None = None
) -> AsyncGenerator[TreeMoved | MoveHeldUp]:
    """Moves all trees of one store to another, those only that were begun ``before`` a time, and tells of each."""
    target, origin = find_target(engine, to), find_target(engine, source, taking=False)
    if target.key == origin.key:
        raise ConfigurationError(f"{to!r} is where they are: name another store.")
    last = first_id_at(before) if before is not None else _LAST_ID
    environments = await origin.store.fetch("list_environments")
    for environment in environments:
        place = _FIRST_ID
        while rows := await origin.store.fetch("list_units", environment["id"], place, last, _PAGE):
            for row in rows:
                place = row["id"]
                # read again: the tree that it is part of may have gone with one before it
                found = await _find_there(origin, place)
                if found is not None:
                    outcome = await _move_unit(origin, found[1], target)
                    if not isinstance(outcome, NothingToMove):
                        yield outcome


async def carry_on_moves(engine: Engine, *, tries: int = _TRIED) -> int:
    """Takes on what moves of one store are not over: finishes what has left, and lets go what can by now. How many went."""
    await release_runs(engine)
    if not engine.stores.others():
        return 0
    went = 0
    for row in await engine.store.fetch("find_moves", tries):
        unit = Unit(row["environment_id"], row["kind"], row["unit_id"])
        try:
            if row["cut"] or isinstance(
                await _try_to_cut(engine, row["id"], unit, parked_too_long=row["parked_too_long"]), TreeMoved
            ):
                await end_move(engine, row["id"])
                went += 1
        except DATABASE_ERRORS as error:
            _log.warning("a move is put off", unit=unit.spelt, error=f"{type(error).__name__}: {error}")
    return went


async def give_forwards_to_home(engine: Engine, leaving: Engine) -> None:
    """Before a store that owns nothing is taken out of use: where all went that it had is known at home from then on.

    Moves that have not left it are none, as it is empty. Repeating it does nothing.
    """
    for row in await leaving.store.fetch("find_moves", _ALL):
        if row["cut"]:
            await end_move(leaving, row["id"])
    place = _FIRST_ID
    while rows := await leaving.store.fetch("list_forwards", place, _PAGE):
        place = rows[-1]["id"]
        ids, stores = [row["id"] for row in rows], [row["store"] for row in rows]
        await engine.home.store.fetch("keep_forwards", ids, stores, leaving.key)


def find_target(engine: Engine, name: str, *, taking: bool = True) -> Engine:
    """The engine of a store by its name. Raises ConfigurationError where there is none, or where it is to take and takes nothing."""
    for record, one in zip(engine.stores.records(), engine.stores.all(), strict=True):
        if record.name == name:
            if taking and record.state != "active":
                raise ConfigurationError(f"store {name!r} is {record.state}: nothing can be moved there.")
            return one
    known = ", ".join(record.name for record in engine.stores.records())
    raise ConfigurationError(f"there is no store {name!r}. There are: {known}.")


async def _move_unit(source: Engine, unit: Unit, target: Engine) -> MoveOutcome:
    if source.key == target.key:
        return NothingToMove(is_there=True)
    [row] = await source.store.fetch("ask_move", unit.environment_id, unit.id, unit.kind, target.key)
    outcome = await _try_to_cut(source, row["id"], unit)
    if isinstance(outcome, TreeMoved):
        await end_move(source, row["id"])
    return outcome


async def _try_to_cut(source: Engine, move_id: UUID, unit: Unit, *, parked_too_long: bool = False) -> MoveOutcome:
    try:
        # its part in this store may be over and that in the target not: there it would be for the tree once more
        if await source.home.store.fetch("find_bulk_under_way", unit.environment_id):
            raise _HeldUpError(_BULK)  # noqa: TRY301 - as what holds it up within the plan
        size = await source.store.run_plan(_cut(move_id))
    except _HeldUpError as held:
        await source.store.fetch("hold_up_move", move_id, str(held))
        if held.busy and not parked_too_long:
            await park_tree(source, move_id)
        elif (parked_too_long or not held.passing) and await let_tree_go(source, move_id):
            await release_runs(source)
        return MoveHeldUp(unit, source.name, str(held))
    if size == 0:
        await source.store.fetch("drop_move", move_id)
        return NothingToMove(is_there=False)
    return TreeMoved(unit, source.name)


class _HeldUpError(Exception):
    """The tree can't go now: all that was done for it is rolled back.

    ``busy`` is one that could go if none of its runs executed; what is ``passing`` says nothing of the tree.
    """

    def __init__(self, why: str, *, busy: bool = False, passing: bool = False) -> None:
        super().__init__(why)
        self.busy = busy
        self.passing = passing


def _cut(move_id: UUID) -> Plan[int]:
    """Plan: takes the tree out of this store. How many runs, batches and tokens it had; 0 where it is not there."""
    rows = yield from query("hold_move", move_id)
    if not rows:
        found = yield from query("find_move", move_id)
        if found and not found[0]["cut"]:
            raise _HeldUpError("somebody else is moving it", passing=True)
        return 1  # by somebody else, just now
    environment_id = rows[0]["environment_id"]
    members = (move_id, environment_id, rows[0]["unit_id"], rows[0]["kind"])
    if not (yield from query("gather_members", *members)):
        return 0
    state = yield from _lock_tree(members)
    if bonds := (yield from query("find_bonds", move_id, environment_id)):
        raise _HeldUpError("; ".join(map(_describe_bond, bonds)))
    if (yield from query("find_bulk_holds", move_id, environment_id)):
        raise _HeldUpError(_BULK)
    if state["executing"]:
        raise _HeldUpError(f"{state['executing']} of its runs are executing", busy=True)
    yield from query("leave_mirrors", move_id, environment_id)
    yield from query("take_mirrors", move_id, environment_id)
    yield from query("take_tree", move_id, environment_id, rows[0]["store"])
    yield from query("cut_move", move_id)
    return state["wanted"]


def _lock_tree(members: tuple[UUID, int, UUID, str]) -> Plan[Record]:
    for _ in range(_ROUNDS):
        [state] = yield from query("lock_members", *members[:2])
        if state["executing"]:  # it can't go: what else holds it up is looked at without the rest of the locks
            return state
        if state["held"] < state["wanted"]:
            raise _HeldUpError("it is being written to", passing=True)
        # what was made between the first look and the locks; from now on nobody can make any more
        if not (yield from query("gather_members", *members)):
            return state
    raise _HeldUpError("it is growing", passing=True)


def _describe_bond(bond: Any) -> str:
    other = f" {format_run_id(bond['other'])[4:]}" if bond["other"] is not None else ""
    return f"{format_run_id(bond['id'])[4:]} {bond['what']}{other}"


async def _find_there(place: Engine, value: UUID) -> tuple[Engine, Unit] | None:
    """The tree that something is part of, where this store has it."""
    unit: Unit | None = None
    for _ in range(_ROUNDS):
        rows = await place.store.fetch("find_unit", value)
        if not rows:
            break
        [row] = rows
        unit, above = _read_unit(row, value)
        if above is None:
            break
        value = above
    return None if unit is None else (place, unit)


def _read_unit(row: Any, value: UUID) -> tuple[Unit, UUID | None]:
    """The tree, or what it is as long as nothing is found above it; and what is above it."""
    environment_id: int = row["environment_id"]
    if row["token_id"] is not None and row["run_id"] is None and row["own_batch_id"] is None:
        return Unit(environment_id, "token", value), row["token_run_id"]
    if row["root_id"] is not None:
        if row["root_batch_id"] is not None:
            return Unit(environment_id, "batch", row["root_batch_id"]), None
        return Unit(environment_id, "run", row["root_id"]), None
    if row["run_id"] is None:
        return Unit(environment_id, "batch", value), row["above_batch_id"]
    if row["batch_id"] is not None:
        return Unit(environment_id, "batch", row["batch_id"]), None
    return Unit(environment_id, "run", value), None
