"""The chapter docs/tutorial/waiting.md does what it says: its tasks on a worker, its programs as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.commands import running_headrace
from tests.processes import API_KEY, ServerProcess, make_environment, wait_until

from headrace import Client

CHAPTER = Path(__file__).parents[2] / "docs" / "tutorial" / "waiting.md"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Reader:
    """Somebody who has typed in all tasks of the chapter; waits are shorter here."""

    folder: Path
    environment: dict[str, str]
    client: Client

    @contextmanager
    def started(self, name: str) -> Generator[subprocess.Popen[str]]:
        """The program of the chapter that imports ``name``."""
        [program] = [one for one in read_programs() if f"import {name}\n" in one]
        with subprocess.Popen(
            [sys.executable, "-u", "-c", program],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, name: str) -> str:
        """What that program prints."""
        with self.started(name) as program:
            out, errors = program.communicate(timeout=60)
        assert program.returncode == 0, errors
        return out


def read_programs() -> list[str]:
    return [one for one in PYTHON.findall(CHAPTER.read_text(encoding="utf-8")) if "Client()" in one]


def read_tasks() -> str:
    text = "\n\n".join(one for one in PYTHON.findall(CHAPTER.read_text(encoding="utf-8")) if "Client()" not in one)
    return re.sub(r'wait\.for_\("\d+s"\)', 'wait.for_("0.2s")', text)


@pytest.fixture
def reader(database_url: str, tmp_path: Path) -> Generator[Reader]:
    (tmp_path / "tasks.py").write_text(read_tasks(), encoding="utf-8")
    server = ServerProcess(database_url, str(tmp_path))
    server.start()
    try:
        extra = {"HEADRACE_API_URL": server.url, "HEADRACE_WAIT_LINGER": "0", "PYTHONUNBUFFERED": "1"}
        environment = make_environment(database_url, str(tmp_path), extra)
        with Client(server.url, api_key=API_KEY) as client:
            yield Reader(tmp_path, environment, client)
    finally:
        server.stop()


def test_the_chapter_on_waiting(reader: Reader) -> None:
    client = reader.client
    with running_headrace("worker", "tasks.py", env=reader.environment, cwd=reader.folder) as worker:
        assert reader.run("compare") == "4 against 2\n4 against nothing: there is nothing to count\n"
        assert len(client.list_runs(limit=100)["data"]) == 6
        assert client.trigger("count_all", ["to be", "or not to be"]).result(timeout=30) == 6
        assert reader.run("count_slowly") == "4000 {'progress': 1.0}\n"
        assert reader.run("remind").endswith("it still has 4 words\n")
        assert 0 <= client.trigger("raffle", 10).result(timeout=30) < 10
        assert client.trigger("count_both", ["a b", "c d e", "f"]).result(timeout=30) == 6
        wait_until(lambda: worker.stdout.count("the raffle begins, or goes on") == 2, "the raffle's second beginning")
        assert worker.stdout.count("a lot is drawn") == 1

    with reader.started("publish") as program:
        with running_headrace("worker", "tasks.py", env=reader.environment, cwd=reader.folder) as worker:
            wait_until(lambda: bool(client.list_tokens(status="WAITING")["data"]), "the token")
            wait_until(lambda: bool(client.list_runs(status="WAITING")["data"]), "the run that waits for it")
            worker.process.kill()
            worker.process.wait()
        [token] = client.list_tokens(status="WAITING", tag="approval")["data"]
        with running_headrace("worker", "tasks.py", env=reader.environment, cwd=reader.folder):
            client.complete_token(token["id"], {"yes": True, "by": "Ada"})
            out, errors = program.communicate(timeout=60)
    assert out.endswith("Ada says yes\n"), errors
