"""The codec of the item stream: bytes in pieces of any size in, typed lines out. No I/O.

Rules (research/batch.md 2): a line ends at ``\\n``; its size is counted in bytes before it is decoded; it is strict UTF-8
and strict JSON; blank lines count as lines and are nothing else. A line over the limit is never held whole: it becomes an
``OversizedItem`` in its place, with the index and task found in its first bytes. A line that can't be read becomes a
``BadLine``, the last thing that a decoder gives.

What comes out depends on the bytes alone, never on where they were cut. Linear in the size of the stream: a byte is looked
at once for the newline and once for its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headrace.ids import MAX_ITEM_INDEX
from headrace.protocol.batches import BatchItem, TaskId
from headrace.protocol.errors import describe_validation_error
from headrace.protocol.heads import HEAD_SIZE, LineHead, find_head
from headrace.protocol.options import RunOptions

_BLANK: Final = (
    "\ufeff \t\r\n\v\f\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""What JavaScript's ``trim`` takes off, which is what published servers do to a line."""


class ParsedItem(Struct, frozen=True, gc=False):
    """A good line; ``line`` counts from 1."""

    line: int
    item: BatchItem


class OversizedItem(Struct, frozen=True, gc=False):
    """A line over the limit: ``actual_size`` is all of it, in bytes, without the newline."""

    line: int
    index: int
    task: str
    actual_size: int
    max_size: int


class BadLine(Struct, frozen=True, gc=False):
    """A line that is no item. Nothing comes after it."""

    line: int
    index: int | None
    kind: Literal["json", "utf8", "schema", "unidentifiable"]
    message: str


Line = ParsedItem | OversizedItem | BadLine


class _FloatIndexedItem(Struct, frozen=True):
    """The same line with its index spelt as JSON also allows it: ``1.0`` or ``1e2``."""

    index: float
    task: TaskId
    payload: Raw | UnsetType = UNSET
    options: RunOptions | None = None


_decode_item: Final = msgspec.json.Decoder(BatchItem).decode
_decode_float_indexed: Final = msgspec.json.Decoder(_FloatIndexedItem).decode
_decode_number: Final = msgspec.json.Decoder(float).decode
_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_any: Final = msgspec.json.Decoder().decode
_check_json: Final = msgspec.json.Decoder(Raw).decode


class ItemDecoder:
    """Turns the pieces of one stream into lines.

    >>> decoder = ItemDecoder(max_line=1024)
    >>> decoder.feed(b'{"index": 0, "task": "resize"}\\n{"ind')[0].item.task
    'resize'

    ``feed`` gives the lines that a piece completes, ``finish`` the last one, which needs no newline. Between the calls it
    holds at most ``max_line`` bytes, or the first 16 KiB of a line over it.
    """

    def __init__(self, *, max_line: int) -> None:
        self._max_line = max_line
        self._line = 0
        self._pending = bytearray()  # the start of the line that has not ended; of an oversized one its head only
        self._size = 0  # of that line, held or not
        self._head: LineHead | None = None
        self._ended = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Line]:
        """The lines that ``data`` completes; nothing more after a BadLine."""
        lines: list[Line] = []
        if self._ended:
            return lines
        piece = bytes(data)
        parts = piece.split(b"\n")
        last = parts.pop()
        if parts and self._size:
            self._hold(parts[0], lines)
            self._end_line(lines)
            del parts[0]
        if parts and not self._ended:
            self._decode(parts, lines, plain=piece.isascii())
        self._hold(last, lines)
        return lines

    def finish(self) -> list[Line]:
        """The last line, if the stream ended without a newline. Nothing can be fed after it."""
        lines: list[Line] = []
        if self._size and not self._ended:
            self._end_line(lines)
        self._ended = True
        return lines

    def _hold(self, part: bytes, lines: list[Line]) -> None:
        if not part or self._ended:
            return
        was_oversized = self._size > self._max_line
        self._size += len(part)
        if self._size <= self._max_line:
            self._pending += part
            return
        if not was_oversized:
            self._pending = self._pending[:HEAD_SIZE]
        if self._head is None:
            self._pending += part[: HEAD_SIZE - len(self._pending)]
            if len(self._pending) == HEAD_SIZE:
                self._head = self._find_head(self._pending, self._line + 1, lines)

    def _end_line(self, lines: list[Line]) -> None:
        if self._ended:
            return
        line, size, head = self._pending, self._size, self._head
        self._pending, self._size, self._head = bytearray(), 0, None
        if size <= self._max_line:
            self._decode([line], lines, plain=line.isascii())
            return
        self._line += 1
        self._give_up(line, size, head, self._line, lines)

    def _decode(self, complete: Sequence[bytes | bytearray], lines: list[Line], *, plain: bool) -> None:
        number = self._line
        for line in complete:
            number += 1
            if len(line) > self._max_line:
                self._give_up(line[:HEAD_SIZE], len(line), None, number, lines)
            elif line:
                try:
                    # msgspec skips over a payload without decoding its strings, so bad UTF-8 has to be looked for
                    if not plain:
                        line.decode("utf-8")
                    lines.append(ParsedItem(number, _decode_item(line)))
                except (ValueError, RecursionError):
                    self._look_closer(line, number, lines)
            if self._ended:
                break
        self._line = number

    def _look_closer(self, line: bytes | bytearray, number: int, lines: list[Line]) -> None:
        """A line that the quick way did not read: blank, spelt unusually, or bad, and then why."""
        try:
            text = line.decode("utf-8").strip(_BLANK)
        except UnicodeDecodeError as error:
            message = f"Invalid UTF-8 at line {number}: {error.reason} at byte {error.start}"
            self._fail(BadLine(number, None, "utf8", message), lines)
            return
        if not text:
            return
        try:
            _check_json(text)  # a wrong type is reported before the text behind it was looked at
            lines.append(ParsedItem(number, _decode_unusual(text)))
        except msgspec.ValidationError as error:
            index = _find_index(text)
            where = "unknown index" if index is None else f"index {index}"
            message = f"Invalid item at {where}: line {number}: {describe_validation_error(error, _read_leniently(text), BatchItem)}"
            self._fail(BadLine(number, index, "schema", message), lines)
        except (msgspec.DecodeError, RecursionError) as error:
            self._fail(BadLine(number, None, "json", f"Invalid JSON at line {number}: {error}"), lines)

    def _give_up(
        self, start: bytes | bytearray, size: int, head: LineHead | None, number: int, lines: list[Line]
    ) -> None:
        head = head or self._find_head(start, number, lines)
        if head is not None:
            lines.append(OversizedItem(number, head.index, head.task, size, self._max_line))

    def _find_head(self, start: bytes | bytearray, number: int, lines: list[Line]) -> LineHead | None:
        head = find_head(bytes(start))
        if head is None:
            message = (
                f"Invalid item at unknown index: line {number} is longer than {self._max_line} bytes and names no index in "
                f"its first {HEAD_SIZE}: put it before the payload."
            )
            self._fail(BadLine(number, None, "unidentifiable", message), lines)
        return head

    def _fail(self, bad: BadLine, lines: list[Line]) -> None:
        lines.append(bad)
        self._ended = True
        self._pending = bytearray()


def _decode_unusual(text: str) -> BatchItem:
    try:
        return _decode_item(text)
    except msgspec.ValidationError:
        index = _find_index(text)
        if index is None or index > MAX_ITEM_INDEX or bytes(_decode_members(text)["index"]).isdigit():
            raise
    item = _decode_float_indexed(text)
    return BatchItem(index, item.task, item.payload, item.options)


def _read_leniently(text: str) -> object:
    """A line as it stands, to show what was wrong; None where it is too deep to be looked into."""
    try:
        return _decode_any(text)
    except RecursionError:
        return None


def _find_index(text: str) -> int | None:
    """The index that a line of valid JSON names, if it could be one."""
    try:
        number = _decode_number(_decode_members(text)["index"])
    except (KeyError, msgspec.ValidationError):
        return None
    return int(number) if number >= 0 and number.is_integer() else None
