"""Every option of a run, by every way on which a run can be asked for: it does what it says there, or is refused.

A way asks for one run per option, of task t; the option's name is the payload, but for schedules, whose runs tell their
schedule's external id. What the option did is read from the rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
import pytest
from tests.api.support import NDJSON, until
from tests.invariants import fetch_sql
from tests.server_fixture import RunningServer
from tests.worker.helpers import look, trigger, working

from headrace import AsyncClient, Cron, Debounce, Item, Key, Retry, task
from headrace.cli.app import run_command
from headrace.cli.outcome import FAILED, OK, USAGE
from headrace.cli.output import err
from headrace.engine import workers
from headrace.engine.engine import Engine
from headrace.protocol.statuses import RunStatus

pytestmark = pytest.mark.anyio

HOUR: Final = 3600.0
YEARLY: Final = "0 0 1 1 *"

Check = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Option:
    """An option with a value: as Python has it, as the wire and the command line do, and what a run then is."""

    name: str
    value: Any
    wire: dict[str, Any]
    cli: tuple[str, ...]
    holds: Check
    keyed: bool = False
    """It can't be said of a whole batch."""
    more: dict[str, Any] = field(default_factory=dict[str, Any])
    plain: dict[str, Any] = field(default_factory=dict[str, Any])
    """What stands for its value in JSON, where Python has an object."""

    @property
    def given(self) -> dict[str, Any]:
        return {self.name: self.value, **self.more}


def waits(row: Mapping[str, Any], seconds: float) -> bool:
    """Whether a run may start after about so many seconds, and no sooner."""
    until = row["delayed_until"]
    near = until is not None and abs((until - row["created_at"]).total_seconds() - seconds) < 30
    return near and row["ready_at"] == until


def expires(row: Mapping[str, Any], seconds: float) -> bool:
    return row["expires_at"] is not None and (row["expires_at"] - row["created_at"]).total_seconds() == seconds


def goes_before(row: Mapping[str, Any], seconds: float) -> bool:
    return (row["created_at"] - row["ready_at"]).total_seconds() == pytest.approx(seconds, abs=1)


RETRY: Final = {"maxAttempts": 7, "factor": 3.0, "minTimeoutInMs": 2000.0, "maxTimeoutInMs": 9000.0, "randomize": False}

ONCE: Final = Key("once", scope="global").hash()
WINDOW: Final = {"key": "d", "delay": "1h", "mode": "trailing", "maxDelay": "2h"}

OPTIONS: Final = [
    Option("delay", "1h", {"delay": "1h"}, ("--delay", "1h"), lambda row: waits(row, HOUR)),
    Option("ttl", 90, {"ttl": "90s"}, ("--ttl", "90s"), lambda row: expires(row, 90)),
    Option("queue", "q", {"queue": {"name": "q"}}, ("--queue", "q"), lambda row: row["queue"] == "q"),
    Option("priority", 30, {"priority": 30}, ("--priority", "30"), lambda row: goes_before(row, 30)),
    Option("concurrency_key", "k", {"concurrencyKey": "k"}, ("--concurrency-key", "k"), lambda row: (row["concurrency_key"], row["kind"]) == ("k", "keyed")),
    Option("order_key", "o", {"orderKey": "o"}, ("--order-key", "o"), lambda row: (row["order_key"], row["kind"]) == ("o", "ordered")),
    Option("tags", ["a", "b"], {"tags": ["a", "b"]}, ("--tags", "a,b"), lambda row: row["options"]["tags"] == ["a", "b"]),
    Option("metadata", {"n": 1}, {"metadata": {"n": 1}}, ("--metadata", '{"n": 1}'), lambda row: row["options"]["metadata"] == {"n": 1}),
    Option("max_attempts", 5, {"maxAttempts": 5}, ("--max-attempts", "5"), lambda row: row["options"]["maxAttempts"] == 5),
    Option("retry", Retry(max_attempts=7, factor=3, min_delay=2, max_delay=9, jitter=False), {"retry": RETRY}, ("--retry", json.dumps(RETRY)), lambda row: row["options"]["retry"] == RETRY, plain={"retry": RETRY}),
    Option("max_duration", "10s", {"maxDuration": 10}, ("--max-duration", "10s"), lambda row: row["options"]["maxDuration"] == 10),
    Option("version", "v1", {"lockToVersion": "v1"}, ("--lock-to-version", "v1"), lambda row: (row["version"], row["locked"]) == ("v1", True)),
    Option("machine", "micro", {"machine": "micro"}, ("--machine", "micro"), lambda row: row["options"]["machine"] == "micro"),
    Option("test", True, {"test": True}, ("--test",), lambda row: row["options"]["test"] is True),
    Option("idempotency_key", Key("once", scope="global"), {"idempotencyKey": ONCE, "idempotencyKeyTTL": "60s"}, ("--idempotency-key", ONCE, "--idempotency-key-ttl", "60s"), lambda row: row["lasts"] == 60, keyed=True, more={"idempotency_key_ttl": 60}, plain={"idempotency_key": ONCE}),
    Option("debounce", Debounce("d", "1h", mode="trailing", max_delay="2h"), {"debounce": WINDOW}, ("--debounce-key", "d", "--debounce-delay", "1h", "--debounce-mode", "trailing", "--debounce-max-delay", "2h"), lambda row: waits(row, HOUR) and row["debounced"] == "d", keyed=True, plain={"debounce": WINDOW}),
]  # fmt: skip

ROWS: Final = """
SELECT r.created_at, r.ready_at, r.delayed_until, r.expires_at, r.concurrency_key, r.order_key, coalesce(r.options, '{}')::text AS options,
    convert_from(r.payload, 'UTF8') AS payload, l.task, l.queue, l.kind, l.version, l.locked,
    (SELECT round(extract(epoch FROM k.expires_at - r.created_at)) FROM headrace.idempotency_keys AS k
        WHERE k.target_id = r.id AND k.scope = 'task:' || l.task) AS lasts,
    (SELECT r.options #>> '{debounce,key}' FROM headrace.idempotency_keys AS k
        WHERE k.target_id = r.id AND k.scope = 'debounce:' || l.task) AS debounced
FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id WHERE l.task ~ '^(t|d[.].*)$' ORDER BY r.created_at
"""
LEFT: Final = """
SELECT 'a run' AS what FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id WHERE l.task = 't'
UNION ALL SELECT 'a schedule' FROM headrace.schedules UNION ALL SELECT 'a key' FROM headrace.idempotency_keys WHERE scope = 'task:t'
UNION ALL SELECT 'a sealed batch' FROM headrace.batches WHERE sealed_at IS NOT NULL
UNION ALL SELECT 'a declaration' FROM headrace.declarations
"""


@task(id="t")
async def target(name: str) -> None:
    """No worker of these tests has it: its runs stay as they were made."""


class RefusedError(Exception):
    """What was asked for was refused: with a 4xx, before it was sent, or by the command line with code 2."""


@dataclass(frozen=True)
class Asker:
    """Who asks for runs, by each of the ways."""

    server: RunningServer
    engine: Engine
    http: httpx2.AsyncClient
    client: AsyncClient
    folder: Path
    ends: AsyncExitStack
    asked: list[Callable[[], Awaitable[None]]] = field(default_factory=list[Callable[[], Awaitable[None]]])

    async def trigger(self, option: Option) -> None:
        await self._post("/api/v1/tasks/t/trigger", {"payload": option.name, "options": option.wire})

    async def stream(self, option: Option) -> None:
        made = await self.http.post("/api/v3/batches", json={"runCount": 1})
        line = {"index": 0, "task": "t", "payload": option.name, "options": option.wire}
        path = f"/api/v3/batches/{made.json()['id']}/items"
        self._check(await self.http.post(path, content=json.dumps(line), headers=NDJSON))

    async def one_shot(self, option: Option) -> None:
        await self._post(
            "/api/v2/tasks/batch", {"items": [{"task": "t", "payload": option.name, "options": option.wire}]}
        )

    async def schedule(self, option: Option) -> None:
        body = {
            "task": "t",
            "cron": YEARLY,
            "deduplicationKey": option.name,
            "externalId": option.name,
            "catchUp": "one",
        }
        await self._post("/api/v1/schedules", {**body, "options": option.wire})

    async def replay(self, option: Option) -> None:
        first = await self.http.post("/api/v1/tasks/t/trigger", json={"payload": "first"})
        await self._post(f"/api/v1/runs/{first.json()['id']}/replay", {"payload": option.name, "options": option.wire})

    async def client_trigger(self, option: Option) -> None:
        await self.client.trigger("t", option.name, **option.given)

    async def client_item(self, option: Option) -> None:
        await self.client.batch_trigger("t", [Item(option.name, **option.given)])

    async def client_batch(self, option: Option) -> None:
        await self.client.batch_trigger("t", [option.name], **option.given)

    async def client_submit(self, option: Option) -> None:
        await self.client.submit("t", [Item(option.name, **option.given)])

    async def client_transaction(self, option: Option) -> None:
        async with connect(self.server) as connection:
            await self.client.trigger("t", option.name, connection=connection, **option.given)

    async def client_transaction_batch(self, option: Option) -> None:
        async with connect(self.server) as connection:
            await self.client.batch_trigger("t", [Item(option.name, **option.given)], connection=connection)

    async def client_schedule(self, option: Option) -> None:
        named: Any = {"deduplication_key": option.name, "external_id": option.name}
        await self.client.create_schedule("t", YEARLY, catch_up="one", **named, **option.given)

    async def declared(self, option: Option) -> None:
        cron = Cron(YEARLY, catch_up="one", options=option.given)
        task_id = f"d.{option.name}"
        tasks = [workers.TaskRegistration(task_id, f"task/{task_id}", 3, cron=cron)]
        await workers.register_worker(self.engine, "dev", name="test", tasks=tasks)

    async def child(self, option: Option) -> None:
        async def ask() -> None:
            await target.trigger(option.name, **option.given)

        await self._in_a_run(ask)

    async def child_that_is_waited_for(self, option: Option) -> None:
        async def ask() -> None:
            await target.trigger_and_wait(option.name, **option.given)

        await self._in_a_run(ask)

    async def child_item(self, option: Option) -> None:
        async def ask() -> None:
            await target.batch_trigger_and_wait([Item(option.name, **option.given)])

        await self._in_a_run(ask)

    async def child_batch(self, option: Option) -> None:
        async def ask() -> None:
            await target.batch_trigger_and_wait([option.name], **option.given)

        await self._in_a_run(ask)

    async def command(self, option: Option) -> None:
        await self._command("run", "trigger", "t", json.dumps(option.name), *option.cli)

    async def command_batch(self, option: Option) -> None:
        items = self.folder / "items.ndjson"
        items.write_text(json.dumps(option.name), encoding="utf-8")
        await self._command("batch", "run", "t", str(items), *option.cli)

    async def command_schedule(self, option: Option) -> None:
        options = json.dumps({name: option.plain.get(name, value) for name, value in option.given.items()})
        names = ("--key", option.name, "--external-id", option.name)
        await self._command("schedule", "create", "t", YEARLY, *names, "--catch-up", "one", "--options", options)

    async def _post(self, path: str, body: Any) -> None:
        self._check(await self.http.post(path, json=body))

    @staticmethod
    def _check(answer: httpx2.Response) -> None:
        if 400 <= answer.status_code < 500:
            raise RefusedError(answer.json()["error"])
        assert answer.status_code in (200, 202), answer.text

    async def _in_a_run(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Does it in a run, which then ends, or waits for what it asked for."""

        @task(id="parent", retry=Retry(max_attempts=1))
        async def parent(number: int) -> None:
            await self.asked[number]()

        if not self.asked:
            await self.ends.enter_async_context(working(self.engine, parent, wait_linger=0.0))
        self.asked.append(ask)
        run_id = await trigger(self.engine, parent, len(self.asked) - 1)

        async def stands() -> bool:
            run = await look(self.engine, run_id)
            if run.status is RunStatus.FAILED:
                raise RefusedError(str((run.error or {}).get("message")))
            return run.status in (RunStatus.WAITING, RunStatus.COMPLETED)

        await until(stands)

    async def _command(self, *arguments: str) -> None:
        given = ("--api-url", self.server.url, "--api-key", self.server.key, "--json")
        code, told = await asyncio.to_thread(run_told, [*arguments, *given])
        if code == USAGE or (code == FAILED and " 4" in told):  # it saw by itself what is wrong, or the server said so
            raise RefusedError(told)
        assert code == OK, told


@asynccontextmanager
async def connect(server: RunningServer) -> AsyncGenerator[Any]:
    """An open transaction."""
    connection: Any = await asyncpg.connect(server.settings.database_url)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


def run_told(arguments: list[str]) -> tuple[int, str]:
    """The exit code of a command, and what it says of an error."""
    with err.capture() as captured, contextlib.redirect_stdout(io.StringIO()):
        code = run_command(arguments)
    return code, captured.get()


@pytest.fixture
async def asker(server: RunningServer, engine: Engine, tmp_path: Path) -> AsyncGenerator[Asker]:
    headers = {"authorization": f"Bearer {server.key}"}
    async with (
        httpx2.AsyncClient(base_url=server.url, headers=headers, timeout=30) as http,
        AsyncClient(server.url, api_key=server.key) as client,
        AsyncExitStack() as ends,
    ):
        yield Asker(server, engine, http, client, tmp_path, ends)


Way = Callable[[Asker, Option], Awaitable[None]]

SINGLE: Final[list[Way]] = [
    Asker.trigger, Asker.schedule, Asker.replay, Asker.client_trigger, Asker.client_transaction, Asker.client_schedule,
    Asker.declared, Asker.child, Asker.child_that_is_waited_for, Asker.command, Asker.command_schedule,
]  # fmt: skip
ITEMS: Final[list[Way]] = [
    Asker.stream, Asker.one_shot, Asker.client_item, Asker.client_submit, Asker.client_transaction_batch, Asker.child_item,
]  # fmt: skip
SHARED: Final[list[Way]] = [Asker.client_batch, Asker.child_batch, Asker.command_batch]
WAYS: Final = [*SINGLE, *ITEMS, *SHARED]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_each_option_does_what_it_says(asker: Asker, way: Way) -> None:
    meant = [option for option in OPTIONS if not (option.keyed and way in SHARED)]
    for option in meant:
        await way(asker, option)
    await fetch_sql(asker.engine, "UPDATE headrace.schedules SET next_tick = next_tick - interval '1 year'")
    names = {option.name for option in meant}

    async def read() -> dict[str, Mapping[str, Any]]:
        rows: dict[str, Mapping[str, Any]] = {}
        for row in await fetch_sql(asker.engine, ROWS):
            said: Any = json.loads(row["payload"])
            name = said if isinstance(said, str) else said.get("externalId") or row["task"].removeprefix("d.")
            rows.setdefault(name, {**row, "options": json.loads(row["options"])})
        return rows if names <= rows.keys() else {}

    rows = await until(read)
    wrong = {option.name: dict(rows[option.name]) for option in meant if not holds(option, rows[option.name])}
    assert wrong == {}


def holds(option: Option, row: Mapping[str, Any]) -> bool:
    try:
        return option.holds(row)
    except KeyError:
        return False
