"""The shapes of ids."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import ids

raw_ids = st.builds(
    lambda body, store: UUID(bytes=body + bytes([store])),
    st.binary(min_size=15, max_size=15),
    st.integers(0, len(ids.STORE_KEYS) - 1),
)
foreign_texts = st.from_regex(
    r"\Arun_([0-9a-v]{24}[0-9a-z]1|c[0-9a-z]{24}|[0-9a-z]{25}|[0-9A-Za-z]{27}|[0-9a-z]{21})\Z"
)
batch_ids = st.builds(
    lambda body, store: UUID(bytes=body + bytes(4) + bytes([store])),
    st.binary(min_size=11, max_size=11),
    st.integers(0, 35),
)


@given(raw_ids)
def test_what_is_written_reads_the_same(value: UUID) -> None:
    assert ids.parse_run_id(ids.format_run_id(value)) == value
    assert ids.parse_batch_id(ids.format_batch_id(value)) == value
    assert ids.parse_token_id(ids.format_token_id(value)) == value


@given(raw_ids)
def test_the_kinds_are_not_taken_for_each_other(value: UUID) -> None:
    assert ids.parse_run_id(ids.format_batch_id(value)) is None
    assert ids.parse_batch_id(ids.format_run_id(value)) is None
    assert ids.parse_token_id(ids.format_run_id(value)) is None
    assert ids.parse_run_id(ids.format_token_id(value)) is None


@given(raw_ids)
def test_the_shape_of_the_text(value: UUID) -> None:
    """26 lower-case characters: a DNS label may hold them; the store and the version are the last two."""
    assert re.fullmatch("run_[0-9a-v]{24}[0-9a-z]2", ids.format_run_id(value))
    assert ids.format_run_id(value)[-2] == ids.store_of(value)


@pytest.mark.parametrize("mint", [ids.mint_run_id, ids.mint_batch_id, ids.mint_token_id])
def test_ids_sort_in_the_order_in_which_a_process_mints_them(mint: Callable[[], UUID]) -> None:
    """Thousands in a millisecond, in many threads: each thread's in its order, none twice."""

    def mint_many() -> list[UUID]:
        return [mint() for _ in range(5_000)]

    with ThreadPoolExecutor(4) as pool:
        minted = [future.result() for future in [pool.submit(mint_many) for _ in range(4)]]
    assert all(mine == sorted(mine) for mine in minted)
    assert len(set(chain.from_iterable(minted))) == 20_000


@pytest.mark.parametrize(("back", "counted_on"), [(0.5, True), (3600.0, False)])
def test_ids_while_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch, back: float, counted_on: bool) -> None:
    """By a little: their order is kept. By much: their time is the clock's again."""
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    before = ids.mint_run_id()
    now -= int(back * 1e9)
    after = ids.mint_run_id()
    assert (before < after) is counted_on
    assert (ids.minted_at(before) - ids.minted_at(after)).total_seconds() == (0 if counted_on else back)


@given(raw_ids, raw_ids)
def test_text_sorts_as_bytes_do(one: UUID, other: UUID) -> None:
    assert (ids.format_run_id(one) < ids.format_run_id(other)) == (one.bytes < other.bytes)


@given(st.text() | st.from_regex(r"\A(run_|batch_)?[0-9a-zA-Z_]{20,28}\Z") | foreign_texts)
def test_any_text_is_an_id_or_none(text: str) -> None:
    """And what is read is written the same, unless it is from elsewhere: no id of ours has two spellings."""
    run, batch, token = ids.parse_run_id(text), ids.parse_batch_id(text), ids.parse_token_id(text)
    assert run is None or ids.is_foreign(run) or ids.format_run_id(run) == text
    assert run is None or ids.parse_run_id(ids.format_run_id(run)) == run
    assert batch is None or ids.format_batch_id(batch) == text
    assert [run, batch, token].count(None) >= 2


@given(foreign_texts)
def test_an_id_from_elsewhere_is_known_by_its_shape_alone(text: str) -> None:
    """It is the legacy store's, always the same one, and what it is written as where its text is not known reads as it."""
    value = ids.parse_run_id(text)
    assert value is not None
    assert ids.parse_run_id(text) == value
    assert (ids.store_of(value), ids.is_foreign(value)) == (ids.LEGACY_STORE, True)
    assert ids.format_run_id(value) != text
    assert ids.parse_run_id(ids.format_run_id(value)) == value


@given(st.lists(foreign_texts, unique=True, max_size=50))
def test_no_two_ids_from_elsewhere_are_one(texts: list[str]) -> None:
    assert len({ids.parse_run_id(text) for text in texts}) == len(texts)


@given(raw_ids)
def test_what_is_minted_is_never_of_a_foreign_shape(value: UUID) -> None:
    """Our own shape always wins: whatever its bytes are, an id of a store of ours is read as itself."""
    for text in (ids.format_run_id(value), ids.format_batch_id(value), ids.format_token_id(value)):
        read = ids.parse_run_id("run_" + text.partition("_")[2])
        assert read is not None
        assert not ids.is_foreign(read)
        assert ids.store_of(read) in ids.STORE_KEYS


@pytest.mark.parametrize("store", ["", "ab", "01", ids.LEGACY_STORE, "A", "-"])
def test_no_id_is_minted_that_can_not_be_routed(store: str) -> None:
    for mint in (ids.mint_run_id, ids.mint_batch_id, ids.mint_token_id, ids.mint_schedule_id, ids.mint_bulk_action_id):
        with pytest.raises(KeyError):
            mint(store)
    with pytest.raises(KeyError):
        ids.at_store(ids.mint_run_id(), store)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("run_cjld2cjxh0000qzrmn831i7rn", "2018-08-28T01:59:12.101"),  # the example of cuid's own page
        ("run_0ujtsYcgvSTl8PAuAdqWYSMnLOv", "2017-10-10T04:00:47"),  # and of KSUID's
        ("run_06f3q1c2k8g5m0t7n4e9r2abe1", "2026-05-18T21:37:11.842"),
        ("run_abcdefghijkmnopqrstuv", "1970-01-01T00:00:00"),  # no time in it
        ("run_" + "z" * 27, "1970-01-01T00:00:00"),  # more than a KSUID can be
        ("run_" + "a" * 25, "1970-01-01T00:00:00"),  # no cuid: that begins with c
        ("run_c" + "z" * 24, "2059-05-25T17:38:27.455"),
    ],
)
def test_an_id_from_elsewhere_sorts_by_the_time_in_it(text: str, at: str) -> None:
    value = ids.parse_run_id(text)
    assert value is not None
    assert ids.minted_at(value) == datetime.fromisoformat(at).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run_",
        "run_" + "0" * 24,
        "run_" + "0" * 28,
        "run_" + "0" * 26,  # version
        "run_" + "w" + "0" * 24 + "1",
        "run_" + "0" * 24 + "1x",
        "run_" + "A" + "0" * 24,  # a cuid has no capitals
        "run_" + "0" * 26 + "-",
        "0" * 25,
        "c" + "0" * 24,
        "run_" + "\u0660" * 25,
        "run_" + "0" * 25 + "\n",
        "run_" + "w" + "0" * 24 + "2",  # no base32hex
        "run_" + "A" + "0" * 24 + "2",
        "run_" + "0" * 24 + "A2",  # store
        "run_" + "0" * 24 + "\u06602",
        "run_run_" + "0" * 25 + "2",
        " run_" + "0" * 25 + "2",
        "run_" + "0" * 25 + "2\n",
        "0" * 25 + "2",
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert ids.parse_run_id(text) is None
    assert ids.parse_batch_id(text.replace("run_", "batch_")) is None
    assert ids.parse_token_id(text.replace("run_", "waitpoint_")) is None


def test_the_example_of_the_module_is_an_id() -> None:
    text = "run_06f3q1c2k8g5m0t7n4e9r2ab12"
    value = ids.parse_run_id(text)
    assert value is not None
    assert (ids.format_run_id(value), ids.store_of(value)) == (text, "1")


@given(batch_ids, st.integers(0, ids.MAX_ITEM_INDEX), st.integers(0, ids.MAX_ITEM_INDEX))
def test_runs_of_a_batch_sort_by_index_and_stay_in_its_store(batch: UUID, one: int, other: int) -> None:
    """House invariant 8: children live in the store of their parent."""
    first, second = ids.item_run_id(batch, one), ids.item_run_id(batch, other)
    assert (first.bytes < second.bytes) == (one < other)
    assert (first == second) == (one == other)
    assert ids.store_of(first) == ids.store_of(batch)
    assert first.bytes[:11] == batch.bytes[:11]


@pytest.mark.parametrize("store", ["0", "9", "a", "z"])
def test_minted_ids_know_their_store_and_time(store: str) -> None:
    before = time.time_ns() // 1_000_000
    run, batch, token = ids.mint_run_id(store), ids.mint_batch_id(store), ids.mint_token_id(store)
    after = time.time_ns() // 1_000_000
    for value in (run, batch, token):
        assert ids.store_of(value) == store
        assert before <= int.from_bytes(value.bytes[:6], "big") <= after
    assert ids.item_run_id(batch, 0) == batch  # the last four bytes of a batch are free
    assert ids.parse_run_id(ids.format_run_id(run)) == run
    assert ids.parse_batch_id(ids.format_batch_id(batch)) == batch


def test_minted_ids_are_distinct() -> None:
    assert len({ids.mint_run_id() for _ in range(10_000)}) == 10_000
    assert len({ids.mint_batch_id() for _ in range(10_000)}) == 10_000
    assert len({ids.mint_token_id() for _ in range(10_000)}) == 10_000


def test_the_first_store_is_home() -> None:
    assert ids.store_of(ids.mint_run_id()) == ids.HOME_STORE == "0"
    assert ids.store_of(UUID(int=2**128 - 2)) == ids.HOME_STORE  # a byte that stands for no store


@given(raw_ids, st.sampled_from(ids.STORE_KEYS), st.sampled_from(ids.STORE_KEYS))
def test_an_id_at_another_store_differs_in_the_store_alone(value: UUID, store: str, other: str) -> None:
    there = ids.at_store(value, store)
    assert ids.store_of(there) == store
    assert there.bytes[:15] == value.bytes[:15]
    assert ids.at_store(there, other) == ids.at_store(value, other)
    assert ids.at_store(there, store) == there
