"""The codec of the item stream: bytes in pieces of any size in, typed lines out. No I/O.

Rules (research/batch.md 2): a line ends at ``\\n``; its size is counted in bytes before it is decoded; it is strict UTF-8
and strict JSON; blank lines count as lines and are nothing else. A line over the limit is never held whole: it becomes an
``OversizedItem`` in its place, with the index and task found in its first bytes. A line that can't be read becomes a
``BadLine``, the last thing that a decoder gives.

Linear in the size of the stream, whatever the pieces: a byte is looked at once for the newline and once for its JSON.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, Literal, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headrace.protocol.batches import BatchItem, ItemIndex, TaskId
from headrace.protocol.errors import describe_validation_error
from headrace.protocol.options import RunOptions

_HEAD_SIZE: Final = 16 * 1024
_BLANK: Final = (
    "\ufeff \t\r\n\v\f\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
"""What JavaScript's ``trim`` takes off, which is what published servers do to a line."""

_TOKEN: Final = re.compile(rb'\s*(?:("(?:[^"\\]|\\.)*")|([{}\[\]:,])|([^\s{}\[\]:,"]+))', re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedItem:
    """A good line; ``line`` counts from 1."""

    line: int
    item: BatchItem


@dataclass(frozen=True, slots=True)
class OversizedItem:
    """A line over the limit. ``actual_size`` is what had been seen of it, in bytes, when it was given up."""

    line: int
    index: int
    task: str
    actual_size: int
    max_size: int


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no item. Nothing comes after it."""

    line: int
    index: int | None
    kind: Literal["json", "utf8", "schema", "unidentifiable"]
    message: str


Line = ParsedItem | OversizedItem | BadLine

_decode_item: Final = msgspec.json.Decoder(BatchItem).decode


class _FloatIndexedItem(Struct):
    """The same line with its index spelt as JSON also allows it: ``1.0`` or ``1e2``."""

    index: float
    task: TaskId
    payload: Raw | UnsetType = UNSET
    options: RunOptions | None = None


class _Head(Struct):
    """What has to be known of a line that is not read."""

    index: ItemIndex
    task: TaskId


class ItemDecoder:
    """Turns the pieces of one stream into lines.

    >>> decoder = ItemDecoder(max_line=1024)
    >>> decoder.feed(b'{"index": 0, "task": "resize"}\\n{"ind')[0].item.task
    'resize'

    ``feed`` gives the lines that a piece completes, ``finish`` the last one, which needs no newline. Holds at most
    ``max_line`` bytes and the piece that it was fed last.
    """

    def __init__(self, *, max_line: int) -> None:
        self._max_line = max_line
        self._line = 0
        self._pending = bytearray()
        self._skipping = False
        self._ended = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[Line]:
        """The lines that ``data`` completes, and an oversized one as soon as it is known to be."""
        if self._ended:
            return []
        lines: list[Line] = []
        first, *rest = bytes(data).split(b"\n")
        if not rest:
            self._hold(first, lines)
            return lines
        *complete, last = rest
        if self._skipping:
            self._skipping = False
            self._line += 1
        else:
            complete.insert(0, self._release(first))
        self._decode(complete, lines)
        self._hold(last, lines)
        return lines

    def finish(self) -> list[Line]:
        """The last line, if the stream ended without a newline."""
        lines: list[Line] = []
        if not self._ended and self._pending:
            self._decode([self._release(b"")], lines)
        self._ended = True
        return lines

    def _hold(self, part: bytes, lines: list[Line]) -> None:
        if not part or self._skipping or self._ended:
            return
        self._pending += part
        if len(self._pending) > self._max_line:
            self._give_up(bytes(self._pending[:_HEAD_SIZE]), len(self._pending), self._line + 1, lines)
            self._pending = bytearray()
            self._skipping = True

    def _release(self, last: bytes) -> bytes:
        if not self._pending:
            return last
        self._pending += last
        line = bytes(self._pending)
        self._pending = bytearray()
        return line

    def _decode(self, complete: list[bytes], lines: list[Line]) -> None:
        number = self._line
        ascii_only = all(map(bytes.isascii, complete))
        for line in complete:
            number += 1
            if len(line) > self._max_line:
                self._give_up(line, len(line), number, lines)
            elif line:
                # msgspec skips over the payload without decoding its strings, so bad UTF-8 has to be looked for
                try:
                    if not ascii_only:
                        line.decode("utf-8")  # the text is not needed, only that there is one
                    lines.append(ParsedItem(number, _decode_item(line)))
                except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
                    self._look_closer(line, number, lines)
            if self._ended:
                break
        self._line = number

    def _look_closer(self, line: bytes, number: int, lines: list[Line]) -> None:
        """A line that the quick way did not read: blank, spelt unusually, or bad, and then why."""
        try:
            text = line.decode("utf-8").strip(_BLANK)
        except UnicodeDecodeError as error:
            return self._end(
                BadLine(number, None, "utf8", f"Invalid UTF-8 at line {number}: {error.reason} at byte {error.start}"),
                lines,
            )
        if not text:
            return None
        try:
            value: object = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            return self._end(BadLine(number, None, "json", f"Invalid JSON at line {number}: {error}"), lines)
        index = cast("dict[str, object]", value).get("index") if isinstance(value, dict) else None
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        known = index if isinstance(index, int) and not isinstance(index, bool) and index >= 0 else None
        try:
            lines.append(ParsedItem(number, _decode_loosely(text)))
        except (msgspec.ValidationError, RecursionError) as error:
            where = "unknown index" if known is None else f"index {known}"
            problem = describe_validation_error(error)
            self._end(BadLine(number, known, "schema", f"Invalid item at {where}: line {number}: {problem}"), lines)
        return None

    def _give_up(self, line: bytes, size: int, number: int, lines: list[Line]) -> None:
        head = _find_head(line[:_HEAD_SIZE])
        if head is not None:
            lines.append(OversizedItem(number, head.index, head.task, size, self._max_line))
            return
        self._end(
            BadLine(
                number,
                None,
                "unidentifiable",
                f"Invalid item at unknown index: line {number} is longer than {self._max_line} bytes and names no index and "
                "task in its first bytes: put them before the payload.",
            ),
            lines,
        )

    def _end(self, bad: BadLine, lines: list[Line]) -> None:
        lines.append(bad)
        self._ended = True
        self._pending = bytearray()


def _decode_loosely(text: str) -> BatchItem:
    try:
        return _decode_item(text)
    except msgspec.ValidationError:
        try:
            loose = msgspec.json.decode(text, type=_FloatIndexedItem)
        except msgspec.ValidationError:
            loose = None
        if loose is None or not loose.index.is_integer():
            raise
        index = msgspec.convert(int(loose.index), ItemIndex)
        return BatchItem(index, loose.task, loose.payload, loose.options)


def _find_head(head: bytes) -> _Head | None:
    """Index and task from the first bytes of a line: keys of the outermost object only, in any order."""
    found: dict[str, object] = {}
    for key, value in _scan_members(head):
        if key in {"index", "task"}:
            try:
                found[key] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                return None
        if len(found) == 2:
            break
    try:
        return msgspec.convert(found, _Head)
    except msgspec.ValidationError:
        return None


def _scan_members(head: bytes) -> Generator[tuple[str, bytes]]:
    """The members of the outermost object whose values are plain, as far as ``head`` reaches."""
    position = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    depth = 0
    key: str | None = None
    expects_value = False
    while token := _TOKEN.match(head, position):
        position = token.end()
        string, mark, bare = token.groups()
        if mark in {b"{", b"["}:
            depth += 1
        elif mark in {b"}", b"]"}:
            depth -= 1
        elif depth != 1:
            continue
        elif mark == b":":
            expects_value = True
        elif mark == b",":
            key, expects_value = None, False
        elif expects_value and key is not None:
            if position < len(head):  # a number at the very end may go on beyond it
                yield key, string or bare
        elif string is not None:
            key = _decode_key(string)


def _decode_key(string: bytes) -> str | None:
    try:
        return msgspec.json.decode(string, type=str)
    except msgspec.DecodeError:
        return None
