"""examples/retain as its README says, on the texts of the packages that are installed here, and under fire."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from examples.retain.chunks import make_chunks
from examples.retain.documents import Document
from examples.retain.embedding import MODEL
from examples.retain.library import Library, open_library
from examples.retain.sources import read_installed
from examples.retain.submission import submit_documents
from tests.e2e.commands import Running, running_headrace
from tests.invariants import assert_invariants_on
from tests.processes import API_KEY, ServerProcess, make_environment

from headrace import AsyncClient, BatchTriggerError, Failed, Ok

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"
ONE_EACH = 1
"""Bytes of a parcel: each document travels alone."""

PARAGRAPHS = [f"Paragraph {number} is about {word}. " + f"It says {word} again and again. " * 12 for number, word in enumerate(
    ["water", "stone", "paper", "iron", "wool", "glass", "salt", "oak", "clay", "wind"])]  # fmt: skip


@dataclass
class World:
    """A server, and what a user of the example has: its environment and its command line."""

    database_url: str
    server: ServerProcess
    environment: dict[str, str]

    def client(self) -> AsyncClient:
        return AsyncClient(self.server.url, api_key=API_KEY)

    def library(self) -> Any:
        return open_library(self.database_url)

    def worker(self) -> AbstractContextManager[Running]:
        return running_headrace("worker", "retain.tasks", env=self.environment, cwd=EXAMPLES)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "retain", *arguments],
            env=self.environment,
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncGenerator[World]:
    server = ServerProcess(database_url, str(tmp_path))
    server.start()
    environment = make_environment(database_url, str(tmp_path), {"HEADRACE_API_URL": server.url})
    environment["RETAIN_DATABASE_URL"] = database_url
    async with open_library(database_url) as library:
        await library.prepare()
    yield World(database_url, server, environment)
    server.stop()


@pytest.fixture
async def library(database_url: str) -> AsyncGenerator[Library]:
    async with open_library(database_url) as opened:
        await opened.prepare()
        yield opened


async def fetch(url: str, sql: str, *args: Any) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetch(sql, *args)
    finally:
        await connection.close()


async def read_chunks(url: str) -> dict[str, list[Any]]:
    """All chunks by document, in order."""
    rows = await fetch(url, "SELECT *, embedding::text AS vector FROM retain.chunks ORDER BY document, position")
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row["document"], []).append(row)
    return found


async def assert_whole(url: str, *versions: Document) -> dict[str, Document]:
    """Every document that is there is there whole: in one of ``versions``, chunks and tags. Which one, by id."""
    chunks = await read_chunks(url)
    held: dict[str, Document] = {}
    for row in await fetch(url, "SELECT id, tags FROM retain.documents"):
        name, found = row["id"], chunks.pop(row["id"], [])
        body = "".join(chunk["body"] for chunk in found)
        matching = [one for one in versions if one.id == name and one.body == body and one.tags == row["tags"]]
        assert matching, f"{name} is there by half"
        expected = make_chunks(body, MODEL)
        assert [(one["hash"], one["nth"], one["position"]) for one in found] == [
            (one.hash, one.nth, one.position) for one in expected
        ]
        assert all(one["tags"] == row["tags"] for one in found)
        held[name] = matching[0]
    assert chunks == {}
    return held


def write(name: str, *numbers: int, tags: Iterable[str] = ()) -> Document:
    """A document of these paragraphs."""
    return Document(name, "\n\n".join(PARAGRAPHS[number] for number in numbers), sorted(tags))


# As the README says


async def test_the_texts_of_the_installed_packages_are_kept_and_found(world: World):
    documents = list(read_installed())
    assert len(documents) > 50
    with world.worker():
        added = await asyncio.to_thread(world.run, "add", "--installed", "--tag", "here", "--key", "first")
        assert added.returncode == 0, added.stderr
        told = re.match(r"(batch_\w+): (\d+) documents in (\d+) parcels\n", added.stdout)
        assert told
        batch_id, stored, parcels = told.groups()
        assert int(stored) == len(documents)
        assert int(parcels) > 10
        assert added.stdout.count("so far") == int(parcels)
        assert f"done: {len(documents)} changed" in added.stdout

        repeated = await asyncio.to_thread(world.run, "add", "--installed", "--tag", "here", "--key", "first")
        assert repeated.stdout.startswith(batch_id)
        again = await asyncio.to_thread(world.run, "add", "--installed", "--tag", "here")
        assert not again.stdout.startswith(batch_id)
        assert f"done: {len(documents)} unchanged; chunks:" in again.stdout
        assert "embedded" not in again.stdout
        followed = await asyncio.to_thread(world.run, "follow", batch_id)
        assert f"done: {len(documents)} changed" in followed.stdout

    held = await assert_whole(
        world.database_url, *(Document(one.id, one.body, sorted({*one.tags, "here"})) for one in documents)
    )
    assert len(held) == len(documents)
    question = ["the software is provided as is, without warranty of any kind", "--tag", "license", "--limit", "3"]
    found = await asyncio.to_thread(world.run, "search", *question)
    assert found.returncode == 0
    first, text, *_ = found.stdout.splitlines()
    assert re.fullmatch(r"0\.\d{3}  \S+\.dist-info/\S+ \[\d+\]  here license package:\S+", first)
    assert "warrant" in text.lower()
    nothing = await asyncio.to_thread(world.run, "search", "anything", "--tag", "no such tag")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    await check_invariants(world.database_url)


async def check_invariants(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await assert_invariants_on(connection)
    finally:
        await connection.close()


async def test_files_and_folders_are_read(world: World, tmp_path: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("Oak is a wood.", encoding="utf-8")
    (tmp_path / "notes" / "b.py").write_text("no_text = True", encoding="utf-8")
    (tmp_path / "plain").write_bytes(b"Iron is a metal.\xff\0")
    with world.worker():
        added = await asyncio.to_thread(world.run, "add", str(tmp_path / "notes"), str(tmp_path / "plain"))
        assert added.returncode == 0, added.stderr
    names = {Path(name).name for name in await read_chunks(world.database_url)}
    assert names == {"a.md", "plain"}
    found = await asyncio.to_thread(world.run, "search", "metal", "--limit", "1")
    assert "Iron is a metal" in found.stdout
    for name in ("large", "larger"):
        (tmp_path / name).write_text("word " * 400_000, encoding="utf-8")
    for arguments, told in (
        ([tmp_path / "none"], "no text in what you named"),
        ([tmp_path / "plain", tmp_path / "plain"], "there more often"),
        ([tmp_path / "large", tmp_path / "larger"], "batch_trigger() takes a batch of any length"),
    ):
        refused = await asyncio.to_thread(world.run, "add", *map(str, arguments))
        assert refused.returncode == 2
        assert told in refused.stderr
        assert "Traceback" not in refused.stderr
    assert len(await fetch(world.database_url, "SELECT 1 FROM headrace.batches")) == 1


# What a re-submission does


async def test_a_changed_document_replaces_exactly_its_own_chunks(world: World):
    before = [write("a", *range(10), tags=["x"]), write("b", *range(10))]
    after = Document("a", before[0].body.replace("salt", "pepper"), ["x"])
    async with world.client() as client, world.library() as library:
        with world.worker():
            first = await submit_documents(client, library, before)
            assert (await first.wait(timeout=60))["status"] == "COMPLETED"
            old = await read_chunks(world.database_url)
            rows = "SELECT ctid::text, xmin::text, * FROM retain.chunks WHERE document = 'b' ORDER BY position"
            untouched = await fetch(world.database_url, rows)
            second = await submit_documents(client, library, [after])
            [[report]] = [outcome.unwrap() async for outcome in second.results()]
    assert (report.state, report.embedded, report.removed) == ("changed", 1, 1)
    assert report.kept == len(old["a"]) - 1 > 3
    new = await read_chunks(world.database_url)
    assert [one["embedded_by"] for one in new["a"]].count(2) == 1
    kept = {one["hash"]: one["vector"] for one in new["a"] if one["embedded_by"] == 1}
    assert kept.items() <= {one["hash"]: one["vector"] for one in old["a"]}.items()
    assert await fetch(world.database_url, rows) == untouched
    await assert_whole(world.database_url, after, before[1])


async def test_an_unchanged_document_does_no_work_and_new_tags_embed_nothing(library: Library, database_url: str):
    first = write("a", 1, 2, 3, 4, tags=["x"])
    await library.retain(first, 1)
    before = await fetch(database_url, "SELECT ctid::text, xmin::text, * FROM retain.chunks ORDER BY position")
    assert (await library.retain(first, 2)).state == "unchanged"
    assert await fetch(database_url, "SELECT ctid::text, xmin::text, * FROM retain.chunks ORDER BY position") == before
    tagged = Document("a", first.body, ["x", "y"])
    report = await library.retain(tagged, 3)
    assert (report.state, report.embedded, report.removed, report.kept) == ("changed", 0, 0, len(before))
    await assert_whole(database_url, tagged)


async def test_a_paragraph_moved_or_repeated_keeps_every_chunk_in_its_place(library: Library, database_url: str):
    versions = [write("a", *numbers) for numbers in ([1, 2, 3], [3, 1, 2], [1, 1, 2, 2, 1], [2], [], [1, 2, 3])]
    for sequence, version in enumerate(versions, 1):
        await library.retain(version, sequence)
        await assert_whole(database_url, version)


async def test_tags_travel_to_every_chunk_and_to_the_runs(world: World):
    async with world.client() as client, world.library() as library:
        documents = [write("a", *range(8), tags=["own"]), write("b", 1)]
        batch = await submit_documents(client, library, documents, tags=["all"], parcel_bytes=ONE_EACH)
        assert batch.run_count == 2
        with world.worker():
            await batch.wait(timeout=60)
        runs = (await client.list_runs(tag="all"))["data"]
        assert len(runs) == 2
        assert len(await library.search("wind", tags=["own"], limit=100)) == len(make_chunks(documents[0].body, MODEL))
        everywhere = await library.search("wind", tags=["all"], limit=100)
        assert {one.document for one in everywhere} == {"a", "b"}


@pytest.mark.parametrize("parcel_bytes", [ONE_EACH, 3000, 10**9])
async def test_what_is_stored_does_not_depend_on_how_it_travelled(world: World, parcel_bytes: int):
    documents = [write(f"d{size}", *range(size)) for size in range(10)]
    async with world.client() as client, world.library() as library:
        batch = await submit_documents(client, library, documents, parcel_bytes=parcel_bytes)
        assert batch.run_count == {ONE_EACH: 10, 3000: 7, 10**9: 1}[parcel_bytes]
        with world.worker():
            await batch.wait(timeout=60)
    stored = [
        (one["document"], one["position"], one["body"], one["vector"])
        for chunks in (await read_chunks(world.database_url)).values()
        for one in chunks
    ]
    async with open_library(world.database_url) as library:
        await fetch(world.database_url, "DELETE FROM retain.documents")
        for document in reversed(documents):
            await library.retain(document, 100)
    alone = [
        (one["document"], one["position"], one["body"], one["vector"])
        for chunks in (await read_chunks(world.database_url)).values()
        for one in chunks
    ]
    assert stored == alone


# Order


async def test_of_two_submissions_the_later_stays_whatever_order_they_run_in(library: Library, database_url: str):
    early, late = write("a", 1, 2), write("a", 3)
    assert (await library.retain(late, 2)).state == "changed"
    assert (await library.retain(early, 1)).state == "superseded"
    await assert_whole(database_url, late)


async def test_an_attempt_that_is_repeated_says_again_what_the_first_one_did(library: Library, database_url: str):
    first = await library.retain(write("a", 1, 2), 1)
    second = await library.retain(write("a", 1, 3, 4), 2)
    assert second.embedded > 0
    assert await library.retain(write("a", 1, 3, 4), 2) == second != first


async def test_many_submissions_of_one_document_at_once_leave_the_last(world: World):
    """Two workers take twenty submissions of five documents in any order, some at the same moment."""
    chance = random.Random(11)
    versions: list[Document] = []
    async with world.client() as client, world.library() as library:
        batches: list[Any] = []
        for _ in range(20):
            documents = [write(f"d{number}", *chance.sample(range(10), 4)) for number in range(5)]
            versions += documents
            batches.append(await submit_documents(client, library, documents, parcel_bytes=ONE_EACH))
        with world.worker(), world.worker():
            for batch in batches:
                ended = await batch.wait(timeout=90)
                assert ended["progress"]["succeeded"] == ended["runCount"] == 5
    held = await assert_whole(world.database_url, *versions)
    assert {name: one.body for name, one in held.items()} == {one.id: one.body for one in versions[-5:]}


async def test_a_submission_repeated_under_its_key_keeps_its_place_in_the_order(world: World):
    """Its answer was lost; meanwhile somebody else submitted the same document."""
    early, late = write("a", 1), write("a", 2)
    async with world.client() as client, world.library() as library:
        first = await submit_documents(client, library, [early], key="k")
        await submit_documents(client, library, [late])
        again = await submit_documents(client, library, [early], key="k")
        assert again.id == first.id
        with pytest.raises(BatchTriggerError) as raised:
            await submit_documents(client, library, [late], key="k")
        assert raised.value.status == 409
        with world.worker():
            await first.wait(timeout=60)
            await wait_for_documents(world.database_url, 1, "sequence = 2")
    await assert_whole(world.database_url, late)


async def wait_for_documents(url: str, number: int, condition: str = "true") -> None:
    async def count() -> int:
        return (await fetch(url, f"SELECT count(*) AS n FROM retain.documents WHERE {condition}"))[0]["n"]

    async with asyncio.timeout(60):
        while await count() < number:
            await asyncio.sleep(0.02)


# When things break


@asynccontextmanager
async def holding(url: str, document_id: str) -> AsyncGenerator[None]:
    """Keeps everybody else from writing a document: whoever comes to it stands in the middle of its parcel."""
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("INSERT INTO retain.documents (id, sequence) VALUES ($1, 0)", document_id)
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def test_a_worker_killed_in_the_middle_of_a_parcel_leaves_no_half_document(world: World):
    documents = [write(f"d{number}", *range(number, 10), tags=["t"]) for number in range(8)]
    async with world.client() as client, world.library() as library:
        batch = await submit_documents(client, library, documents, parcel_bytes=10**9)
        assert batch.run_count == 1
        async with holding(world.database_url, "d5"):
            with world.worker() as worker:
                await wait_for_documents(world.database_url, 5)
                waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%retain.documents%'"
                async with asyncio.timeout(30):
                    while not await fetch(world.database_url, waits):
                        await asyncio.sleep(0.02)
                # progress is visible, and so is what is there already
                shown = await batch.retrieve()
                assert (shown["status"], shown["progress"]["settled"]) == ("PROCESSING", 0)
                run = await client.retrieve_run(shown["runs"][0])
                assert run["metadata"]["progress"] == {"done": 5, "failed": 0, "of": 8}
                assert {one.document for one in await library.search("wind", limit=100)} == {f"d{n}" for n in range(5)}
                worker.process.kill()
                worker.process.wait()
        held = await assert_whole(world.database_url, *documents)
        assert sorted(held) == [f"d{number}" for number in range(5)]
        before = await fetch(world.database_url, "SELECT ctid::text, xmin::text, document, nth FROM retain.chunks")
        with world.worker():
            [reports] = [outcome.unwrap() async for outcome in batch.results()]
        assert [(one.document, one.state) for one in reports] == [(f"d{number}", "changed") for number in range(8)]
        assert sum(one.embedded for one in reports) == len(
            await fetch(world.database_url, "SELECT 1 FROM retain.chunks WHERE embedded_by = 1")
        )
        after = await fetch(world.database_url, "SELECT ctid::text, xmin::text, document, nth FROM retain.chunks")
        assert set(before) <= set(after), "what the first attempt had stored was not touched"
        run = await client.retrieve_run(run["id"])
        assert run["attemptCount"] == 2
        assert run["metadata"]["progress"] == {"done": 8, "failed": 0, "of": 8}
    assert len(await assert_whole(world.database_url, *documents)) == 8
    await check_invariants(world.database_url)


async def test_a_run_canceled_in_the_middle_of_a_parcel_leaves_no_half_document(world: World):
    documents = [write(f"d{number}", *range(number, 10)) for number in range(8)]
    async with world.client() as client, world.library() as library:
        batch = await submit_documents(client, library, documents, parcel_bytes=10**9)
        [run_id] = (await batch.retrieve())["runs"]
        with world.worker() as worker:
            async with holding(world.database_url, "d5"):
                await wait_for_documents(world.database_url, 5)
                await client.cancel_run(run_id)
                [outcome] = [outcome async for outcome in batch.results()]
                assert (outcome.ok, outcome.status if isinstance(outcome, Failed) else None) == (False, "CANCELED")
            # the same worker goes on with what comes next, and nothing of the canceled run comes after it
            later = await submit_documents(client, library, [write("later", 1)])
            await later.wait(timeout=60)
            assert worker.end(signal.SIGTERM) == 0
    held = await assert_whole(world.database_url, *documents, write("later", 1))
    assert set(held) - {"d5"} == {*(f"d{number}" for number in range(5)), "later"}
    await check_invariants(world.database_url)


async def test_a_connection_that_dies_at_any_statement_leaves_the_old_or_the_new(library: Library, database_url: str):
    """Cancel by kill: the server's end of the connection is terminated after the first, second, ... statement."""
    old, new = write("a", 1, 2, 3, tags=["x"]), write("a", 2, 4, 5, tags=["y"])
    await library.retain(old, 1)
    statements = 0
    while True:
        async with open_library(database_url) as victim:
            dying = DyingConnection(victim._connection, database_url, statements)
            try:
                report = await Library(dying).retain(new, 2)  # pyright: ignore[reportArgumentType]
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await assert_whole(database_url, old)
                assert await fetch(database_url, "SELECT sequence FROM retain.documents WHERE sequence <> 1") == []
                statements += 1
                continue
        break
    assert statements >= 6
    assert report.state == "changed"
    await assert_whole(database_url, new)


class DyingConnection:
    """A connection whose process in the server is terminated before the statement with this number."""

    def __init__(self, connection: Any, url: str, statements: int) -> None:
        self._connection = connection
        self._url = url
        self._left = statements

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)
        if name == "transaction":
            return method

        async def call(*args: Any) -> Any:
            if self._left == 0:
                pid = self._connection.get_server_pid()
                await fetch(self._url, "SELECT pg_terminate_backend($1, 5000)", pid)
            self._left -= 1
            return await method(*args)

        return call


async def test_one_bad_document_does_not_take_its_neighbours_with_it(world: World):
    documents = [write("a", 1), Document("b", "PostgreSQL takes no \0 in a text", []), write("c", 2)]
    async with world.client() as client, world.library() as library:
        batch = await submit_documents(client, library, documents)
        other = await submit_documents(client, library, [write("d", 3)])
        with world.worker():
            [outcome] = [outcome async for outcome in batch.results()]
            match [outcome async for outcome in other.results()]:
                case [Ok()]:
                    pass
                case unexpected:
                    pytest.fail(str(unexpected))
        match outcome:
            case Failed(status="FAILED", error=error):
                assert error["message"].startswith("1 of 3 documents failed: b: ")
            case _:
                pytest.fail(str(outcome))
    assert sorted(await assert_whole(world.database_url, *documents, write("d", 3))) == ["a", "c", "d"]


async def test_what_can_t_be_submitted_leaves_nothing(world: World):
    async with world.client() as client, world.library() as library:
        with pytest.raises(ValueError, match=r"more often: a$"):
            await submit_documents(client, library, [write("a", 1), write("b", 1), write("a", 2)])
        with pytest.raises(BatchTriggerError, match="at least one item"):
            await submit_documents(client, library, [])
        with pytest.raises(BatchTriggerError, match="batch_trigger"):
            await submit_documents(client, library, [Document(f"d{number}", "x" * 10**6) for number in range(4)])
    assert await fetch(world.database_url, "SELECT 1 FROM headrace.batches") == []
    assert os.environ.get("RETAIN_DATABASE_URL") is None


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own library is none of a test's business."""
    monkeypatch.delenv("RETAIN_DATABASE_URL", raising=False)
