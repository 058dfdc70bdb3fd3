"""A PgBouncer in transaction mode for tests, with fewer server connections than clients."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from headrace.errors import ConfigurationError
from headrace.store.migrate import find_missing_migrations
from tests.processes import find_port, wait_until


@contextmanager
def running_pgbouncer(database_url: str, folder: Path) -> Generator[str]:
    """The URL of a database through a PgBouncer with two server connections, until the block ends."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    parts = urlsplit(database_url)
    host, name = parse_qs(parts.query)["host"][0], parts.path.strip("/")
    port = find_port()
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
        yield url
    finally:
        process.terminate()
        process.wait()


def _open_to(folder: Path, user: pwd.struct_passwd) -> None:
    for path in [folder, *folder.iterdir()]:
        os.chown(path, user.pw_uid, user.pw_gid)
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o111)
