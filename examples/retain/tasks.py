"""The task: one parcel of documents, each retained in a transaction of its own."""

from __future__ import annotations

from headrace import Queue, Retry, metadata, task

from .documents import Parcel, Retained
from .library import open_library


class RetainError(Exception):
    """Some documents of a parcel could not be retained; the others were."""


# Each run has a connection of its own: a limit on the queue holds for all workers together, so that however many there
# are, PostgreSQL (max_connections, 100 by default) has room for them.
RETAIN = Queue("retain", concurrency_limit=16)


@task(id="retain-documents", queue=RETAIN, retry=Retry(max_attempts=4, min_delay=0.2))
async def retain_documents(parcel: Parcel) -> list[Retained]:
    """Retains the documents of a parcel. Raises RetainError where some could not be, after it has done the others.

    An attempt that died is followed by another, which finds what the first one did and goes on behind it. One bad document
    does not take its neighbours with it.
    """
    done: list[Retained] = []
    failed: dict[str, Exception] = {}
    async with open_library() as library:
        for document in parcel.documents:
            try:
                done.append(await library.retain(document, parcel.sequence))
            except Exception as error:  # noqa: BLE001 - whatever it is, the next document may be fine
                failed[document.id] = error
            progress = {"done": len(done), "failed": len(failed), "of": len(parcel.documents)}
            await metadata.set("progress", progress)
    if failed:
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise RetainError(f"{len(failed)} of {len(parcel.documents)} documents failed: {told}")
    return done
