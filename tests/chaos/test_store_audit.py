"""The audit of the fleet under fire finds what it is for: each fault is made by force in a sound fleet, and undone again."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from headrace.engine import batches, moves, runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import BatchCreated, Packet, RunCreated, StoredItem
from headrace.ids import format_run_id, mint_run_id
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from tests.chaos.store_audit import Audit, LimitWatch, list_left
from tests.chaos.store_clients import ENVIRONMENT, Told
from tests.engine.helpers import claim, register
from tests.engine.trees import Fleet
from tests.invariants import fetch_sql

pytestmark = pytest.mark.anyio

TABLES = ("runs", "batches", "idempotency_keys", "forwards")
ANOTHER, OF_HOME = mint_run_id("1"), mint_run_id("0")
COPY = """INSERT INTO headrace.runs SELECT (jsonb_populate_record(r, '{{"id": "{another}", "idempotency_key": {key}}}')).*
    FROM headrace.runs AS r WHERE id = '{run}'"""

FAULTS = {
    "a run is lost": ("s1", "DELETE FROM headrace.runs WHERE id = '{run}'", "{run} is not there"),
    "a run was made twice": ("s1", COPY.replace("{key}", "null"), "{another}: a run that nobody was told of"),
    "a key is two runs": ("s1", COPY.replace("{key}", '"k"'), "key ('f.leaf', 'k') is 2 runs"),
    "a key is forgotten": ("home", "DELETE FROM headrace.idempotency_keys WHERE scope LIKE 'task:%'", "key k stands for"),
    "an item is lost": ("s1", "DELETE FROM headrace.runs WHERE id = '{item}'", "2: a sealed batch has run_count items"),
    "a count is wrong": ("s1", "UPDATE headrace.batches SET succeeded = 1", "4: the counts of a batch"),
    "an end was changed": ("s1", "UPDATE headrace.runs SET output = '3' WHERE id = '{run}'", "{run} had ended as"),
    "a run failed": (
        "s1", "UPDATE headrace.runs SET status = 'FAILED' /* forced */ WHERE id = '{run}'", "FAILED, not COMPLETED",
    ),
    "nobody holds what executes": (
        "s1", "UPDATE headrace.runs SET status = 'EXECUTING' /* forced */ WHERE id = '{run}'", "6: what executes",
    ),
    "a child is elsewhere": (
        "s1", "UPDATE headrace.runs SET parent_run_id = '{moved}' WHERE id = '{item}'", "are not in one store",
    ),
    "nobody knows where a tree went": ("s1", "DELETE FROM headrace.forwards", "{moved} is in s2, and not found"),
}  # fmt: skip

LEFT = {
    "mail": """INSERT INTO headrace.outbox (store, environment_id, kind, target_id, due_at)
        VALUES ('0', 1, 'end', '{run}', now())""",
    "mirror": "INSERT INTO headrace.mirrors (environment_id, id, kind, made_at) VALUES (1, '{home}', 'run', now())",
    "interest": "INSERT INTO headrace.interests VALUES (1, '{run}', '0')",
    "move": """INSERT INTO headrace.moves (id, environment_id, unit_id, kind, store, asked_at)
        VALUES (gen_random_uuid(), 1, '{run}', 'run', '0', now())""",
    "run": "UPDATE headrace.runs SET status = 'WAITING', finished_at = NULL /* forced */ WHERE id = '{run}'",
}


async def run_on(stores: Fleet, store: str, sql: str) -> None:
    [engine] = [one for one in stores.engines if one.name == store]
    await fetch_sql(engine, sql)


@pytest.fixture
async def sound(fleet: list[Engine], tmp_path: Path) -> tuple[Fleet, Told, dict[str, UUID]]:
    """A run with a key and a batch of two in s1, and a run that was moved from there to s2; all have ended."""
    stores = await Fleet.open(fleet)
    told = Told(tmp_path / "log")
    made: list[UUID] = []
    for options in (RunOptions(idempotency_key="k"), RunOptions()):
        answer = await runs.trigger_run(stores.home, ENVIRONMENT, "f.leaf", Packet(b"1"), options)
        assert isinstance(answer, RunCreated)
        made.append(answer.run_id)
    told.runs = {"one": {made[0]}, "key k": {made[0]}, "other": {made[1]}}
    items = [StoredItem(index, "f.leaf", Packet(b"1")) for index in range(2)]
    batch = await batches.submit_batch(stores.home, ENVIRONMENT, CreateBatch(run_count=2), items)
    assert isinstance(batch, BatchCreated)
    told.batches[batch.batch.id] = 2
    stores.leases["s1"] = await register(stores.s1, "f.leaf")
    assert len(await claim(stores.s1, stores.leases["s1"], 10, "f.leaf")) == 4
    await fetch_sql(
        stores.s1, "UPDATE headrace.runs SET status = 'COMPLETED', finished_at = now(), worker_id = NULL, output = '2'"
    )
    await fetch_sql(
        stores.s1,
        "UPDATE headrace.batches SET status = 'COMPLETED', completed_at = now(), settled = 2, succeeded = 2 /* forced */",
    )
    assert isinstance(await moves.move_tree(stores.home, made[1], "s2"), moves.TreeMoved)
    view = await runs.find_run(stores.home, ENVIRONMENT, made[0])
    assert view is not None
    told.ended[made[0]] = (view.status, b"2", view.finished_at)
    for engine in stores.engines:
        for table in TABLES:
            await fetch_sql(engine, f"CREATE TABLE kept_{table} AS TABLE headrace.{table}")
    ids = {"run": made[0], "moved": made[1], "item": batch.batch.id, "another": ANOTHER, "home": OF_HOME}
    return stores, told, ids


async def find_faults(stores: Fleet, told: Told) -> list[str]:
    faults = (await Audit.make(stores.fresh(), told)).faults
    return [fault for fault in faults if not fault.startswith("a tick")]  # there is no schedule here


async def restore(stores: Fleet) -> None:
    for engine in stores.engines:
        for table in TABLES:
            await fetch_sql(engine, f"DELETE FROM headrace.{table}")
            await fetch_sql(engine, f"INSERT INTO headrace.{table} TABLE kept_{table}")


async def test_each_fault_is_found(sound: tuple[Fleet, Told, dict[str, UUID]]) -> None:
    stores, told, ids = sound
    assert await find_faults(stores, told) == []
    for what, (store, sql, said) in FAULTS.items():
        await run_on(stores, store, sql.format(**ids))
        found = await find_faults(stores, told)
        assert any(said.format(**ids) in fault for fault in found), (what, found)
        await restore(stores)
    [row] = await fetch_sql(
        stores.s1, "SELECT to_jsonb(r)::text AS row FROM headrace.runs AS r WHERE id = $1", ids["run"]
    )
    content = json.loads(row["row"]) | {"moved": True}
    await fetch_sql(
        stores.home,
        "INSERT INTO headrace.runs SELECT (jsonb_populate_record(NULL::headrace.runs, $1::text::jsonb)).*",
        json.dumps(content),
    )
    assert f"{ids['run']} is in home and in s1" in await find_faults(stores, told)
    await restore(stores)
    said = [json.dumps({"run": format_run_id(ids["run"]), "fence": 1, "pid": pid}) for pid in (1, 2)]
    told.log.write_text("\n".join(said), "utf-8")
    assert any("was carried out by [1, 2]" in fault for fault in await find_faults(stores, told))


async def test_what_is_left_is_found(sound: tuple[Fleet, Told, dict[str, UUID]]) -> None:
    stores, _, ids = sound
    assert await list_left(stores.home) == []
    for number, (what, sql) in enumerate(LEFT.items(), 1):
        await run_on(stores, "s1", sql.format(**ids))
        left = await list_left(stores.home)
        assert len(left) == number
        assert any(one.startswith(f"s1: {what}") for one in left)


def test_more_than_a_limit_allows_is_seen() -> None:
    watch = LimitWatch(None)  # pyright: ignore[reportArgumentType] - it looks at nothing here
    several = [(mint_run_id("0"), 1) for _ in range(4)]
    watch._judge(dict(zip(several[:3], "abc", strict=True)))  # pyright: ignore[reportPrivateUsage]
    assert watch.faults == []
    watch._judge(dict(zip(several, "abcd", strict=True)))  # pyright: ignore[reportPrivateUsage]
    watch._judge(dict(zip(several[:2], "aa", strict=True)))  # pyright: ignore[reportPrivateUsage]
    assert len(watch.faults) == 2
