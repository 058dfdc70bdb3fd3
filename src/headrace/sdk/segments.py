"""Items on their way: an iterator cut into segments, each kept until the server has confirmed it.

What is kept is bounded by a segment, so a batch may be of any length; a broken stream is resumed with the segment that
broke, and nothing that was confirmed is sent again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from typing import Any, Final

import msgspec

from headrace.errors import BatchTriggerError
from headrace.protocol.options import RunOptions

SEGMENT_ITEMS: Final = 20_000
SEGMENT_BYTES: Final = 8 * 1024 * 1024
_PIECE: Final = 64 * 1024
_LINGER: Final = 0.05
_SEGMENT_SECONDS: Final = 30.0
"""A slow producer's segment ends after so long: what the server has to say about it is heard then, not hours later."""


class _Line(msgspec.Struct):
    """What is read of a line."""

    options: RunOptions | None = None


Encode = Any
"""(index, item) -> one line of NDJSON."""


class ItemSource:
    """The user's iterable, read lazily and once; knows when it has ended and what it raised."""

    def __init__(self, items: Iterable[Any] | AsyncIterable[Any], encode: Encode) -> None:
        self._encode = encode
        self.is_async = not isinstance(items, Iterable)
        self._sync: Iterator[Any] | None = iter(items) if isinstance(items, Iterable) else None
        self._async: AsyncIterator[Any] | None = None if isinstance(items, Iterable) else aiter(items)
        self.count = 0
        self.ended = False
        self.error: BaseException | None = None
        self._ahead: bytes | None = None

    def read_ahead(self) -> None:
        """Reads the first item before anything is sent: what it raises, or an empty iterable, then leaves no batch behind.

        Raises BatchTriggerError where there is no item.
        """
        self._put_back(self.read())

    async def read_ahead_async(self) -> None:
        """The same for an iterable of either kind."""
        self._put_back(await self.read_async())

    @property
    def has_meeting_keys(self) -> bool:
        """Whether the item that was read ahead has an order or debounce key: with several stores these meet in one."""
        options = msgspec.json.decode(self._ahead, type=_Line).options if self._ahead is not None else None
        return options is not None and bool(options.order_key or options.debounce)

    def _put_back(self, line: bytes | None) -> None:
        if line is None:
            raise describe_empty()
        self._ahead = line
        self.count -= 1

    def read(self) -> bytes | None:
        """The next line, or None at the end. What the iterator raises is kept in ``error`` and raised."""
        if self._ahead is not None:
            return self._take_ahead()
        assert self._sync is not None
        try:
            item = next(self._sync)
        except StopIteration:
            self.ended = True
            return None
        except BaseException as error:
            self.error = error
            raise
        return self._take(item)

    async def read_async(self) -> bytes | None:
        """The same for an iterable of either kind."""
        if self._async is None:
            return self.read()
        if self._ahead is not None:
            return self._take_ahead()
        try:
            item = await anext(self._async)
        except StopAsyncIteration:
            self.ended = True
            return None
        except BaseException as error:
            self.error = error
            raise
        return self._take(item)

    def _take_ahead(self) -> bytes | None:
        line, self._ahead = self._ahead, None
        self.count += 1
        return line

    def _take(self, item: Any) -> bytes:
        try:
            line = self._encode(self.count, item)
        except Exception as error:
            self.error = error
            raise
        self.count += 1
        return line


def describe_empty() -> BatchTriggerError:
    """The exception for a batch without items."""
    told = "A batch has at least one item, but the iterable gave none."
    return BatchTriggerError(told, phase="create", accepted=0, expected=0)


class Segment:
    """Consecutive lines of a source, produced as they are sent the first time, kept for the next."""

    def __init__(self, source: ItemSource, *, most_items: int = SEGMENT_ITEMS, most_bytes: int = SEGMENT_BYTES) -> None:
        self.source = source
        self.first = source.count
        self.sent = 0  # lines of the last try
        self._lines: list[bytes] = []
        self._wanted: list[range] | None = None
        self._bytes = 0
        self._begun: float | None = None
        self._most_items = most_items
        self._most_bytes = most_bytes

    @property
    def complete(self) -> bool:
        """Whether it takes no more lines."""
        return (
            self.source.ended
            or len(self._lines) >= self._most_items
            or self._bytes >= self._most_bytes
            or (self._begun is not None and time.monotonic() - self._begun > _SEGMENT_SECONDS)
        )

    @property
    def held_bytes(self) -> int:
        """What it keeps."""
        return self._bytes

    def send_only(self, missing: Iterable[tuple[int, int]]) -> bool:
        """Sends from now on only lines with an index in these ranges (both ends included). False where it holds none."""
        last = self.first + len(self._lines) - 1
        within = [range(max(low, self.first), min(high, last) + 1) for low, high in missing]
        self._wanted = [indexes for indexes in within if indexes]
        return bool(self._wanted)

    def write(self) -> Generator[bytes]:
        """The body of a request: the lines that are kept, then new ones until the segment is complete."""
        yield from self._write_kept()
        pieces = _Pieces()
        while not self.complete:
            line = self.source.read()
            if line is not None and (piece := pieces.add(self._keep(line))):
                yield piece
        if piece := pieces.flush():
            yield piece

    async def write_async(self) -> AsyncGenerator[bytes]:
        """The same for an event loop."""
        for piece in self._write_kept():
            yield piece
        pieces = _Pieces()
        while not self.complete:
            line = await self.source.read_async()
            if line is not None and (piece := pieces.add(self._keep(line))):
                yield piece
        if piece := pieces.flush():
            yield piece

    def _keep(self, line: bytes) -> bytes:
        if self._begun is None:
            self._begun = time.monotonic()
        self._lines.append(line)
        self._bytes += len(line)
        self.sent += 1
        return line

    def _write_kept(self) -> Iterator[bytes]:
        lines = self._lines
        if self._wanted is not None:
            lines = [lines[index - self.first] for indexes in self._wanted for index in indexes]
        self.sent = len(lines)
        for start in range(0, len(lines), 500):
            yield b"".join(lines[start : start + 500])


class _Pieces:
    """Lines gathered into pieces worth sending; a line of a slow producer does not wait for company."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0
        self._last = time.monotonic()

    def add(self, line: bytes) -> bytes | None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes < _PIECE and time.monotonic() - self._last < _LINGER:
            return None
        return self.flush()

    def flush(self) -> bytes | None:
        piece = b"".join(self._lines)
        self._lines.clear()
        self._bytes = 0
        self._last = time.monotonic()
        return piece or None
