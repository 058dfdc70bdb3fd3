"""Runs of another installation: what a line may say, and what becomes of them in a fleet of three stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.engine import batches, imports, listings, moves, runs
from headrace.engine.engine import Engine
from headrace.engine.environments import Environment, find_environment
from headrace.engine.imports import EndedRun, Imported
from headrace.engine.moves import TreeMoved
from headrace.engine.outcomes import BatchCreated, Packet, RunCreated, RunExists, RunFilter, StoredItem
from headrace.engine.registry import change_store, declare_legacy
from headrace.engine.replays import replay_run
from headrace.engine.upkeep import Removed, remove_store
from headrace.errors import ConfigurationError
from headrace.ids import LEGACY_STORE, format_run_id, parse_run_id, store_of
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from tests.engine.held import blocked, held_at, holding
from tests.invariants import assert_invariants, fetch_sql

pytestmark = pytest.mark.anyio

CUID = "run_cjld2cjxh0000qzrmn831i7rn"
KSUID = "run_0ujtsYcgvSTl8PAuAdqWYSMnLOv"
DATED = "run_06f3q1c2k8g5m0t7n4e9r2abe1"
NANOID = "run_abcdefghijkmnopqrstuv"

GOOD = {
    "id": CUID,
    "task": "t",
    "status": "COMPLETED",
    "payload": {"n": 1},
    "output": [2],
    "tags": ["old"],
    "createdAt": "2018-08-28T01:59:12.101Z",
    "startedAt": "2018-08-28T01:59:13Z",
    "endedAt": "2018-08-28T04:00:00+02:00",
}


def line(**said: Any) -> bytes:
    """A good line but for what is ``said``; None leaves a field out."""
    return json.dumps({name: value for name, value in {**GOOD, **said}.items() if value is not None}).encode()


def read(**said: Any) -> EndedRun:
    return imports.read_ended_run(line(**said), Settings())


async def find_dev(engine: Engine) -> Environment:
    found = await find_environment(engine, "dev")
    assert found is not None
    return found


def test_a_line_says_what_became_of_a_run() -> None:
    run = read()
    assert (run.text, run.task, run.status, run.attempts) == (CUID, "t", RunStatus.COMPLETED, 1)
    assert (run.payload, run.output, run.error) == (Packet(b'{"n": 1}'), Packet(b"[2]"), None)
    assert run.ended_at.isoformat() == "2018-08-28T02:00:00+00:00"
    # as runs are retrieved over HTTP
    same = read(task=None, taskIdentifier="t", endedAt=None, finishedAt=GOOD["endedAt"], isSuccess=True)
    assert same == run
    failed = read(status="FAILED", output=None, error={"name": "E", "message": "no", "stackTrace": "at x\0"})
    assert failed.error == {"type": "BUILT_IN_ERROR", "name": "E", "message": "no", "stackTrace": "at x\ufffd"}
    assert read(status="FAILED", output=None, error="no").error == {"type": "STRING_ERROR", "raw": "no"}
    never = read(status="EXPIRED", output=None, startedAt=None)
    assert (never.output, never.error, never.attempts) == (None, None, 0)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"nonsense", "JSON is malformed"),
        (b'"text"', "Expected `object`, got `str`"),
        (b"\xff", "JSON is malformed"),
        (b"[" * 100_000, ""),
        (line(id=None), "missing required field `id`"),
        (line(id="run_06f3q1c2k8g5m0t7n4e9r2ab12"), "is an id of this installation's own"),
        (line(id="run_05insgclsn3e9t8f566ha7k10x"), "is an id of this installation's own"),
        (line(id="cjld2cjxh0000qzrmn831i7rn"), "must be run_ and 25 characters"),
        (line(task=None), "it has no task"),
        (line(task=""), "length >= 1"),
        (line(task="a\0"), "NUL"),
        (line(status="EXECUTING"), "only runs that have ended can be imported"),
        (line(status="COMPLETED_SUCCESSFULLY"), "only runs that have ended"),
        (line(endedAt=None), "it has no endedAt"),
        (line(createdAt="yesterday"), "Invalid RFC3339 encoded datetime"),
        (line(createdAt="2018-08-28T01:59:12.101"), "timezone"),
        (line(createdAt="0001-01-01T00:00:00+14:00"), "no date in UTC"),
        (line(createdAt="2018-08-28T01:59:14Z"), "startedAt (2018-08-28T01:59:13+00:00) is before createdAt"),
        (line(endedAt="2018-08-28T01:59:12.5Z"), "endedAt (2018-08-28T01:59:12.500000+00:00) is before startedAt"),
        (line(error="no"), "it has an error, but its status is COMPLETED"),
        (line(status="FAILED"), "it has an output, but its status is FAILED"),
        (line(output=1, outputType="text/plain"), "has to be a string"),
        (line(output="x", outputType="application/store"), "names an object of a server's own"),
        (line(payload="x", payloadType="application/store"), "names an object of the server's own"),
        (line(tags=[f"t{n}" for n in range(11)]), "tags"),
        (line(idempotencyKey="k", idempotencyKeyTTL="soon"), "idempotencyKeyTTL"),
        (line(metadata={"a": "\0"}), "NUL"),
        (line(attemptCount=-1), "attemptCount"),
    ],
)
def test_a_line_that_can_not_be_used_says_why(bad: bytes, why: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its text is asked for next
        imports.read_ended_run(bad, Settings())
    assert why in str(raised.value)


async def test_imported_runs_are_runs_of_the_declared_store(
    fleet: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, s1, _ = fleet
    dev = await find_dev(home)
    await declare_legacy(home, "s2")
    await imports.begin_import(home)
    brought = [
        read(idempotencyKey="k"),
        read(id=KSUID, status="FAILED", output=None, error="no", idempotencyKey="f", createdAt="2017-10-10T04:00:47Z"),
        read(id=DATED, createdAt="2018-08-28T01:59:12Z", tags=["new"], payload="p" * 600_000),
        read(id=NANOID, status="CANCELED", output=None, startedAt=None),
        read(payload="of the same id"),
    ]
    assert await imports.import_runs(home, dev, brought) == Imported(4, 1, 1)
    assert await imports.import_runs(s1, dev, brought) == Imported(0, 5, 1)
    counts = [(await fetch_sql(one, "SELECT count(*) AS n FROM headrace.runs"))[0]["n"] for one in fleet]
    assert counts == [0, 0, 4]
    files = [one for one in Path(home.settings.data_dir, "payloads").rglob("*") if one.is_file()]
    assert len(files) == 1, "what was put there for a run that was known is taken away"

    for run in brought[:4]:
        assert store_of(run.id) == LEGACY_STORE
        found = await runs.find_run(s1, dev.id, run.id)
        assert found is not None
        assert (found.spelt, found.status, found.finished_at) == (run.text, run.status, run.ended_at)
    # newest first by the times in their ids, with runs of other stores among them
    made = await runs.trigger_run(home, dev.id, "t", Packet(b"1"), RunOptions())
    assert isinstance(made, RunCreated)
    listed: list[str] = []
    after = None
    for _ in range(5):
        page = await listings.list_runs(home, dev.id, RunFilter(), after=after, limit=1)
        listed += [run.spelt for run in page.runs]
        after = page.older
    assert listed == [format_run_id(made.run_id), DATED, CUID, KSUID, NANOID]
    tagged = await listings.list_runs(home, dev.id, RunFilter(tags=["old"]))
    assert [run.spelt for run in tagged.runs] == [CUID, KSUID, NANOID]

    # keys: one that stands for an imported run gives it, one of a failed run is free
    hit = await runs.trigger_run(home, dev.id, "t", Packet(b"1"), RunOptions(idempotency_key="k"))
    assert hit == RunExists(brought[0].id, cached=True)
    assert await runs.spell_run_ids(home, dev.id, [brought[0].id, made.run_id]) == {
        brought[0].id: CUID,
        made.run_id: format_run_id(made.run_id),
    }
    fresh = await runs.trigger_run(home, dev.id, "t", Packet(b"1"), RunOptions(idempotency_key="f"))
    assert isinstance(fresh, RunCreated)

    # waited for in another store: an item whose key stands for an imported run
    with monkeypatch.context() as patch:
        patch.setattr(home.stores, "pick", lambda: s1)
        items = [StoredItem(0, "t", Packet(b"1"), RunOptions(idempotency_key="k"))]
        batch = await batches.submit_batch(home, dev.id, CreateBatch(run_count=1), items)
    assert isinstance(batch, BatchCreated)
    assert store_of(batch.batch.id) == s1.key
    state = await batches.find_batch(home, dev.id, batch.batch.id)
    assert state is not None
    assert (state.status, state.settled, state.succeeded) == ("COMPLETED", 1, 1)

    # a replay is a run of our own
    first = await runs.find_run(home, dev.id, brought[2].id)
    assert first is not None
    replayed = await replay_run(home, dev.id, first)
    assert isinstance(replayed, RunCreated)
    again = await runs.find_run(home, dev.id, replayed.run_id)
    assert again is not None
    assert (again.spelt, again.tags) == (format_run_id(replayed.run_id), ["new"])
    assert store_of(replayed.run_id) in {one.key for one in fleet}
    for one in fleet:
        await assert_invariants(one)


async def test_imported_runs_are_found_wherever_they_are_moved(
    fleet: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, s1, s2 = fleet
    dev = await find_dev(home)
    with pytest.raises(ConfigurationError, match="there is no store 'nowhere'"):
        await declare_legacy(home, "nowhere")
    await declare_legacy(home, "s1")
    await declare_legacy(home, "s2")  # nothing was imported yet
    await imports.begin_import(home)
    brought = [read(), read(id=KSUID)]
    assert await imports.import_runs(home, dev, brought[:1]) == Imported(1, 0, 0)
    with pytest.raises(ConfigurationError, match="runs were imported to the store 's2'"):
        await declare_legacy(home, "s1")
    await declare_legacy(home, "s2")

    # repeated while the run is on its way elsewhere: the import waits, and then sees where it went
    async with holding(s2, "after:cut_move") as (mover, hold):
        moving = await held_at(hold, moves.move_tree(mover, brought[0].id, "s1"))
        repeated = await blocked(s2, imports.import_runs(home, dev, brought[:1]))
        assert not repeated.done()
        hold.released.set()
        assert isinstance(await moving, TreeMoved)
        assert await repeated == Imported(0, 1, 0)
    assert await imports.import_runs(home, dev, brought) == Imported(1, 1, 0)
    assert isinstance(await moves.move_tree(home, brought[1].id, "home"), TreeMoved)

    await change_store(home, "s2", state="draining")
    assert await remove_store(home, "s2") == Removed()
    await home.refresh_stores()
    for run in brought:
        found = await runs.find_run(home, dev.id, run.id)
        assert found is not None
        assert found.spelt == run.text
    more = [*brought, read(id=DATED, idempotencyKey="d")]
    await imports.begin_import(home)
    assert await imports.import_runs(home, dev, more) == Imported(1, 2, 1)
    assert await fetch_sql(home, "DELETE FROM headrace.runs WHERE id = $1 RETURNING id", parse_run_id(DATED))
    # a key whose imported run is nowhere is taken, though home itself is asked for it
    monkeypatch.setattr(home.stores, "pick", lambda: s1)
    fresh = await runs.trigger_run(home, dev.id, "t", Packet(b"1"), RunOptions(idempotency_key="d"))
    assert isinstance(fresh, RunCreated)
    assert store_of(fresh.run_id) == s1.key
    with pytest.raises(ConfigurationError):
        await declare_legacy(home, "s1")
