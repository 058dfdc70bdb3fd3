"""The item stream's codec: the rules of its lines (research/batch.md 2)."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw
from tests.unit.item_lines import LIMIT, bad, cut, decode, items, line

from headrace.protocol.heads import HEAD_SIZE, LineHead, find_head
from headrace.protocol.ndjson import BadLine, ItemDecoder, OversizedItem, ParsedItem
from headrace.protocol.options import RunOptions


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
