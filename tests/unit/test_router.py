"""The router by itself, with names for stores: who owns an id, where a root goes, and what becomes of who does not answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.ids import STORE_KEYS, mint_run_id
from headrace.store.router import StoreRecord, Stores
from headrace.store.store import find_store_name

pytestmark = pytest.mark.anyio


def route(*records: StoreRecord, home_weight: float = 1.0) -> Stores[str]:
    """A router of these stores and home; each is its own name."""
    stores = Stores("home", patience=0.2)
    home = StoreRecord("0", "home", "", home_weight, "active")
    stores.replace([*((one, one.name) for one in records), (home, "home")])
    return stores


S1 = StoreRecord("1", "s1", "", 1.0, "active")
S2 = StoreRecord("2", "s2", "", 6.0, "active")


@given(st.uuids() | st.integers(0, 2**128 - 1).map(lambda value: UUID(int=value)))
def test_every_id_has_one_owner_and_none_is_looked_up(value: UUID) -> None:
    key = value.int & 0xFF
    assert route(S1, S2).owner(value) == {1: "s1", 2: "s2"}.get(key, "home")


def test_minted_ids_lead_to_the_store_whose_key_they_have() -> None:
    stores = route(*(StoreRecord(key, f"s-{key}", "", 1.0, "active") for key in STORE_KEYS[1:]))
    owners = [stores.owner(mint_run_id(key)) for key in STORE_KEYS]
    assert owners == ["home", *(f"s-{key}" for key in STORE_KEYS[1:])]


def test_roots_are_spread_by_weight() -> None:
    picked = Counter(route(S1, S2).pick() for _ in range(8_000))
    assert picked.keys() == {"home", "s1", "s2"}
    assert abs(picked["s2"] - 6_000) < 400  # ten times what one expects by chance
    assert abs(picked["s1"] - picked["home"]) < 400


@pytest.mark.parametrize(
    "shut",
    [
        StoreRecord("1", "s1", "", 1.0, "draining"),
        StoreRecord("1", "s1", "", 0.0, "active"),
        StoreRecord("1", "s1", "", 1.0, "active", opens_in=0.1),
    ],
    ids=["draining", "of no weight", "not open yet"],
)
def test_a_store_that_takes_no_roots_gets_none_and_owns_what_it_has(shut: StoreRecord) -> None:
    stores = route(shut, S2)
    assert {stores.pick() for _ in range(200)} == {"home", "s2"}
    assert not stores.takes_roots("s1")
    assert stores.owner(mint_run_id("1")) == "s1"
    assert "s1" in stores.all()
    assert route(shut, home_weight=0.0).pick() == "home", "where none takes roots home does"


async def test_one_that_is_silent_or_away_is_named_and_the_others_answer() -> None:
    async def ask(name: str) -> str:
        if name == "s1":
            raise ConnectionRefusedError
        if name == "s2":
            await asyncio.sleep(30)
        return name

    gathered = await route(S1, S2).gather(ask)
    assert (gathered.answers, gathered.missing) == (["home"], ["s1", "s2"])


async def test_what_is_no_fault_of_a_store_is_raised() -> None:
    async def ask(name: str) -> str:
        raise KeyError(name)

    with pytest.raises(KeyError):
        await route(S1).gather(ask)


async def test_with_one_store_its_errors_are_its_own() -> None:
    async def ask(name: str) -> str:
        raise ConnectionRefusedError(name)

    with pytest.raises(ConnectionRefusedError):
        await route().gather(ask)


def test_what_was_found_elsewhere_is_looked_for_there_and_so_many_are_remembered() -> None:
    stores = route(S1, S2)
    moved = mint_run_id("1")
    stores.remember(moved, "s2")
    assert stores.owner(moved) == "s2"
    for _ in range(10_000):
        stores.remember(mint_run_id("1"), "s2")
    assert stores.owner(moved) == "s1", "it is forgotten, and asked for where its id says, where it is known"


async def test_one_that_was_silent_gets_no_roots_for_a_while_and_is_named() -> None:
    stores = route(S1, S2)
    with pytest.raises(TimeoutError) as raised:
        await stores.ask("2", asyncio.sleep(30))
    assert find_store_name(raised.value) == "s2"
    assert {stores.pick() for _ in range(200)} == {"home", "s1"}
    assert await stores.ask("2", asyncio.sleep(0, "there")) == "there"
    assert {stores.pick() for _ in range(200)} == {"home", "s1", "s2"}


async def test_where_all_were_silent_roots_go_where_they_would_go_anyway() -> None:
    stores = route(S1, home_weight=0.0)
    stores.replace([(S1, "s1"), (S2, "s2"), (StoreRecord("0", "home", "", 0.0, "active"), "home")])
    for key in "12":
        with pytest.raises(TimeoutError):
            await stores.ask(key, asyncio.sleep(30))
    assert {stores.pick() for _ in range(200)} == {"s1", "s2"}
