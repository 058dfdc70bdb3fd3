"""Random programs of waits on workers that die: what comes out is what plain asyncio gives, and nothing waits for ever.

    pytest tests/chaos/test_programs.py --programs=5000                    # more of them
    pytest tests/chaos/test_programs.py --programs-seed=0                  # others; or the seed of a run that failed
    pytest tests/chaos/test_programs.py --program='["seq", [...]]'         # one, many times

Of each program the result, the metadata and the runs are compared with those of the same program in plain asyncio
(program_models.py); what its steps did is in a log with the number of the claim that did it, which says what came after
what even where a frozen worker wakes up late.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from headrace.engine import runs, tokens
from headrace.engine.audits import AuditPlace, audit_once
from headrace.engine.cancels import cancel_run
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, RunExists
from headrace.engine.sweeps import run_sweeps
from headrace.ids import parse_run_id
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from headrace.store.embedded import EmbeddedPostgres
from headrace.store.migrate import migrate_database
from tests.chaos import programs as carried_out
from tests.chaos.fire import Arena, Event, patiently
from tests.chaos.program_models import Expected, is_optional, predict, programs
from tests.invariants import assert_invariants_on

AT_ONCE = 50
DEADLINE = 60.0
LINGERS = (0.0, 0.02, 0.3, 5.0)
SLOTS = (4, 20, 100)

EVENTS = st.builds(
    Event,
    st.floats(0.0, 0.8),
    st.sampled_from(["kill", "kill", "kill", "freeze", "drain", "postgres", "cancel"]),
    st.integers(0, 1),
    st.sampled_from(LINGERS),
    st.sampled_from(SLOTS),
)


class Stage:
    """Where programs are carried out, from the test's side."""

    def __init__(self, arena: Arena, engine: Engine) -> None:
        self.arena = arena
        self.engine = engine
        self.started: list[tuple[UUID, Path]] = []
        self.canceled: set[UUID] = set()
        self.repaired = 0
        self._place = AuditPlace()
        arena.cancel = self._cancel_some

    async def sql(self, statement: str, *args: Any) -> list[Any]:
        async def ask() -> list[Any]:
            async with self.engine.store.connect() as connection:
                return await connection.fetch(statement, *args)

        return await patiently(ask)

    async def carry_out(
        self, all_programs: Sequence[Any], expected: Sequence[Expected], events: Sequence[Event], *, calm: bool
    ) -> None:
        """Carries programs out while ``events`` happen, and compares what comes out."""
        helping = asyncio.create_task(self._complete_tokens())
        burning = asyncio.create_task(self.arena.burn(events))
        try:
            self.started.clear()
            for program in all_programs:
                self.started.append(await self._start(program, calm=calm))
            await self._await_ends()
            await burning
        finally:
            burning.cancel()
            helping.cancel()
        faults: list[str] = []
        if self.repaired:
            faults.append(f"the audit found {self.repaired} runs that nobody had woken, or batches miscounted")
        for program, hope, (run_id, log) in zip(all_programs, expected, self.started, strict=True):
            found = await self._compare(hope, run_id, log, calm=calm)
            faults += [f"{fault[:600]}\n    of {json.dumps(program)}" for fault in found]
        faults += await self._look_at_rows()
        faults += [line for line in self.arena.read_logs().splitlines() if _tells_of_a_bug(line)]
        if faults:
            raise AssertionError("\n".join(fault[:2000] for fault in faults[:20]))

    async def _start(self, program: Any, *, calm: bool) -> tuple[UUID, Path]:
        name = uuid.uuid4().hex[:12]
        log = self.arena.folder / f"{name}.log"
        given = {"root": name, "log": str(log), "path": "r", "program": program, "named": random.random() < 0.5}
        packet = Packet(json.dumps(given).encode())
        # a process takes long to start: under fire there would be nothing but starts
        how = random.choice(["p.run"] * 7 + ["p.run_sync"] * 2 + (["p.run_process"] if calm else ["p.run"]))
        options = RunOptions(idempotency_key=name)  # once, however often it is tried
        made = await patiently(lambda: runs.trigger_run(self.engine, 1, how, packet, options))
        assert isinstance(made, RunCreated | RunExists), made
        return made.run_id, log

    async def _cancel_some(self) -> None:
        """Somebody cancels a few of the programs: whatever they have come to, they end, and so does what they wait for."""
        for run_id, _ in random.sample(self.started, min(3, len(self.started))):
            self.canceled.add(run_id)
            await patiently(lambda run_id=run_id: cancel_run(self.engine, 1, run_id))

    async def _await_ends(self) -> None:
        """Until nothing is left to do. Fails with the journals of what is."""
        clock = asyncio.get_running_loop().time
        deadline, audit_at = clock() + DEADLINE, clock() + 1
        open_runs = "SELECT id FROM headrace.runs WHERE finished_at IS NULL ORDER BY created_at"
        while left := await self.sql(open_runs):
            if clock() > deadline:
                raise AssertionError(f"{len(left)} runs have not ended:\n{await self._describe(left[-3:])}")
            if clock() > audit_at:
                audit_at = clock() + 1
                self.repaired += await patiently(lambda: audit_once(self.engine, self._place))
            await asyncio.sleep(0.05)
        roots = [run_id for run_id, _ in self.started]
        ended = await self.sql("SELECT id FROM headrace.runs WHERE id = ANY($1)", roots)
        assert len(ended) == len(roots)

    async def _describe(self, rows: Sequence[Any]) -> str:
        ids = [row["id"] for row in rows]
        found = await self.sql(
            """SELECT id, parent_run_id, status::text, attempt, resumes, failures, rescues, worker_id, ready_at, updated_at,
                convert_from(payload, 'UTF8') AS payload FROM headrace.runs WHERE id = ANY($1)""",
            ids,
        )
        journal = await self.sql("SELECT * FROM headrace.journal WHERE run_id = ANY($1) ORDER BY run_id, made", ids)
        workers = await self.sql("SELECT * FROM headrace.workers WHERE ended_at IS NULL")
        return "\n".join(str(dict(row)) for row in (*found, *journal, *workers)) + "\n" + self.arena.read_logs()[-6000:]

    async def _complete_tokens(self) -> None:
        """What others do: complete each token that is asked for, now and then with a second word, which is too late."""
        while True:
            for row in await self.sql(
                "SELECT id, tags FROM headrace.tokens WHERE status = 'WAITING' AND 'asked' = ANY(tags)"
            ):
                value = row["tags"][1].removeprefix("value:")
                for word in (value, "0")[: 1 + (random.random() < 0.3)]:
                    packet = Packet(word.encode())
                    await patiently(
                        lambda row=row, packet=packet: tokens.complete_token(self.engine, 1, row["id"], packet)
                    )
            await asyncio.sleep(random.random() * 0.1)

    async def _compare(self, hope: Expected, run_id: UUID, log: Path, *, calm: bool) -> list[str]:
        canceled = run_id in self.canceled
        if canceled and not log.exists():
            return []
        notes = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        by_path: dict[str, set[str]] = defaultdict(set)
        for note in notes:
            if note["what"] == "begun":
                by_path[note["path"]].add(note["run"])
        faults = [f"{path}: {len(found)} runs: {found}" for path, found in by_path.items() if len(found) > 1]
        faults += [f"{path}: a run that is not in the program" for path in by_path.keys() - hope.runs.keys()]
        faults += _compare_steps(notes, hope, calm=calm, canceled=canceled)
        if canceled:
            return faults
        wanted = {path for path in hope.runs if not is_optional(path)}
        faults += [f"{path}: no run" for path in wanted - by_path.keys()]
        ids = {path: parse_run_id(next(iter(found))) for path, found in by_path.items()}
        assert ids["r"] == run_id
        found = await self.sql(
            """SELECT id, status::text AS status, output, error::text AS error, metadata::text AS metadata
            FROM headrace.runs WHERE id = ANY($1)""",
            list(ids.values()),
        )
        rows = {row["id"]: row for row in found}
        for path in by_path.keys() & hope.runs.keys():
            faults += _compare_run(path, rows[ids[path]], hope)
        return faults

    async def _look_at_rows(self) -> list[str]:
        async def look() -> None:
            async with self.engine.store.connect() as connection:
                await assert_invariants_on(connection)

        await patiently(look)
        questions = {
            "a run waits": "SELECT id FROM headrace.runs WHERE status = 'WAITING'",
            "a run that has not ended was not told an outcome": """
                SELECT j.run_id, j.point FROM headrace.journal AS j JOIN headrace.runs AS r ON r.id = j.run_id
                WHERE r.finished_at IS NULL AND NOT j.pending AND j.seen IS NULL""",
            "a run goes on for a run that was canceled": """
                SELECT c.id FROM headrace.runs AS r JOIN headrace.journal AS j ON j.run_id = r.id AND j.canceling
                JOIN headrace.runs AS c ON c.id = j.target WHERE c.finished_at IS NULL""",
            "a run was woken more often than there were reasons to": """
                SELECT r.id, r.resumes, p.points FROM headrace.runs AS r
                CROSS JOIN LATERAL (SELECT count(*) AS points FROM headrace.journal AS j WHERE j.run_id = r.id) AS p
                WHERE r.resumes > 3 * p.points + 5""",
            "one point has two runs": """
                SELECT payload FROM headrace.runs GROUP BY payload HAVING count(*) > 1""",
            "a child that no point names": """
                SELECT r.id FROM headrace.runs AS r WHERE r.parent_run_id IS NOT NULL AND r.batch_id IS NULL
                AND NOT EXISTS (SELECT FROM headrace.journal AS j WHERE j.run_id = r.parent_run_id AND j.target = r.id)
                AND NOT EXISTS (SELECT FROM headrace.journal AS j WHERE j.run_id = r.parent_run_id AND j.kind = 'effect')""",
            "a batch that no point names": """
                SELECT b.id FROM headrace.batches AS b
                WHERE NOT EXISTS (SELECT FROM headrace.journal AS j WHERE j.target = b.id AND j.kind = 'batch')""",
        }
        return [f"{name}: {rows[:3]}" for name, sql in questions.items() if (rows := await self.sql(sql))]


def _tells_of_a_bug(line: str) -> bool:
    if not line.startswith("{"):
        # a warning of Python's, or a traceback; but what was cancelled before it began was indeed never awaited
        return bool(line.strip()) and "was never awaited" not in line and "run_until_complete" not in line
    told = json.loads(line)
    return told["level"] in ("error", "critical") or told["event"].startswith("the journal has a point")


def _compare_run(path: str, row: Any, hope: Expected) -> list[str]:
    ok, value = hope.runs[path]
    faults: list[str] = []
    if row["status"] != ("COMPLETED" if ok else "FAILED"):
        faults.append(f"{path}: {row['status']} {row['error']}, and not {'COMPLETED' if ok else 'FAILED'}: {value}")
    elif ok:
        result = None if row["output"] is None else json.loads(row["output"])
        if result != value:
            faults.append(f"{path}: its result is {result}, and not {value}")
    elif (message := json.loads(row["error"])["message"]) != value:
        faults.append(f"{path}: its failure is {message}, and not {value}")
    metadata = _sort(json.loads(row["metadata"] or "{}"))
    if metadata != _sort(hope.metadata.get(path, {})):
        faults.append(f"{path}: its metadata is {metadata}, and not {hope.metadata.get(path)}")
    return faults


def _sort(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, list) else value for key, value in metadata.items()}


def _compare_steps(notes: Sequence[dict[str, Any]], hope: Expected, *, calm: bool, canceled: bool) -> list[str]:
    """What steps did: as often as they had to, never after their result was seen, and the same result each time."""
    tried: defaultdict[str, list[int]] = defaultdict(list)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    told: defaultdict[str, set[str]] = defaultdict(set)
    for note in notes:
        if note["what"] == "tried":
            tried[note["path"]].append(note["fence"])
        elif note["what"] == "seen":
            seen[note["path"]].append(note["fence"])
            told[note["path"]].add(str(note["nonce"]))
    faults = [f"{path}: told {values}" for path, values in told.items() if len(values) > 1]
    for path in tried.keys() | hope.tried.keys():
        times, right = len(tried[path]), max(hope.tried[path], int(is_optional(path)))
        claims = len(set(tried[path]))
        least = 0 if is_optional(path) or canceled else right
        most = right if calm else right + max(claims - 1, 0)  # the last try of a claim may be lost with it
        if not least <= times <= most:
            faults.append(f"{path}: tried {times} times under {claims} claims, and not {least} to {most} times")
        if seen[path] and max(tried[path]) > min(seen[path]):
            faults.append(f"{path}: tried under claims {tried[path]}, although its result was seen under {seen[path]}")
    return faults


@pytest.fixture
def runner() -> Generator[asyncio.Runner]:
    with asyncio.Runner() as opened:
        yield opened


async def _open(folder: Path, url: str, lease: float, postgres: EmbeddedPostgres | None) -> Stage:
    arena = Arena(folder, url, str(Path(carried_out.__file__)), postgres, lease)
    opened = await Engine.open(Settings(database_url=url, data_dir=str(folder), lease=lease, heartbeat=lease / 5))
    await asyncio.gather(arena.start_worker(0, 0.0, 20), arena.start_worker(1, 0.3, 100))
    return Stage(arena, opened)


def _choose(request: pytest.FixtureRequest) -> tuple[int, st.SearchStrategy[list[Any]], int]:
    """How many examples, of what, by which seed."""
    chosen = int(request.config.getoption("--programs-seed")) or random.randrange(2**32)
    if (text := request.config.getoption("--program")) is not None:
        return 3, st.just([json.loads(text)] * AT_ONCE), chosen
    count = int(request.config.getoption("--programs"))
    return max(count // AT_ONCE, 1), st.lists(programs(), min_size=AT_ONCE, max_size=AT_ONCE), chosen


def _try_all(
    runner: asyncio.Runner,
    stage: Stage,
    chosen: tuple[int, st.SearchStrategy[list[Any]], int],
    events: st.SearchStrategy[list[Event]],
    *,
    calm: bool,
) -> None:
    examples, several, number = chosen

    failures: list[str] = []

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(several, events)
    def check(all_programs: list[Any], happening: list[Event]) -> None:
        # A failure is kept and not raised: hypothesis would try it again and again, and in a fire it may come out otherwise.
        if not failures:
            expected = [predict(program) for program in all_programs]
            try:
                runner.run(stage.carry_out(all_programs, expected, happening, calm=calm))
            except AssertionError as error:
                failures.append(f"{error}\nWhile it ran: {happening}")

    check()
    if failures:
        pytest.fail(
            f"{failures[0]}\nAgain: --programs-seed={number}, or --program='<JSON>' for one of them", pytrace=False
        )


@pytest.fixture
def folder() -> Generator[Path]:
    """One that PostgreSQL's user may walk through whatever other sessions of pytest do beside this one."""
    with tempfile.TemporaryDirectory(prefix="hr-fire-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_programs_under_fire(folder: Path, request: pytest.FixtureRequest, runner: asyncio.Runner) -> None:
    postgres = EmbeddedPostgres(folder / "postgres")
    url = postgres.start()
    stage = None
    try:
        runner.run(migrate_database(url))
        stage = runner.run(_open(folder, url, 1.0, postgres))
        _try_all(runner, stage, _choose(request), st.lists(EVENTS, min_size=1, max_size=5), calm=False)
    finally:
        if stage is not None:
            stage.arena.stop()
            runner.run(stage.engine.close())
        postgres.stop()


def test_programs_in_peace(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest, runner: asyncio.Runner
) -> None:
    """Without any fire a step runs exactly as often as it has to, however often its run is put down."""
    stage = runner.run(_open(tmp_path, database_url, 30.0, None))
    examples, several, number = _choose(request)
    sweeping = runner.get_loop().create_task(run_sweeps(stage.engine, asyncio.Event(), interval=0.1))
    try:
        _try_all(runner, stage, (max(examples // 3, 1), several, number), st.just([]), calm=True)
    finally:
        sweeping.cancel()
        stage.arena.stop()
        runner.run(stage.engine.close())
