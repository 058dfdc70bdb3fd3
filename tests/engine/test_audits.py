"""The audit of what waits, against rows that were broken by hand: found, repaired, counted, and said."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from headrace import metrics
from headrace.engine import audits
from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.engine import Engine
from headrace.ids import mint_run_id
from tests.logs import list_lines

pytestmark = pytest.mark.anyio


async def make_run(engine: Engine, status: str) -> UUID:
    """A run in a status, by hand."""
    run_id = mint_run_id()
    async with engine.store.connect() as connection:
        await connection.execute(
            "INSERT INTO headrace.lanes (environment_id, task, queue) VALUES (1, 't', 'q') ON CONFLICT DO NOTHING"
        )
        await connection.execute(
            "INSERT INTO headrace.runs (environment_id, lane_id, id, status, attempt, ready_at, created_at, updated_at,"
            " finished_at) SELECT 1, l.id, $1, $2::text::headrace.run_status, 1, now(), now(), now(),"
            " CASE WHEN $2 = 'COMPLETED' THEN now() END FROM headrace.lanes AS l WHERE l.task = 't'",
            run_id,
            status,
        )
    return run_id


async def make_point(
    engine: Engine, run_id: UUID, kind: str, target: UUID | None, *, pending: bool, seen: int | None = None
) -> None:
    """A point of a journal, by hand."""
    async with engine.store.connect() as connection:
        await connection.execute(
            "INSERT INTO headrace.journal (environment_id, run_id, point, kind, pending, made, seen, target, due_at, created_at)"
            " VALUES (1, $1, $2, $3::text::headrace.point_kind, $4, 1, $5, $6,"
            " CASE WHEN $3 = 'time' THEN now() + interval '1 hour' END, now())",
            run_id,
            f"{kind}:{uuid4().hex[:6]}",
            kind,
            pending,
            seen,
            target,
        )


async def status_of(engine: Engine, run_id: UUID) -> str:
    async with engine.store.connect() as connection:
        return await connection.fetchval("SELECT status::text FROM headrace.runs WHERE id = $1", run_id)


def repairs() -> float:
    found = metrics.REGISTRY.get_sample_value("headrace_repairs_total", {"kind": "run"})
    return found or 0.0


@pytest.mark.parametrize(
    "fault", ["ended run", "missing run", "missing token", "missing batch", "untold outcome", "nothing"]
)
async def test_a_run_that_waits_wrongly_is_woken_counted_and_logged(
    engine: Engine, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await make_run(engine, "WAITING")
    match fault:
        case "ended run":
            await make_point(engine, run_id, "run", await make_run(engine, "COMPLETED"), pending=True)
        case "missing run" | "missing token" | "missing batch":
            await make_point(engine, run_id, fault.split()[1], mint_run_id(), pending=True)
        case "untold outcome":
            await make_point(engine, run_id, "time", None, pending=False)
            await make_point(engine, run_id, "run", await make_run(engine, "QUEUED"), pending=True)
        case _:
            await make_point(engine, run_id, "step", None, pending=False, seen=2)
    before = repairs()
    assert await audit_once(engine, AuditPlace()) == 1
    assert await status_of(engine, run_id) == "QUEUED"
    assert repairs() == before + 1
    assert [line["level"] for line in list_lines(caplog) if line["event"].startswith("bug:")] == ["error"]
    assert await audit_once(engine, AuditPlace()) == 0


async def test_what_waits_rightly_is_left_alone(engine: Engine) -> None:
    waiting = [await make_run(engine, "WAITING") for _ in range(3)]
    await make_point(engine, waiting[0], "run", await make_run(engine, "QUEUED"), pending=True)
    await make_point(engine, waiting[1], "time", None, pending=True)
    await make_point(engine, waiting[2], "time", None, pending=True)
    await make_point(engine, waiting[2], "run", mint_run_id(), pending=True, seen=-4)  # its code stopped asking
    assert await audit_once(engine, AuditPlace()) == 0
    assert {await status_of(engine, run_id) for run_id in waiting} == {"WAITING"}


async def test_slices_come_to_every_run(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "SLICE", 2)
    waiting = [await make_run(engine, "WAITING") for _ in range(5)]
    place = AuditPlace()
    found = [await audit_once(engine, place) for _ in range(4)]
    assert sum(found) == 5
    assert max(found) == 2
    assert {await status_of(engine, run_id) for run_id in waiting} == {"QUEUED"}


async def test_only_the_elected_process_audits(engine: Engine) -> None:
    await make_run(engine, "WAITING")
    async with engine.store.connect() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(7305, 1)")
        assert await audit_once(engine, AuditPlace()) == 0
    assert await audit_once(engine, AuditPlace()) == 1
