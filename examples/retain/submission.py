"""Submitting documents: packed by size, all of them under one batch, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec.structs import replace

from headrace import AsyncBatchHandle, AsyncClient, pack

from .documents import Document, Parcel, Retained
from .library import Library
from .tasks import retain_documents

PARCEL_BYTES = 64 * 1024
"""Text that one run works off: seconds of work, so that progress can be seen and a death costs little."""


async def submit_documents(
    client: AsyncClient,
    library: Library,
    documents: Iterable[Document],
    *,
    tags: Iterable[str] = (),
    key: str | None = None,
    parcel_bytes: int = PARCEL_BYTES,
) -> AsyncBatchHandle[list[Retained]]:
    """Submits documents in one transaction; ``tags`` go to every one of them, and to the runs.

    A document is never cut for the transport: it lies whole in one parcel, whatever its size. With a ``key`` a call
    that is repeated finds the first one's batch. Raises ValueError where two documents have the same id: which one would
    be the later?
    """
    shared = sorted(set(tags))
    known = [replace(one, tags=sorted({*one.tags, *shared})) for one in documents]
    twice = sorted(name for name, count in Counter(one.id for one in known).items() if count > 1)
    if twice:
        raise ValueError(f"A submission holds a document once, but these are there more often: {', '.join(twice)}")
    # The order of submissions is the order of these calls, taken before anything can run.
    sequence = await library.take_sequence(key)
    parcels = [
        Parcel(sequence, packed)
        for packed in pack(known, size_of=lambda one: len(one.body.encode()), most=parcel_bytes)
    ]
    return await client.submit(retain_documents, parcels, batch_key=key, tags=shared)
