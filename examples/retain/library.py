"""Where chunks are kept: PostgreSQL with pgvector. One transaction a document, so none is ever there by half."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from .chunks import Chunk, hash_text, make_chunks
from .documents import Document, Retained
from .embedding import MODEL, embed_texts


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk that a search found. ``score`` is the cosine of the angle between it and the question, 1 at best."""

    document: str
    position: int
    body: str
    tags: list[str]
    score: float


@asynccontextmanager
async def open_library(url: str | None = None) -> AsyncGenerator[Library]:
    """The library in the database of RETAIN_DATABASE_URL, or else in that which headrace itself uses."""
    found = url or os.environ.get("RETAIN_DATABASE_URL") or os.environ.get("HEADRACE_DATABASE_URL")
    if not found:
        raise LookupError("Set RETAIN_DATABASE_URL to the PostgreSQL in which chunks are to be kept.")
    connection: Any = await asyncpg.connect(found)
    try:
        yield Library(connection)
    finally:
        await connection.close()


class Library:
    """Documents and their chunks, on one connection."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    async def prepare(self) -> None:
        """Makes the tables where they are not there yet."""
        schema = Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")
        async with self._connection.transaction():
            await self._connection.execute(schema)

    async def take_sequence(self, key: str | None = None) -> int:
        """The place of a new submission in the order of all; of one with a key that was seen before, the place it has."""
        if key is None:
            return await self._connection.fetchval("SELECT nextval('retain.submission_order')")
        return await self._connection.fetchval(
            "INSERT INTO retain.submissions (key) VALUES ($1) ON CONFLICT (key) DO UPDATE SET key = excluded.key"
            " RETURNING sequence",
            key,
        )

    async def retain(self, document: Document, sequence: int) -> Retained:
        """Makes the library hold this document's chunks and no others of it, unless a later submission has been there.

        Whatever order submissions are worked off in, the one with the highest sequence is what stays. Called again for the
        same submission it changes nothing, and says what it did.
        """
        chunks = make_chunks(document.body, MODEL)
        # Embedding takes a while: it is done before anything is locked, for the chunks that are not there as far as one
        # can see. If another submission comes in between, what is then missing is embedded under the lock.
        vectors = await _embed_new(chunks, await self._list_chunks(document.id), {})
        async with self._connection.transaction():
            row: Any = await self._connection.fetchrow(
                "INSERT INTO retain.documents (id, sequence) VALUES ($1, 0) ON CONFLICT (id) DO UPDATE SET id = excluded.id"
                " RETURNING sequence, hash, tags, report",  # the row is locked, also where it was there
                document.id,
            )
            if row["sequence"] > sequence:
                return Retained(document.id, "superseded")
            if row["sequence"] == sequence:  # an attempt before this one came so far
                return msgspec.json.decode(row["report"], type=Retained)
            digest = hash_text(document.body, MODEL)
            if row["hash"] == digest and row["tags"] == document.tags:
                report = Retained(document.id, "unchanged", kept=len(chunks))
            else:
                report = await self._replace_chunks(document, sequence, chunks, vectors)
            await self._connection.execute(
                "UPDATE retain.documents SET sequence = $2, hash = $3, tags = $4, report = $5 WHERE id = $1",
                document.id,
                sequence,
                digest,
                document.tags,
                msgspec.json.encode(report).decode(),
            )
        return report

    async def search(self, question: str, *, tags: Sequence[str] = (), limit: int = 5) -> list[Found]:
        """The chunks nearest to a question in meaning, of those that have all of ``tags``."""
        rows = await self._connection.fetch(
            "SELECT document, position, body, tags, 1 - (embedding <=> $1::text::vector) AS score FROM retain.chunks"
            " WHERE tags @> $2::text[] ORDER BY embedding <=> $1::text::vector LIMIT $3",
            embed_texts([question])[0],
            list(tags),
            limit,
        )
        return [Found(**row) for row in rows]

    async def _list_chunks(self, document_id: str) -> dict[tuple[bytes, int], int]:
        rows = await self._connection.fetch(
            "SELECT hash, nth, position FROM retain.chunks WHERE document = $1", document_id
        )
        return {(row["hash"], row["nth"]): row["position"] for row in rows}

    async def _replace_chunks(
        self, document: Document, sequence: int, chunks: list[Chunk], vectors: dict[bytes, str]
    ) -> Retained:
        """Takes out what the document no longer says, puts in what it says now, leaves the rest where it is."""
        stored = await self._list_chunks(document.id)
        vectors = await _embed_new(chunks, stored, vectors)
        wanted = {(chunk.hash, chunk.nth) for chunk in chunks}
        gone = stored.keys() - wanted
        fresh = [chunk for chunk in chunks if (chunk.hash, chunk.nth) not in stored]
        await self._connection.executemany(
            "DELETE FROM retain.chunks WHERE document = $1 AND hash = $2 AND nth = $3",
            [(document.id, *name) for name in gone],
        )
        await self._connection.executemany(
            "UPDATE retain.chunks SET position = $4, tags = $5 WHERE document = $1 AND hash = $2 AND nth = $3"
            " AND (position, tags) IS DISTINCT FROM ($4, $5)",
            [
                (document.id, chunk.hash, chunk.nth, chunk.position, document.tags)
                for chunk in chunks
                if (chunk.hash, chunk.nth) in stored
            ],
        )
        await self._connection.executemany(
            "INSERT INTO retain.chunks (document, hash, nth, position, body, tags, embedded_by, embedding)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::vector)",
            [
                (document.id, one.hash, one.nth, one.position, one.body, document.tags, sequence, vectors[one.hash])
                for one in fresh
            ],
        )
        return Retained(document.id, "changed", embedded=len(fresh), kept=len(wanted) - len(fresh), removed=len(gone))


async def _embed_new(
    chunks: Iterable[Chunk], stored: dict[tuple[bytes, int], int], vectors: dict[bytes, str]
) -> dict[bytes, str]:
    """``vectors`` and those of chunks that are not stored, by hash. In a thread: it is arithmetic, and others wait for the loop."""
    missing = {
        chunk.hash: chunk.body
        for chunk in chunks
        if (chunk.hash, chunk.nth) not in stored and chunk.hash not in vectors
    }
    made = await asyncio.to_thread(embed_texts, list(missing.values()))
    return {**vectors, **dict(zip(missing, made, strict=True))}
