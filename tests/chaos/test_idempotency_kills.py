"""N processes trigger with the same keys and are killed at random: one run a key, and everybody who was answered got it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from headrace.engine.engine import Engine
from headrace.settings import Settings
from tests.invariants import assert_invariants, fetch_sql
from tests.processes import wait_until  # pyright: ignore[reportUnknownVariableType]

pytestmark = pytest.mark.anyio

SEED = 20261121
KEYS = 60
ROUNDS = 6
PROCESSES = 3
KILLS = 6


class Trigger:
    """A process, and what it was answered; a line that the kill cut is none."""

    def __init__(self, settings: Settings, seed: int) -> None:
        given = json.dumps({"database_url": settings.database_url, "data_dir": settings.data_dir, "pool_size": 4})
        child = str(Path(__file__).with_name("trigger_child.py"))
        self.process = subprocess.Popen(
            [sys.executable, child, given, str(seed), str(KEYS), str(ROUNDS)], stdout=subprocess.PIPE
        )
        self.answers: list[tuple[str, str, bool]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self.answers.append(tuple(json.loads(line)))

    def await_answers(self, count: int) -> None:
        wait_until(lambda: len(self.answers) >= count or self.process.poll() is not None, f"{count} answers")

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()


async def test_a_key_is_one_run_whoever_dies(engine: Engine, settings: Settings) -> None:
    dice = random.Random(SEED)
    seeds = iter(range(SEED, SEED + 1000))
    living = [Trigger(settings, next(seeds)) for _ in range(PROCESSES)]
    everyone = list(living)
    for _ in range(KILLS):
        victim = dice.randrange(PROCESSES)
        after = dice.randrange(1, KEYS)
        living[victim].await_answers(after)
        living[victim].kill()
        living[victim] = Trigger(settings, next(seeds))
        everyone.append(living[victim])
    assert [one.end() for one in living] == [0] * PROCESSES

    rows = await fetch_sql(engine, "SELECT id, idempotency_key FROM headrace.runs")
    stored = {row["idempotency_key"]: str(row["id"]) for row in rows}
    assert (len(rows), len(stored)) == (KEYS, KEYS)
    made: defaultdict[str, int] = defaultdict(int)
    for key, run_id, cached in (answer for one in everyone for answer in one.answers):
        assert run_id == stored[key]
        made[key] += not cached
    assert max(made.values()) == 1
    assert sum(len(one.answers) for one in living) == PROCESSES * KEYS * ROUNDS
    await assert_invariants(engine)
