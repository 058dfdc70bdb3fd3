"""The item stream's codec: the checklist of its parser (research/batch.md 7), mended faults (8), time and memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest
from tests.unit.item_lines import LIMIT, bad, cut, decode, items, line

from headrace.protocol.heads import HEAD_SIZE, LineHead, find_head
from headrace.protocol.ndjson import ItemDecoder, OversizedItem, ParsedItem
from headrace.protocol.options import RunOptions

MIB = 1024 * 1024


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


# The faults of section 8


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
