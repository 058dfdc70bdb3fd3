"""The item stream's codec: the checklist of its parser, its rules, and what holds for any bytes in any pieces."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from headrace.protocol.batches import BatchItem
from headrace.protocol.heads import HEAD_SIZE, LineHead, find_head
from headrace.protocol.ndjson import BadLine, ItemDecoder, Line, OversizedItem, ParsedItem
from headrace.protocol.options import RunOptions

LIMIT = 1024
MIB = 1024 * 1024


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


# The checklist of research/batch.md, section 7


def test_a_marker_keeps_the_index_that_its_line_names() -> None:
    """Checklist 20. The range is checked by who knows it (tests/api/test_items.py); the codec passes the index on."""
    assert decode(line(2_000_000, "x" * LIMIT)) == [
        OversizedItem(1, 2_000_000, "t", len(line(2_000_000, "x" * LIMIT)), LIMIT)
    ]


def test_lines_become_items() -> None:
    """Checklist 21."""
    body = line(0, {"a": 1}) + b"\n" + line(1, [None, True], task="u", options={"tags": ["x"]}) + b"\n"
    lines = decode(body)
    assert items(lines) == [(1, 0, "t", {"a": 1}), (2, 1, "u", [None, True])]
    assert [found.item.options for found in lines if isinstance(found, ParsedItem)] == [None, RunOptions(tags=["x"])]


def test_the_last_newline_may_be_missing() -> None:
    """Checklist 22."""
    assert items(decode(line(0) + b"\n" + line(1))) == [(1, 0, "t", None), (2, 1, "t", None)]


def test_an_escaped_newline_ends_no_line() -> None:
    """Checklist 23."""
    assert items(decode(line(0, "a\nb\r\n") + b"\n")) == [(1, 0, "t", "a\nb\r\n")]


@pytest.mark.parametrize("blank", ["", "   ", "\t", "\r", "\v\f", "\u00a0", "\ufeff", "\ufeff\ufeff \u2028", "\u3000"])
def test_blank_lines_are_skipped_and_counted(blank: str) -> None:
    """Checklist 24."""
    body = line(0) + b"\n" + blank.encode() + b"\n" + line(1) + b"\n" + blank.encode() + b"\n"
    assert items(decode(body)) == [(1, 0, "t", None), (3, 1, "t", None)]


def test_pieces_may_end_in_mid_line() -> None:
    """Checklist 25."""
    first, second = line(0, "abc"), line(1, "def")
    assert items(decode(first[:7], first[7:] + b"\n" + second[:20], second[20:] + b"\n")) == [
        (1, 0, "t", "abc"),
        (2, 1, "t", "def"),
    ]


def test_a_character_may_lie_in_two_pieces() -> None:
    """Checklist 26."""
    body = line(0, "x😀y") + b"\n"
    start = body.index("😀".encode())
    for offset in range(1, 4):
        assert items(decode(body[: start + offset], body[start + offset :])) == [(1, 0, "t", "x😀y")]


def test_pieces_of_three_bytes_may_lie_across_characters() -> None:
    """Checklist 27."""
    body = line(0, "日本語😀é") + b"\n" + line(1, "ü") + b"\n"
    assert items(decode(*cut(body, 3))) == [(1, 0, "t", "日本語😀é"), (2, 1, "t", "ü")]


def test_a_line_over_the_limit_becomes_a_marker() -> None:
    """Checklist 28."""
    body = line(5, "x" * LIMIT, task="big")
    assert decode(body + b"\n") == [OversizedItem(1, 5, "big", len(body), LIMIT)]


def test_a_line_that_goes_on_without_a_newline_becomes_a_marker() -> None:
    """Checklist 29. Its size is all of it, not what had come when the limit was passed: the same in any pieces."""
    body = line(5, "x" * 50 * LIMIT, task="big")
    assert decode(*cut(body, 100)) == [OversizedItem(1, 5, "big", len(body), LIMIT)]


def test_what_follows_an_oversized_line_is_whole() -> None:
    """Checklist 30."""
    body = line(0, "x" * 10 * LIMIT)
    pieces = [*cut(body, 1000), b"yyy" * LIMIT, b'"}\n' + line(1, "next")[:9], line(1, "next")[9:] + b"\n"]
    first, *rest = decode(*pieces)
    assert first == OversizedItem(1, 0, "t", len(body) + 3 * LIMIT + 2, LIMIT)
    assert items(rest) == [(2, 1, "t", "next")]


def test_fault_15_an_oversized_line_without_an_index_is_refused() -> None:
    """Checklist 31, mended. Fault 15: the place in the stream, taken for the index, could push out a real item."""
    nameless = b'{"payload": "' + b"x" * (HEAD_SIZE + LIMIT) + b'", "index": 1, "task": "t"}'
    lines = decode(line(1) + b"\n" + nameless + b"\n" + line(0))
    assert items(lines[:-1]) == [(1, 1, "t", None)]
    assert (bad(lines).line, bad(lines).index, bad(lines).kind) == (2, None, "unidentifiable")
    assert bad(lines).message.startswith("Invalid item at unknown index: line 2 is longer than 1024 bytes")


def test_the_limit_counts_bytes_not_characters() -> None:
    """Checklist 32."""
    body = line(0, "é" * 100)
    assert items(decode(body, max_line=len(body))) == [(1, 0, "t", "é" * 100)]
    assert decode(body, max_line=len(body) - 1) == [OversizedItem(1, 0, "t", len(body), len(body) - 1)]
    assert decode(body + b"\r\n", max_line=len(body)) == [OversizedItem(1, 0, "t", len(body) + 1, len(body))]


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_the_last_line_comes_out_of_finish(size: int) -> None:
    """Checklist 33."""
    decoder = ItemDecoder(max_line=LIMIT)
    assert [found for piece in cut(line(7), size) for found in decoder.feed(piece)] == []
    assert items(decoder.finish()) == [(1, 7, "t", None)]
    assert decoder.finish() == []
    assert decoder.feed(line(8) + b"\n") == []


@pytest.mark.parametrize(
    "text",
    [
        b'{"index": 1, "task": "t"',
        b"{index: 1}",
        b"x",
        b'{"index": 1, "task": "t"} x',
        line(1) + line(2),
        b'{"index": 1, "task": "t", "payload": NaN}',
        b'{"index": 1, "task": "t", "payload": [-Infinity]}',
        b'{"index": 1, "task": "t", "payload": [1,]}',
        b'{"index": 1, "task": "t", "payload": 01}',
        b'{"index": 1, "task": "t", "payload": "\x01"}',
        b'{"index": 1, "task": "t", "payload": "\\x41"}',
        b'{"index": "no", "task": 7, "payload": [}',
        b'{"index": 1, "task": "t", "payload": ' + b"[" * 400_000 + b"]" * 400_000 + b"}",
        b'{"index": 1, "task": "t", "payload": ' + b"[" * 400_000,
    ],
    ids=lambda text: text[-40:].decode(),
)
def test_what_is_no_json_names_its_line(text: bytes) -> None:
    """Checklist 34. The lines before it come out, nothing comes after it."""
    lines = decode(line(0) + b"\n" + text + b"\n" + line(2) + b"\n", max_line=MIB)
    assert items(lines[:-1]) == [(1, 0, "t", None)]
    assert (bad(lines).line, bad(lines).index, bad(lines).kind) == (2, None, "json")
    assert bad(lines).message.startswith("Invalid JSON at line 2: ")


@pytest.mark.parametrize(
    "text",
    [
        b'{"index": 1, "task": "\xff"}',
        b'{"index": 1, "task": "t", "payload": {"deep": ["\xc3("]}}',
        b'{"index": 1, "task": "t", "\x80": 1}',
        b"\xc0\xaf",
        b'{"index": 1, "task": "t", "payload": "\xed\xa0\x80"}',
        b'{"index": 1, "task": "t", "payload": "\xf0\x9f\x98"}',
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_no_utf8_names_its_line(text: bytes, size: int) -> None:
    """Checklist 35. Also inside a payload, which nothing else would look into."""
    lines = decode(*cut(line(0, "é") + b"\n\n" + text + b"\n" + line(2) + b"\n", size))
    assert items(lines[:-1]) == [(1, 0, "t", "é")]
    assert (bad(lines).line, bad(lines).index, bad(lines).kind) == (3, None, "utf8")
    assert bad(lines).message.startswith("Invalid UTF-8 at line 3: ")


def test_single_bytes() -> None:
    """Checklist 36."""
    body = b"".join(line(n, {"text": "ä😀" * n}) + b"\n" for n in range(5))
    assert items(decode(*cut(body, 1))) == [(n + 1, n, "t", {"text": "ä😀" * n}) for n in range(5)]


def test_many_lines_in_one_piece() -> None:
    """Checklist 37."""
    body = b"".join(line(n, n) + b"\n" for n in range(1000))
    assert items(decode(body)) == [(n + 1, n, "t", n) for n in range(1000)]


def test_an_empty_stream() -> None:
    """Checklist 38."""
    assert decode() == []
    assert decode(b"", b"") == []


@pytest.mark.parametrize("size", [1, 333, 100_000])
def test_good_and_oversized_lines_keep_their_order(size: int) -> None:
    """Checklist 39."""
    big = line(1, "x" * 2 * LIMIT)
    lines = decode(*cut(b"\n".join([line(0), big, line(2), big, line(3)]), size))
    marker = [found for found in lines if isinstance(found, OversizedItem)]
    assert [type(found) for found in lines] == [ParsedItem, OversizedItem, ParsedItem, OversizedItem, ParsedItem]
    assert marker == [OversizedItem(2, 1, "t", len(big), LIMIT), OversizedItem(4, 1, "t", len(big), LIMIT)]
    assert items(found for found in lines if isinstance(found, ParsedItem)) == [
        (1, 0, "t", None),
        (3, 2, "t", None),
        (5, 3, "t", None),
    ]


def test_a_stream_of_blanks() -> None:
    """Checklist 40."""
    assert decode(b"\n \r\n\t", b"\n\n  ") == []


def test_index_and_task_of_a_head() -> None:
    """Checklist 41."""
    assert find_head(b'{"index": 42, "task": "my-task", "payload": "xxx') == LineHead(42, "my-task")
    assert find_head(b'\xef\xbb\xbf {"index":\t42 ,"task" : "my-task","p') == LineHead(42, "my-task")


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b" ",
        b"{",
        b"{}",
        b"7",
        b'"index": 1, "task": "t", ',
        b'["index", 1, {"index": 2}, ',
        b'["index": 3, "task": "t", ',
    ],
)
def test_no_head(start: bytes) -> None:
    """Checklist 42, mended: no index is None and never -1, so that nobody can take it for one (fault 15)."""
    assert find_head(start) is None


@pytest.mark.parametrize(
    "start",
    [
        b'{"task": "t", "index": 3, ',
        b'{"x": "index", "task": "t", "y": [1, 2], "index": 3, ',
        b'{"payload": {"a": "}}}{{"}, "index": 3, "z": null, "task": "t", ',
        b'{"task": "t", "in\\u0064ex": 3, ',
        b'{"index": 3.0, "task": "\\u0074", ',
        b'{"index": 0.3e1, "task": "t", ',
    ],
)
def test_keys_of_a_head_in_any_order(start: bytes) -> None:
    """Checklist 43."""
    assert find_head(start) == LineHead(3, "t")


@pytest.mark.parametrize(
    "start",
    [
        b'{"payload": {"index": 9, "task": "no"}, "index": 3, "task": "t", ',
        b'{"payload": [{"index": 9}, {"task": "no"}], "index": 3, "task": "t", ',
        b'{"a": "index", "b": ":", "c": "\\"index\\": 9,", "d": "task", "index": 3, "task": "t", ',
        b'{"a": {"b": "}"}, "c": "{\\"index\\": 9", "index": 3, "task": "t", ',
        b'{"xindex": 9, "index ": 8, "Index": 7, "index": 3, "task": "t", ',
    ],
)
def test_what_looks_like_the_keys_of_a_head(start: bytes) -> None:
    """Checklist 44. Nested keys are not matched; nor are values that are spelt like keys, strings, escapes."""
    assert find_head(start) == LineHead(3, "t")


# The rules of section 2 and the faults of section 8


@pytest.mark.parametrize("index", [b'"1"', b"-1", b"1.5", b"true", b"null", b"[1]", b"2147483648", b"1e99", b""])
def test_a_head_without_a_right_index(index: bytes) -> None:
    start = b'{"task": "t", "index": ' + index + b', "payload": "xxx'
    assert find_head(start) is None


@pytest.mark.parametrize("task", [b"7", b'""', b'"' + b"x" * 129 + b'"', b'"\xff"', b"null"])
def test_a_head_without_a_right_task(task: bytes) -> None:
    assert find_head(b'{"index": 3, "task": ' + task + b', "payload": "xxx') == LineHead(3, "unknown")


def test_a_number_that_a_head_cuts_off_is_not_taken() -> None:
    assert find_head(b'{"task": "t", "index": 12') is None
    assert find_head(b'{"task": "t", "index": 12,') == LineHead(12, "t")


def test_a_task_behind_the_head_is_unknown() -> None:
    body = b'{"index": 3, "payload": "' + b"x" * HEAD_SIZE + b'", "task": "t"}'
    assert decode(body) == [OversizedItem(1, 3, "unknown", len(body), LIMIT)]


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_line_at_the_limit_is_read_and_one_above_is_not(size: int) -> None:
    """Also where the limit is longer than a head."""
    body = line(1, "x" * 2 * HEAD_SIZE)
    assert items(decode(*cut(body, size), max_line=len(body))) == [(1, 1, "t", "x" * 2 * HEAD_SIZE)]
    assert decode(*cut(body, size), max_line=len(body) - 1) == [OversizedItem(1, 1, "t", len(body), len(body) - 1)]


@pytest.mark.parametrize("size", [1, 100, 5_000, 100_000])
@pytest.mark.parametrize("max_line", [LIMIT, 2 * HEAD_SIZE])
def test_a_head_is_looked_at_to_its_end(size: int, max_line: int) -> None:
    """Whatever the limit and the pieces."""
    start = b'{"payload": "' + b"x" * (HEAD_SIZE - 50) + b'", "index": 3, "task": "t"'
    body = start + b', "more": "' + b"y" * 2 * HEAD_SIZE
    assert decode(*cut(body + b"\n", size), max_line=max_line) == [OversizedItem(1, 3, "t", len(body), max_line)]
    assert bad(decode(*cut(b" " * 50 + body + b"\n", size), max_line=max_line)).kind == "unidentifiable"


def test_an_oversized_line_is_not_read() -> None:
    """So it may hold anything behind its head."""
    body = line(1)[:-1] + b', "x": \xff NaN ' + b"[" * LIMIT
    assert decode(body + b"\n" + line(2))[0] == OversizedItem(1, 1, "t", len(body), LIMIT)


@pytest.mark.parametrize("spelling", [b"100", b"100.0", b"1e2", b"1E+2", b"1000e-1"])
def test_whole_numbers_are_indexes(spelling: bytes) -> None:
    """Rule 5. The other fields are as they would be."""
    body = b'{"index": ' + spelling + b', "task": "t", "payload": {"n": 1}, "options": {"tags": "x"}}'
    [found] = decode(body)
    assert isinstance(found, ParsedItem)
    assert (found.item.index, type(found.item.index)) == (100, int)
    assert (found.item.task, found.item.payload, found.item.options) == ("t", Raw(b'{"n": 1}'), RunOptions(tags=["x"]))


def test_of_keys_that_come_twice_the_last_wins() -> None:
    """Rule 5."""
    body = b'{"index": 1, "task": "a", "payload": 1, "index": 2, "task": "b", "payload": 2}'
    assert items(decode(body)) == [(1, 2, "b", 2)]


def test_one_byte_order_mark_is_dropped() -> None:
    """Rule 3; more of them are blanks to rule 4. At the start of any line."""
    body = b"\xef\xbb\xbf" + line(0) + b"\n\xef\xbb\xbf\xef\xbb\xbf" + line(1) + b"\r\n"
    assert items(decode(body)) == [(1, 0, "t", None), (2, 1, "t", None)]


def test_blanks_around_a_line_are_dropped() -> None:
    body = "\u00a0\v".encode() + line(0) + b" \t\r\n  " + line(1) + "\u2003\r".encode()
    assert items(decode(body)) == [(1, 0, "t", None), (2, 1, "t", None)]


def test_a_payload_keeps_its_own_spelling() -> None:
    """It is stored as it was sent: numbers too large for Python's float or int included."""
    text = b'{"a" : [1.50, 1e999,\t123456789012345678901234567890, "\\u00e4"]}'
    for mark in (b"", b"\xef\xbb\xbf"):
        [found] = decode(mark + b'{"index": 0, "task": "t", "payload": ' + text + b"}")
        assert isinstance(found, ParsedItem)
        assert found.item.payload == Raw(text)


def test_a_missing_payload_is_not_null() -> None:
    missing, null = decode(b'{"index": 0, "task": "t"}\n' + line(1, None))
    assert isinstance(missing, ParsedItem)
    assert isinstance(null, ParsedItem)
    assert missing.item.payload is msgspec.UNSET
    assert null.item.payload == Raw(b"null")


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udc00 and some more"', b'"\\ud800\\ud800 and some more"'])
@pytest.mark.parametrize("field", [b"payload", b"task", b"other"])
def test_lone_surrogates_are_no_text(text: bytes, field: bytes) -> None:
    """No UTF-8 could hold them, so no worker could be given them: refused where the client still hears it."""
    body = b'{"index": 1, "task": "t", "' + field + b'": ' + text + b"}"
    assert (bad(decode(body)).kind, bad(decode(body)).line) == ("json", 1)


def test_pairs_of_surrogates_are_text() -> None:
    assert items(decode(b'{"index": 1, "task": "\\ud83d\\ude00", "payload": "\\ud83d\\ude00"}')) == [(1, 1, "😀", "😀")]


@pytest.mark.parametrize(
    ("body", "index", "path"),
    [
        (b"[]", None, None),
        (b"7", None, None),
        (b"null", None, None),
        (b'"index"', None, None),
        (b"{}", None, "index"),
        (line(-1), None, "index"),
        (line("1"), None, "index"),
        (line(1.5), None, "index"),
        (line(None), None, "index"),
        (line(True), None, "index"),
        (line(2**31), 2**31, "index"),
        (line(1, task=""), 1, "task"),
        (line(1, task="x" * 129), 1, "task"),
        (line(1, task=None), 1, "task"),
        (b'{"index": 1}', 1, "task"),
        (b'{"index": 1.0}', 1, "task"),
        (line(1, options=7), 1, "options"),
        (line(1, options={"maxAttempts": 0}), 1, "options.maxAttempts"),
        (line(1, options={"tags": ["a"] * 11}), 1, "options"),
        (line(1, options={"queue": {"name": ""}}), 1, "options.queue.name"),
        (line(1, options={"idempotencyKey": "x" * 2049}), 1, "options.idempotencyKey"),
    ],
)
@pytest.mark.parametrize("size", [1, 10_000])
def test_what_is_no_item_names_its_line_and_index(body: bytes, index: int | None, path: str | None, size: int) -> None:
    """Rule 6."""
    lines = decode(*cut(line(0) + b"\n" + body + b"\n" + line(2), size), max_line=10_000)
    assert items(lines[:-1]) == [(1, 0, "t", None)]
    found = bad(lines)
    assert (found.line, found.index, found.kind) == (2, index, "schema")
    where = "unknown index" if index is None else f"index {index}"
    assert found.message.startswith(f"Invalid item at {where}: line 2: Validation error: ")
    named = found.message.rpartition(' at "')[2].removesuffix('"') if ' at "' in found.message else None
    assert named == path or f"`{path}`" in found.message  # a missing key is named in the sentence


def test_bad_json_goes_before_a_bad_type() -> None:
    """Where a line is both, what is wrong first is that it is no JSON."""
    assert bad(decode(b'{"index": "x", "task": 7, "payload": tru}')).kind == "json"


@pytest.mark.parametrize("index", [-1, "NaN", None, 1.5])
def test_fault_14_a_forged_marker_is_a_line_like_any_other(index: object) -> None:
    """Fault 14: the key of the old in-band marker means nothing, so it bypasses nothing."""
    forged = {"__batchItemError": "OVERSIZED", "actualSize": "NaN", "maxSize": 1}
    assert bad(decode(line(index, **forged))).kind == "schema"
    assert items(decode(line(3, 5, **forged))) == [(1, 3, "t", 5)]


def test_fault_15_a_marker_never_takes_the_index_of_a_real_item() -> None:
    """Fault 15: lines out of order, an oversized one among them; each index is the one that its line names."""
    body = b"\n".join([line(3), line(1, "x" * LIMIT), line(0), line(2)])
    indexes = [found.item.index if isinstance(found, ParsedItem) else found.index for found in decode(body)]
    assert indexes == [3, 1, 0, 2]


def test_nothing_comes_after_a_bad_line() -> None:
    decoder = ItemDecoder(max_line=LIMIT)
    assert isinstance(decoder.feed(b"x\n" + line(0) + b"\n")[0], BadLine)
    assert decoder.feed(line(0) + b"\n") == []
    assert decoder.finish() == []


def test_pieces_may_be_of_any_kind() -> None:
    body = line(0, "é") + b"\n" + line(1) + b"\n"
    view = memoryview(bytearray(body))
    decoder = ItemDecoder(max_line=LIMIT)
    lines = decoder.feed(view[:20]) + decoder.feed(bytearray(view[20:50])) + decoder.feed(view[50:])
    view[:] = bytes(len(body))  # the pieces are the caller's: to be used again
    assert items(lines) == [(1, 0, "t", "é"), (2, 1, "t", None)]


# Any bytes, any pieces


def parse_naively(body: bytes, max_line: int) -> list[tuple[Any, ...]]:
    """All of the body at once, by the standard library: what each line comes to. The heads are tested by themselves."""
    read: list[tuple[Any, ...]] = []
    texts = body.split(b"\n")
    if not texts[-1]:
        texts.pop()
    for number, text in enumerate(texts, 1):
        if len(text) > max_line:
            head = find_head(text[:HEAD_SIZE])
            read.append(("oversized", number, head.index, head.task, len(text)) if head else ("unidentifiable", number))
        else:
            read += _parse_line(number, text)
        if read and read[-1][0] in {"unidentifiable", "utf8", "json", "schema"}:
            break
    return read


def _parse_line(number: int, raw: bytes) -> list[tuple[Any, ...]]:
    try:
        text = raw.decode().strip("\ufeff \t\r\n\v\f\u00a0\u2003\u3000")
    except UnicodeDecodeError:
        return [("utf8", number)]
    if not text:
        return []
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates
    except ValueError:
        return [("json", number)]
    if not isinstance(value, dict):
        return [("schema", number)]
    index, task = value.get("index"), value.get("task")
    whole = (
        isinstance(index, int | float) and not isinstance(index, bool) and index == int(index) and 0 <= index < 2**31
    )
    if (
        not whole
        or not isinstance(task, str)
        or not 0 < len(task) <= 128
        or not isinstance(value.get("options"), dict | None)
    ):
        return [("schema", number)]
    return [("item", number, int(index), task, value.get("payload", "nothing"))]


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def summarise(lines: list[Line]) -> list[tuple[Any, ...]]:
    read: list[tuple[Any, ...]] = []
    for found in lines:
        match found:
            case ParsedItem(number, BatchItem(index, task, payload)):
                read.append(("item", number, index, task, json.loads(bytes(payload)) if payload else "nothing"))
            case OversizedItem(number, index, task, size):
                read.append(("oversized", number, index, task, size))
            case BadLine(number, _, kind):
                read.append((kind, number))
    return read


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
good_lines = st.builds(
    lambda members, ensure_ascii: json.dumps(members, ensure_ascii=ensure_ascii).encode(),
    st.fixed_dictionaries(
        {"index": st.integers(0, 10**6) | st.sampled_from([1.0, 1e2]), "task": st.text(min_size=1, max_size=9)},
        optional={"payload": json_values | st.just("x" * 300), "other": json_values},
    ),
    st.booleans(),
)
odd_lines = st.one_of(
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from(["", " ", "\r", "\ufeff", "\u00a0\u3000", "[]", "{}", "1", "NaN", '"\\ud800"', "x" * 300]).map(
        str.encode
    ),
    st.builds(lambda value: json.dumps(value).encode(), json_values),
    st.builds(
        lambda text, at, byte: text[: at % (len(text) + 1)] + byte + text[at % (len(text) + 1) :],
        good_lines,
        st.integers(0, 400),
        st.sampled_from([b"", b"\xff", b'"', b"\\", b"}", b",", b" ", b"\xef\xbb\xbf", b"\x00", b"1e2"]),
    ),
    st.builds(
        lambda start, text, end: start + text + end,
        st.sampled_from([b" ", b"\xef\xbb\xbf"]),
        good_lines,
        st.just(b"\r"),
    ),
)
bodies = st.builds(
    lambda lines, end: b"\n".join(lines) + end,
    st.lists(good_lines | good_lines | good_lines | odd_lines, max_size=8),
    st.sampled_from([b"", b"\n"]),
)


@given(bodies, st.lists(st.integers(0, 3000)), st.integers(30, 400))
@example(b"", [], 30)
@example(b'{"index":1e2,"task":"t"}\n\xc3\n', [25, 26], 30)
@settings(max_examples=400, deadline=None)
def test_any_bytes_in_any_pieces_give_what_a_naive_parser_gives(body: bytes, cuts: list[int], max_line: int) -> None:
    """And the same in whole and byte by byte, to the letter of the messages."""
    places = [0, *sorted(place for place in cuts if place <= len(body)), len(body)]
    pieces = [body[start:end] for start, end in pairwise(places)]
    lines = decode(*pieces, max_line=max_line)
    assert summarise(lines) == parse_naively(body, max_line)
    assert lines == decode(body, max_line=max_line)
    assert lines == decode(*cut(body, 1), max_line=max_line)


@given(
    st.dictionaries(
        st.sampled_from(["payload", "index", "task", "\\", '"index"', "a"]) | st.text(max_size=5), json_values
    ),
    st.integers(0, 2**31 - 1),
    st.text(min_size=1, max_size=9),
    st.permutations(["index", "task", "first", "last"]),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
)
@settings(max_examples=200, deadline=None)
def test_any_head_gives_the_truth_or_nothing(
    members: dict[str, Any], index: int, task: str, order: list[str], ensure_ascii: bool, indent: int | str | None
) -> None:
    """Wherever a line is cut off: its own index or None, its own task or unknown, and both where all of it is there."""
    named = {"index": index, "task": task}
    rest = {key: value for key, value in members.items() if key not in named}
    parts = {"index": {"index": index}, "task": {"task": task}, "first": rest, "last": {"z": named}}
    whole = {key: value for name in order for key, value in parts[name].items()}
    text = json.dumps(whole, ensure_ascii=ensure_ascii, indent=indent).encode()
    assert find_head(text) == LineHead(index, task)
    for end in range(len(text)):
        head = find_head(text[:end])
        assert head is None or (head.index == index and head.task in {task, "unknown"})


@given(st.binary(max_size=200) | st.text('{}[]",:\\ ndextask019.-e', max_size=80).map(str.encode))
@settings(max_examples=400, deadline=None)
def test_a_head_of_any_bytes_is_no_fault(start: bytes) -> None:
    head = find_head(start)
    assert head is None or (0 <= head.index < 2**31 and head.task)


# Time and memory


def small_lines(size: int) -> list[bytes]:
    return cut(b'{"index":1,"task":"t","payload":{"n":1}}\n' * (size // 41), 7)


def small_lines_at_once(size: int) -> list[bytes]:
    return [b'{"index":1,"task":"t","payload":{"n":1}}\n' * (size // 41)]


def one_line(size: int) -> list[bytes]:
    return cut(line(1, "x" * size), 512)


def one_line_of_wide_characters(size: int) -> list[bytes]:
    return cut(line(1, "é" * (size // 2)), 511)


def blank_lines(size: int) -> list[bytes]:
    return cut(b"\n \r" * (size // 3), 100)


@pytest.mark.parametrize(
    ("pieces", "size", "max_line"),
    [
        (small_lines, 32_768, LIMIT),
        (small_lines_at_once, 262_144, LIMIT),
        (one_line, MIB, 16 * MIB),
        (one_line_of_wide_characters, MIB, 16 * MIB),
        (one_line, 4 * MIB, LIMIT),
        (blank_lines, 65_536, LIMIT),
    ],
)
def test_the_time_is_linear_in_the_size(pieces: Callable[[int], list[bytes]], size: int, max_line: int) -> None:
    """Eight times the size takes less than 24 times as long; were it quadratic, 64 times. The best of three, in CPU time."""

    def decode_stream(stream: list[bytes]) -> None:
        decoder = ItemDecoder(max_line=max_line)
        for piece in stream:
            decoder.feed(piece)
        decoder.finish()

    small, large = pieces(size), pieces(8 * size)
    assert measure_cpu(lambda: decode_stream(large)) < 24 * measure_cpu(lambda: decode_stream(small))


@pytest.mark.parametrize(
    "text", [b"[", b" ", b'"', b'\\"', b'"\\', b'{"a":', b"1", b"1,", b'"a":1,', b'"\\u0061":"\\u0061",']
)
def test_the_time_for_a_head_is_linear(text: bytes) -> None:
    """Whatever it is made of."""
    small, large = (b'{"a":' + text * (size // len(text)) for size in (8_000, 64_000))
    assert measure_cpu(lambda: find_head(large)) < 24 * measure_cpu(lambda: find_head(small))


def measure_cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU, the best of three; not less than the clock can tell."""
    times: list[float] = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return max(min(times), 0.000_1)


@pytest.mark.parametrize(
    "start", [b'{"index": 3, "task": "t", "payload": "', b'{"payload": "'], ids=["with an index", "without an index"]
)
def test_a_line_without_end_is_not_held(start: bytes) -> None:
    """64 MiB without a newline: what is allocated stays within the limit, a piece, and an eighth that a buffer grows by."""
    max_line, piece = 3 * MIB, b"x" * 65_536
    tracemalloc.start()
    try:
        decoder = ItemDecoder(max_line=max_line)
        lines = decoder.feed(start)
        for _ in range(64 * MIB // len(piece)):
            lines += decoder.feed(piece)
        held, peak = tracemalloc.get_traced_memory()
        lines += decoder.finish()
    finally:
        tracemalloc.stop()
    assert peak < max_line * 9 / 8 + 2 * len(piece)
    assert held < 2 * HEAD_SIZE  # once it is known to be too long, its head is enough
    [only] = lines
    match only:
        case OversizedItem():
            assert (only.index, only.actual_size) == (3, 64 * MIB + len(start))
        case _:
            assert (bad(lines).kind, b"index" in start) == ("unidentifiable", False)


def test_a_line_at_the_limit_is_held_once() -> None:
    max_line, piece = 3 * MIB, b"x" * 65_536
    tracemalloc.start()
    try:
        decoder = ItemDecoder(max_line=max_line)
        decoder.feed(b'{"index": 3, "task": "t", "payload": "')
        for _ in range(max_line // len(piece) - 1):
            decoder.feed(piece)
        lines = decoder.feed(b'"}\n')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(items(lines)) == 1
    assert peak < max_line * 9 / 8 + 2 * len(piece)
