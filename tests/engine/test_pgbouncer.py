"""The engine behind PgBouncer in transaction mode, with fewer server connections than clients."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from headrace.engine import batches, runs, sweeps
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated, Sealed
from headrace.errors import ConfigurationError
from headrace.protocol.options import RunOptions
from headrace.protocol.statuses import BatchStatus
from headrace.settings import Settings
from headrace.store.migrate import find_missing_migrations
from tests.engine.helpers import claim, finish, look, make_items, open_batch, register
from tests.invariants import assert_invariants
from tests.processes import find_port, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def pooled(settings: Settings, tmp_path: Path) -> Generator[Settings]:
    """Settings that lead through a PgBouncer with two server connections."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    parts = urlsplit(settings.database_url)
    host, name = parse_qs(parts.query)["host"][0], parts.path.strip("/")
    port = find_port()
    folder = tmp_path / "pgbouncer"
    folder.mkdir()
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "config").write_text(
        f"[databases]\n{name} = host={host} dbname={name} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100\n"
    )
    command = [program, "-q", str(folder / "config")]
    if os.geteuid() == 0:  # it refuses to run as root
        owner = pwd.getpwuid(Path(host).stat().st_uid)  # who may reach PostgreSQL's socket
        command[1:1] = ["-u", owner.pw_name]
        _open_to(folder, owner)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"postgresql://postgres@127.0.0.1:{port}/{name}"

    def answers() -> bool:
        assert process.poll() is None, "PgBouncer ended"
        try:
            asyncio.run(find_missing_migrations(url))
        except ConfigurationError:
            return False
        return True

    try:
        wait_until(answers, "PgBouncer answers")
        yield replace(settings, database_url=url, pooler="transaction", pool_size=8)
    finally:
        process.terminate()
        process.wait()


def _open_to(folder: Path, user: pwd.struct_passwd) -> None:
    for path in [folder, *folder.iterdir()]:
        os.chown(path, user.pw_uid, user.pw_gid)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)


async def test_batches_runs_and_sweeps_behind_pgbouncer(pooled: Settings) -> None:
    engine = await Engine.open(pooled, listen=True)
    try:
        assert not engine.notices.listening  # nothing to listen on through a pooler: polling does it

        async def one_batch(number: int) -> None:
            batch = await open_batch(engine, 300)
            for first in range(0, 300, 50):
                await batches.store_chunk(
                    engine, 1, batch, make_items(first, 50, key=f"{number}" if first == 50 else None)
                )
            assert isinstance(await batches.end_stream(engine, 1, batch.id), Sealed)
            lease = await register(engine)
            while (await look(engine, batch)).completed_at is None:
                await finish(engine, lease, await claim(engine, lease, 40))
            assert (await look(engine, batch)).status == BatchStatus.COMPLETED

        await asyncio.gather(*(one_batch(number) for number in range(6)), sweeps.sweep_once(engine))
        made = await runs.trigger_run(engine, 1, "t", Packet(b"1"), RunOptions(idempotency_key="k"), request_id="r")
        assert isinstance(made, RunCreated)
        await assert_invariants(engine)
    finally:
        await engine.close()
