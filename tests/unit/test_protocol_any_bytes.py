"""The item stream's codec: what holds for any bytes in any pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.item_lines import cut, decode

from headrace.protocol.batches import BatchItem
from headrace.protocol.heads import HEAD_SIZE, LineHead, find_head
from headrace.protocol.ndjson import BadLine, Line, OversizedItem, ParsedItem


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
