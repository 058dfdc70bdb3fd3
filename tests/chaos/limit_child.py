"""A process that claims under limits and stops, or kills itself, at a named point of that claim. Run by test_limit_kills.

    python limit_child.py SETTINGS_JSON STORE_KEY WORKER_ID TASK LIMIT SIGNAL POINT

A point is ``before:<statement>:<store>``, ``after:<statement>:<store>`` (answered, not committed), or ``committed`` (the claim is, and
the limits in the other stores are still held). SIGNAL is STOP or KILL: what the parent does with a stopped one is its affair. How
many runs were claimed is a line on stdout, or what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

from headrace.engine import shared_limits
from headrace.engine.claims import claim_runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import WorkerLease
from headrace.settings import Settings
from headrace.store.statements import Plan
from headrace.store.store import DATABASE_ERRORS


def arm(engine: Engine, point: str, sign: signal.Signals) -> asyncio.Event:
    """What is set once the point was passed."""
    passed = asyncio.Event()
    databases = {one.settings.database_url.partition("?")[0].rsplit("/", 1)[1]: one.key for one in engine.stores.all()}
    close = shared_limits._Session.close  # pyright: ignore[reportPrivateUsage]

    def pass_by(moment: str) -> None:
        if moment == point and not passed.is_set():
            passed.set()
            os.kill(os.getpid(), sign)

    async def run_plan_on(connection: Any, plan: Plan[Any]) -> Any:
        key = databases[connection._params.database]
        try:
            statement = next(plan)
            while True:
                pass_by(f"before:{statement.name}:{key}")
                rows = await connection.fetch(statement.sql, *statement.args)
                pass_by(f"after:{statement.name}:{key}")
                statement = plan.send(rows)
        except StopIteration as stop:
            return stop.value

    async def close_session(self: Any) -> None:
        pass_by("committed")
        await close(self)

    shared_limits.run_plan_on = run_plan_on
    shared_limits._Session.close = close_session  # pyright: ignore[reportPrivateUsage]
    return passed


async def main() -> None:
    settings, store, worker, task, limit, sign, point = sys.argv[1:]
    home = await Engine.open(Settings(**json.loads(settings)))
    [engine] = [one for one in home.stores.all() if one.key == store]
    await engine.store.fetch("find_limits", 1, ["t"])  # connected before it is armed
    passed = arm(home, point, signal.Signals["SIG" + sign])
    said = ""
    while not passed.is_set():  # on a busy machine a store may answer too late, and nothing is claimed
        try:
            claimed = await claim_runs(engine, WorkerLease(int(worker), 1), tasks=[task], limit=int(limit))
            said = str(len(claimed)) if isinstance(claimed, list) else "lease lost"
        except DATABASE_ERRORS as error:
            said = type(error).__name__
        await asyncio.sleep(0.05)
    sys.stdout.write(said)
    await home.close()


if __name__ == "__main__":
    asyncio.run(main())
