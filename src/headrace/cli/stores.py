"""``headrace stores``: the databases that runs live in. Talks to the databases themselves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from headrace.cli.connection import use_engine
from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import FAILED, NOT_FOUND, OK, UNREACHABLE, USAGE, CommandError
from headrace.cli.output import err, out, print_json, print_table
from headrace.durations import parse_duration
from headrace.engine import moves, upkeep
from headrace.engine.engine import Engine
from headrace.engine.notices import STORES_CHANNEL
from headrace.engine.registry import add_store, change_store, declare_legacy, list_stores, name_new_stores, name_stores
from headrace.engine.upkeep import COUNTED, Holding, MeasuredStore
from headrace.errors import ConfigurationError
from headrace.ids import HOME_STORE, parse_batch_id, parse_run_id, parse_token_id
from headrace.store.checks import Examined, NamedStore, Problem, StoreFacts, examine_stores
from headrace.store.migrate import migrate_database
from headrace.store.places import describe_failure, describe_place
from headrace.store.router import StoreRecord
from headrace.store.store import DATABASE_ERRORS

stores_app: Final = App(name="stores", help="List, add, drain and remove the databases that runs live in.")

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LOOK: Final = 0.5
_SHOWN: Final = 10

Name = Annotated[str, Parameter(help="Name of the store", env_var="HEADRACE_STORE_NAME")]
Weight = Annotated[
    float | None,
    Parameter(
        help="Its share of new roots: with 2 it gets twice as many as one with 1, with 0 none; 1 for a new one",
        env_var="HEADRACE_STORE_WEIGHT",
    ),
]


@stores_app.command(name="list")
def list_(*, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """List all stores: their state, their share of new roots, and how many of their runs are open."""
    found = use_engine(database_url, upkeep.measure_stores)
    if json:
        print_json([_spell(one) for one in found])
        return
    shares = _share([one.record for one in found])
    print_table(
        ["name", "key", "place", "state", "weight", "new roots", "open runs", "answers"],
        [
            [
                one.record.name,
                one.record.key,
                describe_place(one.record.url) if one.record.url else None,
                f"{_spell_state(one.record)}{', legacy' if one.record.legacy else ''}",
                f"{one.record.weight:g}",
                shares.get(one.record.key),
                _count(one.holding.open_runs) if one.holding else None,
                None if one.record.state == "removed" else one.failure or "yes",
            ]
            for one in found
        ],
    )


@stores_app.command
def add(
    name: Name,
    url: Annotated[
        str,
        Parameter(
            help="Its PostgreSQL; an empty database. Best given by the variable: a command line can be seen by others",
            env_var="HEADRACE_STORE_URL",
        ),
    ],
    /,
    *,
    weight: Weight = None,
    migrate: Annotated[
        bool, Parameter(negative="", help="Make headrace's tables in it first", env_var="HEADRACE_STORE_MIGRATE")
    ] = False,
    keep_url: Annotated[
        bool,
        Parameter(
            negative="--no-keep-url",
            help="Write the URL to the registry, with its password; without that every process needs it in HEADRACE_STORES",
            env_var="HEADRACE_STORE_KEEP_URL",
        ),
    ] = True,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Check a database and add it to the stores. For a name that is there, give its database another URL."""
    if weight is not None:
        _check_weight(weight)
    if not _NAME.fullmatch(name) or name == "home":
        raise CommandError(
            f"The name is {name!r}, but must be 1 to 63 of a-z, 0-9 and -, begin with a letter, and not be home.", USAGE
        )

    record, added = use_engine(
        database_url, lambda engine: _add(engine, NamedStore(name, url), weight, migrate=migrate, keep_url=keep_url)
    )
    if json:
        print_json({**_spell(MeasuredStore(record, None)), "added": added})
        return
    place = describe_place(url)
    if not added:
        out.print(f"Store {name} was there already; its database is at {place}.", markup=False)
        return
    out.print(
        f"Store {name} is {place}, key {record.key}. New roots go there in {record.opens_in:.0f} s, when every process knows it.",
        markup=False,
    )
    if not keep_url:
        err.print(f"Every process needs its URL now: HEADRACE_STORES={name}=postgresql://...", markup=False)


@stores_app.command
def weight(
    name: Name,
    weight: Annotated[
        float,
        Parameter(help="Its share of new roots, 0 to 1000000: with 0 it gets none", env_var="HEADRACE_STORE_WEIGHT"),
    ],
    /,
    *,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Set how many of the new roots a store gets, in proportion to the others."""
    _check_weight(weight)

    async def run(engine: Engine) -> list[StoreRecord]:
        _find(await list_stores(engine), name)
        await change_store(engine, name, weight=weight)
        await _tell_processes(engine)
        return await list_stores(engine)

    records = use_engine(database_url, run)
    record = _find(records, name)
    if json:
        print_json(_spell(MeasuredStore(record, None)))
    else:
        out.print(f"Store {name} gets {_share(records).get(record.key, 'none')} of new roots.", markup=False)


@stores_app.command
def drain(
    name: Name,
    /,
    *,
    undo: Annotated[
        bool, Parameter(negative="", help="Let it take new roots again", env_var="HEADRACE_STORE_UNDO")
    ] = False,
    wait: Annotated[
        bool, Parameter(negative="", help="Wait until none of its runs is open", env_var="HEADRACE_STORE_WAIT")
    ] = False,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Give a store no new roots. What it owns goes on there, children too, until it has ended or is moved."""

    async def run(engine: Engine) -> tuple[MeasuredStore, list[StoreRecord]]:
        _find(await list_stores(engine), name)
        if undo:
            await upkeep.undo_drain(engine, name)
        else:
            await change_store(engine, name, state="draining")
        await _tell_processes(engine)
        while True:
            found = await upkeep.measure_stores(engine)
            [one] = [one for one in found if one.record.name == name]
            if undo or not wait or (one.holding is not None and one.holding.open_runs == 0):
                return one, [other.record for other in found]
            await asyncio.sleep(_LOOK)

    one, records = use_engine(database_url, run)
    if json:
        print_json(_spell(one))
        return
    if undo:
        out.print(f"Store {name} gets {_share(records).get(one.record.key, 'none')} of new roots.", markup=False)
        return
    left = (
        f"{_count(one.holding.open_runs)} of its runs are open" if one.holding else f"it does not answer: {one.failure}"
    )
    out.print(f"Store {name} gets no new roots; {left}.", markup=False)
    if not any(record.takes_roots for record in records):
        err.print("No store takes new roots now: they go to home.", markup=False)


@stores_app.command
def move(
    *,
    to: Annotated[str, Parameter(help="Name of the store to move to; it must be active", env_var="HEADRACE_STORE_TO")],
    root: Annotated[
        str | None,
        Parameter(help="Move the tree that this run, batch or token is part of", env_var="HEADRACE_STORE_ROOT"),
    ] = None,
    all_from: Annotated[
        str | None, Parameter(help="Move all trees of this store", env_var="HEADRACE_STORE_ALL_FROM")
    ] = None,
    older_than: Annotated[
        str | None,
        Parameter(
            help="Move only trees that began so long ago, such as 7d; without --all-from those of every other store",
            env_var="HEADRACE_STORE_OLDER_THAN",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Move trees of runs to another store while they live. What executes goes by itself when it next waits or ends.

    Ids stay good for ever. It may be broken off and repeated at any time: nothing is lost or doubled.
    """
    if (root is None) == (all_from is None and older_than is None):
        raise CommandError("Say what to move: --root ID, or --all-from STORE, --older-than AGE or both.", USAGE)
    if root is None:
        before = None if older_than is None else datetime.now(UTC) - timedelta(seconds=_read_age(older_than))
        tally = use_engine(database_url, lambda engine: _move_all(engine, all_from, to, before))
    else:
        tally = use_engine(database_url, lambda engine: _move_tree(engine, root, to))
    if json:
        waiting = [
            {"id": one.unit.spelt, "kind": one.unit.kind, "from": one.source, "why": one.why} for one in tally.first
        ]
        print_json({"to": to, "moved": tally.moved, "heldUp": tally.held_up, "first": waiting})
        _refuse_broken(tally)
        return
    out.print(f"{tally.moved} trees were moved to {to}.", markup=False)
    if tally.held_up:
        out.print(f"{tally.held_up} go there by themselves as soon as they can, the first of them:", markup=False)
        print_table(
            ["tree", "from", "can't go yet, because"], [[one.unit.spelt, one.source, one.why] for one in tally.first]
        )
    _refuse_broken(tally)


@stores_app.command
def remove(name: Name, /, *, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Take a store that was drained, and that owns nothing any more, out of use for ever. Its key is never given again."""
    if name == "home":
        raise CommandError(
            "home can't be removed: it has the control plane. `headrace stores drain home` gives it no runs.", USAGE
        )

    async def run(engine: Engine) -> upkeep.RemoveOutcome:
        outcome = await upkeep.remove_store(engine, name)
        await _tell_processes(engine)
        return outcome

    match use_engine(database_url, run):
        case upkeep.NoStore():
            raise CommandError(f"There is no store {name!r}. `headrace stores list` shows all of them.", NOT_FOUND)
        case upkeep.NotDraining():
            raise CommandError(f"Store {name} takes new roots. Drain it first: `headrace stores drain {name}`.", FAILED)
        case upkeep.StillOwns(holding):
            raise CommandError(
                f"Store {name} still owns {_spell_holding(holding)}. Move what it owns first: `headrace stores move --all-from "
                f"{name} --to STORE`; messages to other stores go by themselves. It was left as it was.",
                FAILED,
            )
        case upkeep.OnTheWay(trees, mail):
            raise CommandError(
                f"{trees} trees of other stores are being moved to {name}, and {mail} runs of schedules are to be made there. Wait "
                "until they are there, or move the trees elsewhere; then move all from it.",
                FAILED,
            )
        case upkeep.Removed():
            pass
    if json:
        print_json({"name": name, "state": "removed"})
    else:
        out.print(f"Store {name} is removed. Nothing of headrace is in its database any more; drop it.", markup=False)


@stores_app.command
def legacy(name: Name, /, *, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Say which store runs of another installation are imported to. Without it that is home; after an import it stays."""

    async def run(engine: Engine) -> None:
        _find(await list_stores(engine), name)
        try:
            await declare_legacy(engine, name)
        except ConfigurationError as error:
            raise CommandError(str(error), FAILED) from None
        await _tell_processes(engine)

    use_engine(database_url, run)
    if json:
        print_json({"name": name, "legacy": True})
    else:
        out.print(f"Runs are imported to {name} from now on.", markup=False)


@stores_app.command
def check(*, database_url: DatabaseUrl = None, json: Json = False) -> int:
    """Look at all stores as a start does, and say what is wrong and what to do. Exit code 1 where something is."""
    found = use_engine(database_url, _examine_known)
    bad = any(map(_is_grave, found.problems))
    if json:
        print_json({"stores": [_spell_facts(one) for one in found.facts], "problems": found.problems})
        return FAILED if bad else OK
    print_table(
        ["name", "key", "place", "PostgreSQL", "is"],
        [[one.name, one.key, one.place, one.version or None, _judge(one, found.problems)] for one in found.facts],
    )
    for problem in found.problems:
        out.print(Text(f"\n{problem.said}\n{problem.todo}"))
    return FAILED if bad else OK


@dataclass(slots=True)
class _Tally:
    """What became of trees that were to be moved."""

    moved: int = 0
    held_up: int = 0
    first: list[moves.MoveHeldUp] = field(default_factory=list[moves.MoveHeldUp])
    broken: list[str] = field(default_factory=list[str])
    """What did not answer, in words."""

    def add(self, outcome: moves.MoveOutcome) -> None:
        """Counts one."""
        match outcome:
            case moves.TreeMoved():
                self.moved += 1
            case moves.MoveHeldUp():
                self.held_up += 1
                if len(self.first) < _SHOWN:
                    self.first.append(outcome)
            case moves.NothingToMove():
                pass


async def _check_places(engine: Engine, source: str | None, to: str) -> None:
    records = await list_stores(engine)
    for name in (source, to):
        if name is not None:
            _find(records, name)
    if source == to:
        raise CommandError(f"{to!r} is where they are: name another store.", USAGE)


async def _move_tree(engine: Engine, spelt: str, to: str) -> _Tally:
    value = parse_run_id(spelt) or parse_batch_id(spelt) or parse_token_id(spelt)
    if value is None:
        raise CommandError(f"{spelt!r} is the id of no run, batch or token.", USAGE)
    await _check_places(engine, None, to)
    try:
        outcome = await moves.move_tree(engine, value, to)
    except DATABASE_ERRORS as error:
        return _Tally(broken=[f"Moving {spelt} to {to} broke off: {describe_failure(error, '')}."])
    if isinstance(outcome, moves.NothingToMove) and not outcome.is_there:
        raise CommandError(f"There is no {spelt} in any store.", NOT_FOUND)
    tally = _Tally()
    tally.add(outcome)
    return tally


async def _move_all(engine: Engine, source: str | None, to: str, before: datetime | None) -> _Tally:
    await _check_places(engine, source, to)
    names = [one.name for one in engine.stores.records() if one.name != to] if source is None else [source]
    tally = _Tally()
    with Progress(
        TextColumn("{task.completed} trees looked at"), TimeElapsedColumn(), console=err, transient=True
    ) as bar:
        task = bar.add_task("", total=None)
        for name in names:
            try:
                async for outcome in moves.move_all(engine, name, to, before=before):
                    tally.add(outcome)
                    bar.advance(task)
            except DATABASE_ERRORS as error:
                tally.broken.append(f"Moving from {name} to {to} broke off: {describe_failure(error, '')}.")
    return tally


def _refuse_broken(tally: _Tally) -> None:
    if tally.broken:
        todo = "Nothing is lost: do it again when both answer; `headrace stores list` shows which does not."
        raise CommandError("\n".join([*tally.broken, todo]), UNREACHABLE)


def _check_weight(weight: float) -> None:
    if not 0 <= weight <= 1_000_000:
        raise CommandError(f"The weight is {weight:g}, but must be from 0 to 1000000.", USAGE)


def _read_age(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CommandError(f"--older-than: {error}", USAGE) from None


async def _add(
    engine: Engine, asked: NamedStore, weight: float | None, *, migrate: bool, keep_url: bool
) -> tuple[StoreRecord, bool]:
    """The store as it then is, and whether it is new."""
    name = asked.name
    before = next((one for one in await list_stores(engine) if one.name == name), None)
    if before is not None:
        if before.state == "removed":
            raise CommandError(f"{name!r} was the name of a store that was removed. Choose a new one.", USAGE)
        asked = replace(asked, key=before.key)
    found = await _examine_candidate(engine, asked)
    if migrate and any(one.kind == "schema" for one in found.problems) and _may_migrate(asked, found.facts[-1]):
        await migrate_database(asked.url)
        found = await _examine_candidate(engine, asked)
    if problems := [one for one in found.problems if one.store == name and _is_grave(one)]:
        raise CommandError("\n".join(map(str, problems)), UNREACHABLE)
    if before is None:
        await add_store(engine, name, asked.url, weight=1.0 if weight is None else weight, keep_url=keep_url)
    else:
        await change_store(engine, name, weight=weight, url=asked.url if keep_url else None)
    await _tell_processes(engine)
    return next(one for one in await list_stores(engine) if one.name == name), before is None


async def _examine_known(engine: Engine, *candidates: NamedStore) -> Examined:
    settings = engine.settings
    records = await list_stores(engine)
    new = name_new_stores(records, settings)
    named = [*name_stores([one for one in records if one.state != "removed"], settings), *new]
    names = {one.name for one in candidates}
    return await examine_stores(
        [*(one for one in named if one.name not in names), *candidates],
        fleet=engine.fleet,
        pooler=settings.pooler,
        pool_size=settings.pool_size,
        patience=settings.store_patience,
    )


async def _examine_candidate(engine: Engine, asked: NamedStore) -> Examined:
    if not asked.url.startswith("postgres"):
        raise CommandError("The URL must be postgresql://user:password@host:port/database.", USAGE)
    return await _examine_known(engine, asked)


def _may_migrate(asked: NamedStore, facts: StoreFacts) -> bool:
    """Whether the tables may be made: not where it can't be the store that it is named as."""
    return asked.key is None or (facts.identity is not None and facts.identity.key == asked.key)


def _is_grave(problem: Problem) -> bool:
    return problem.weight == "refuse" or problem.kind == "unreachable"


async def _tell_processes(engine: Engine) -> None:
    # this process ends at once: what it would send in the background is sent here
    await engine.home.store.fetch("send_notice", STORES_CHANNEL, "0")


def _find(records: Sequence[StoreRecord], name: str) -> StoreRecord:
    found = [one for one in records if one.name == name and one.state != "removed"]
    if not found:
        known = ", ".join(one.name for one in records if one.state != "removed")
        raise CommandError(f"There is no store {name!r}, but {known}.", NOT_FOUND)
    return found[0]


def _share(records: Sequence[StoreRecord]) -> dict[str, str]:
    """What part of new roots each store gets, by key."""
    takers = {one.key: one.weight for one in records if one.takes_roots} or {HOME_STORE: 1.0}
    whole = sum(takers.values())
    return {key: f"{part / whole:.0%}" for key, part in takers.items()}


def _spell(one: MeasuredStore) -> dict[str, Any]:
    record = one.record
    fields = {
        "name": record.name,
        "key": record.key,
        "place": describe_place(record.url) if record.url else None,
        "state": record.state,
        "weight": record.weight,
        "takesRoots": record.takes_roots,
        "opensIn": record.opens_in,
        "legacy": record.legacy,
    }
    if one.holding is not None:
        return {**fields, "openRuns": one.holding.open_runs, "counted": COUNTED, "failure": None}
    return {**fields, "failure": one.failure or None}


def _spell_facts(facts: StoreFacts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "key": facts.key,
        "place": facts.place,
        "version": facts.version or None,
        "reachable": not facts.failure,
    }


def _spell_state(record: StoreRecord) -> str:
    if record.state == "active" and record.opens_in > 0:
        return f"opens in {record.opens_in:.0f} s"
    return record.state


def _spell_holding(holding: Holding) -> str:
    parts = {
        "runs": holding.runs,
        "batches": holding.batches,
        "tokens": holding.tokens,
        "messages to other stores": holding.mail,
    }
    return ", ".join(f"{_count(count)} {what}" for what, count in parts.items() if count)


def _count(number: int) -> str:
    return f"at least {number}" if number >= COUNTED else str(number)


def _judge(facts: StoreFacts, problems: Sequence[Problem]) -> str:
    mine = [one for one in problems if one.store == facts.name]
    if facts.failure:
        return "away"
    return "refused" if any(one.weight == "refuse" for one in mine) else "to look at" if mine else "well"
