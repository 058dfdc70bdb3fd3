"""The head of a line that is too long to be read: its index and task, from its first bytes.

A small scanner of JSON tokens that may end anywhere. Only keys of the outermost object count; what stands in strings,
in nested values, or behind an escape can't pass for one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from headrace.ids import MAX_ITEM_INDEX
from headrace.protocol.batches import TaskId

HEAD_SIZE: Final = 16 * 1024
"""Bytes of a line in which its index and task are looked for."""

UNKNOWN_TASK: Final = "unknown"
"""The task of a line whose head names an index and no task."""

_BOM: Final = b"\xef\xbb\xbf"
_TOKEN: Final = re.compile(rb'\s*("(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+)', re.DOTALL)

_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_number: Final = msgspec.json.Decoder(float).decode
_decode_task: Final[Callable[[bytes], str]] = msgspec.json.Decoder(TaskId).decode

T = TypeVar("T")


class LineHead(Struct, frozen=True):
    """What has to be known of a line that is not read."""

    index: int
    task: str


def find_head(start: bytes) -> LineHead | None:
    """Index and task from the first bytes of a line, keys in any order; None where they name no index.

    >>> find_head(b'{"payload": {"index": 1}, "index": 7, "task": "resize", "more": "xxxxx')
    LineHead(index=7, task='resize')
    """
    index: int | None = None
    task: str | None = None
    for key, value in _scan_members(start):
        if key == b'"index"':
            index = _read_index(value)
        elif key == b'"task"':
            task = _read(_decode_task, value)
        if index is not None and task is not None:
            break
    return None if index is None else LineHead(index, task or UNKNOWN_TASK)


def _scan_members(start: bytes) -> Generator[tuple[bytes, bytes]]:
    """Keys and values of the outermost object, of values that are plain; escapes in keys resolved."""
    key: bytes | None = None
    awaits_value = False
    for token in _scan_outermost(start):
        if token == b",":
            key, awaits_value = None, False
        elif token == b":":
            awaits_value = True
        elif not awaits_value:
            key = _spell_plainly(token)
        elif key is not None:
            yield key, token
            key = None


def _scan_outermost(start: bytes) -> Generator[bytes]:
    """The tokens of the outermost object itself, as far as ``start`` reaches; nothing where it is no object."""
    position = len(_BOM) if start.startswith(_BOM) else 0
    depth = 0
    while found := _TOKEN.match(start, position):
        token, position = found[1], found.end()
        if token in {b"{", b"["}:
            if depth == 0 and token == b"[":
                return
            depth += 1
        elif token in {b"}", b"]"}:
            depth -= 1
        elif depth == 1 and position < len(start):  # digits at the very end may go on beyond it
            yield token


def _spell_plainly(string: bytes) -> bytes:
    if b"\\" not in string:
        return string
    text = _read(_decode_text, string)
    return string if text is None else msgspec.json.encode(text)


def _read_index(value: bytes) -> int | None:
    number = _read(_decode_number, value)
    if number is None or not number.is_integer():
        return None
    return int(number) if 0 <= number <= MAX_ITEM_INDEX else None


def _read(decode: Callable[[bytes], T], value: bytes) -> T | None:
    try:
        return decode(value)
    except ValueError:  # msgspec's own errors, and bad UTF-8
        return None
