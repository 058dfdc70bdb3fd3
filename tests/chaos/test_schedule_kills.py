"""SIGKILL of servers while schedules tick each second: no tick is lost, and none has two runs."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from headrace.settings import Settings
from tests.conftest import execute_sql
from tests.processes import HEADERS, ServerProcess, wait_until

SCHEDULES = 5
SERVERS = 3


@pytest.fixture
def servers(settings: Settings, tmp_path: Path) -> Generator[list[ServerProcess]]:
    started = [ServerProcess(settings.database_url, str(tmp_path)) for _ in range(SERVERS)]
    try:
        for server in started:
            server.start()
        yield started
    finally:
        for server in started:
            if server.process is not None:
                server.kill()


def count_runs(url: str) -> int:
    return execute_sql(url, "SELECT count(*) AS n FROM headrace.runs")[0]["n"]


def await_runs(url: str, more: int) -> None:
    wanted = count_runs(url) + more
    wait_until(lambda: count_runs(url) >= wanted, f"{wanted} runs are made")


def test_a_tick_a_second_has_one_run_each_whatever_is_killed(servers: list[ServerProcess], settings: Settings) -> None:
    url = settings.database_url
    for n in range(SCHEDULES):
        body = {"task": f"t{n}", "cron": "* * * * * *", "deduplicationKey": str(n)}
        assert httpx2.post(f"{servers[0].url}/api/v1/schedules", json=body, headers=HEADERS).status_code == 200
    await_runs(url, SCHEDULES)
    for victim in (0, 1, 2, 0):  # one at a time: another goes on, with the tick that was under way if there was one
        servers[victim].kill()
        await_runs(url, SCHEDULES)
        servers[victim].start()
    for server in servers:  # all of them: what came in between is late, and is made
        server.kill()
    servers[1].start()
    await_runs(url, 2 * SCHEDULES)
    servers[1].kill()

    rows = execute_sql(
        url,
        "SELECT schedule_id, array_agg(convert_from(payload, 'UTF8')::jsonb ->> 'timestamp') AS ticks"
        " FROM headrace.runs GROUP BY schedule_id",
    )
    assert len(rows) == SCHEDULES
    for row in rows:
        ticks = sorted(datetime.fromisoformat(text) for text in row["ticks"])
        assert ticks == [ticks[0] + timedelta(seconds=n) for n in range(len(ticks))]
        assert len(ticks) >= 7
