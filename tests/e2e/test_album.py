"""examples/album as its README says: ordered, put down while somebody thinks, answered in every way that there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import execute_sql
from tests.e2e.commands import Running, run_headrace, running_headrace
from tests.processes import API_KEY, ServerProcess, make_environment, wait_until

from headrace import Client, RunFailedError

ALBUM = Path(__file__).parents[2] / "examples" / "album"
TEXTS = {"a.txt": "water and water and stone", "b.md": "stone upon stone", "c.rst": "paper"}


@dataclass
class World:
    """A server, a client of it, and a folder with texts."""

    database_url: str
    environment: dict[str, str]
    client: Client
    folder: Path

    def worker(self) -> AbstractContextManager[Running]:
        return running_headrace("worker", "tasks.py", env=self.environment, cwd=ALBUM)

    def order(self, title: str, **changes: Any) -> dict[str, Any]:
        """The payload of an order of all texts."""
        files = sorted(str(path) for path in (self.folder / "texts").iterdir())
        order = {"title": title, "files": files, "folder": str(self.folder), "dries_for": "0.01s"}
        return order | changes

    def await_answer(self, run_id: str) -> dict[str, str]:
        """What a run shows of the answer that it waits for, once it has been put down."""
        run = self.await_run(run_id, lambda run: run["status"] == "WAITING" and "answer" in run.get("metadata", {}))
        return run["metadata"]["answer"]

    def await_run(self, run_id: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        def look() -> bool:
            seen.append(self.client.retrieve_run(run_id))
            return condition(seen[-1])

        wait_until(look, f"what was expected of {run_id}")
        return seen[-1]

    def count_runs(self, task: str) -> int:
        sql = "SELECT count(*) AS n FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id WHERE l.task = $1"
        return execute_sql(self.database_url, sql, task)[0]["n"]


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Generator[World]:
    (tmp_path / "texts").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "texts" / name).write_text(text, encoding="utf-8")
    server = ServerProcess(database_url, str(tmp_path))
    server.start()
    try:
        extra = {"HEADRACE_API_URL": server.url, "HEADRACE_WAIT_LINGER": "0"}
        environment = make_environment(database_url, str(tmp_path), extra)
        with Client(server.url, api_key=API_KEY) as client:
            yield World(database_url, environment, client, tmp_path)
    finally:
        server.stop()


def test_an_album_is_ordered_looked_at_and_printed_though_the_worker_is_killed_meanwhile(world: World) -> None:
    ordering = subprocess.Popen(
        [sys.executable, str(ALBUM / "order.py"), str(world.folder / "texts"), "guide"],
        env=world.environment,
        cwd=world.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with world.worker() as worker:
            wait_until(lambda: bool(world.client.list_runs(task="album.make")["data"]), "the order")
            run_id: str = world.client.list_runs(task="album.make")["data"][0]["id"]
            answer = world.await_answer(run_id)
            worker.process.kill()
            worker.process.wait()
        drafted = Path(answer["draft"]).stat()
        with world.worker():
            told = run_headrace(
                "token", "complete", answer["token"], '{"approved": true, "by": "Ada"}', env=world.environment
            )
            assert told.returncode == 0, told.stderr
            out, errors = ordering.communicate(timeout=60)
        assert ordering.returncode == 0, errors
    finally:
        ordering.kill()
        ordering.communicate()
    assert out.startswith(f"{run_id}: 3 files\n")
    assert f"headrace token complete {answer['token']}" in out
    assert out.endswith(f"approved by Ada: 3 pages, 9 words, 0 unreadable\n{world.folder / 'guide.txt'}\n")
    printed = (world.folder / "guide.txt").stat()
    assert (printed.st_ino, printed.st_mtime_ns) == (drafted.st_ino, drafted.st_mtime_ns)  # written once, then renamed
    assert "frequent: stone, water, upon, paper" in (world.folder / "guide.txt").read_text(encoding="utf-8")
    assert world.count_runs("album.count") == 3
    assert world.count_runs("album.print") == 1
    run = world.client.retrieve_run(run_id)
    assert run["metadata"] == {"counted": 3}
    assert [attempt["number"] for attempt in run["attempts"]] == [1]


def test_whoever_has_the_url_can_say_no(world: World) -> None:
    with world.worker():
        handle = world.client.trigger("album.make", world.order("plain"))
        answer = world.await_answer(handle.id)
        assert httpx2.post(answer["url"], json={"approved": False}).status_code == 200
        assert handle.result(timeout=30)["status"] == "declined"
    assert Path(answer["draft"]).exists()
    assert world.count_runs("album.print") == 0


def test_without_an_answer_it_ends_by_itself(world: World) -> None:
    with world.worker():
        album = world.client.trigger("album.make", world.order("late", answer_within="0.2s")).result(timeout=30)
    assert (album["status"], album["printed"]) == ("unanswered", None)


def test_what_is_no_answer_ends_it_in_words(world: World) -> None:
    with world.worker():
        handle = world.client.trigger("album.make", world.order("odd"))
        world.client.complete_token(world.await_answer(handle.id)["token"], "maybe")
        with pytest.raises(RunFailedError, match="Abort: that is no answer"):
            handle.result(timeout=30)
    assert len(handle.retrieve()["attempts"]) == 1


def test_a_file_that_is_no_text_is_named_and_does_not_spoil_the_album(world: World) -> None:
    bad = world.folder / "texts" / "b.bin"
    bad.write_bytes(b"\xff\xfe\xff")
    with world.worker():
        handle = world.client.trigger("album.make", world.order("mixed", answer_within="0.01s"))
        album = handle.result(timeout=30)
    assert (album["pages"], album["unreadable"]) == (3, [str(bad)])


def test_a_shelf_waits_for_its_albums_in_a_thread(world: World) -> None:
    with world.worker():
        handle = world.client.trigger("album.shelf", [world.order("one"), world.order("two"), world.order("three")])
        runs: list[str] = []

        def are_there() -> bool:
            runs[:] = [run["id"] for run in world.client.list_runs(task="album.make")["data"]]
            return len(runs) == 3

        wait_until(are_there, "three albums")
        world.await_run(handle.id, lambda run: run["status"] == "WAITING")
        for place, run_id in enumerate(runs):
            world.client.complete_token(world.await_answer(run_id)["token"], {"approved": place != 1})
        assert handle.result(timeout=30) == 2
