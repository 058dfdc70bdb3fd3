"""What the tests of the item stream say often: make lines, cut them into pieces, read what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from headrace.protocol.ndjson import BadLine, ItemDecoder, Line, ParsedItem

LIMIT = 1024


def decode(*pieces: bytes, max_line: int = LIMIT) -> list[Line]:
    decoder = ItemDecoder(max_line=max_line)
    lines = [line for piece in pieces for line in decoder.feed(piece)]
    return lines + decoder.finish()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def line(index: object = 0, payload: object = None, task: object = "t", **more: object) -> bytes:
    return json.dumps({"index": index, "task": task, "payload": payload, **more}, ensure_ascii=False).encode()


def items(lines: Iterable[Line]) -> list[tuple[int, int, str, Any]]:
    """Line, index, task and payload of each; fails on anything that is no good item."""
    read: list[tuple[int, int, str, Any]] = []
    for found in lines:
        assert isinstance(found, ParsedItem), found
        payload = found.item.payload
        value = msgspec.json.decode(payload) if isinstance(payload, Raw) else payload
        read.append((found.line, found.item.index, found.item.task, value))
    return read


def bad(lines: list[Line]) -> BadLine:
    """The last line, which has to be a bad one."""
    last = lines[-1]
    assert isinstance(last, BadLine), lines
    return last
