"""Phase 2 over HTTP: a million items in one stream, and what the server's memory does meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Final

import httpx2

from headrace.bench.processes import API_KEY, read_rss

_PIECE: Final = 64 * 1024
_HEADERS: Final = {"authorization": f"Bearer {API_KEY}"}


def make_body(items: int, option: bytes = b"", *, keys: int | None = None) -> bytes:
    """The stream of a batch of ``items`` small items.

    ``option`` is one of theirs, as JSON, with a place for the index; ``keys`` spreads them over so many concurrency keys.
    """
    if keys is not None:
        option = b'"concurrencyKey":"%d"'
    if not option:
        return b"".join(b'{"index":%d,"task":"noop","payload":{"n":%d}}\n' % (index, index) for index in range(items))
    line = b'{"index":%d,"task":"noop","payload":{"n":%d},"options":{' + option + b"}}\n"
    return b"".join(line % (index, index, index % (keys or items)) for index in range(items))


def stream_batch(url: str, items: int, body: bytes) -> str:
    """Creates a batch, streams all of its items, and returns its id. Raises where it is not sealed by that."""
    created = httpx2.post(f"{url}/api/v3/batches", json={"runCount": items}, headers=_HEADERS)
    created.raise_for_status()
    batch_id: str = created.json()["id"]
    answer = httpx2.post(
        f"{url}/api/v3/batches/{batch_id}/items",
        content=_cut(body),
        headers={**_HEADERS, "content-type": "application/x-ndjson"},
        timeout=600,
    )
    answer.raise_for_status()
    if not answer.json()["sealed"]:
        raise RuntimeError(f"the batch of the benchmark was not sealed: {answer.text}")
    return batch_id


def _cut(body: bytes) -> Generator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


class MemoryWatch:
    """The largest resident memory of a process while the block runs, in MiB above where it began."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._start = read_rss(pid)
        self._most = self._start

    @property
    def growth(self) -> float:
        """MiB."""
        return self._most - self._start

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._most = max(self._most, read_rss(self._pid))
