"""The slots of a worker, divided among stores."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from headrace.worker import slots as slots_module
from headrace.worker.slots import Hold, Share, Slots

pytestmark = pytest.mark.anyio


class Party:
    """Shares, and how often each was woken."""

    def __init__(self, total: int, count: int) -> None:
        self.slots = Slots(total)
        self.woken = [0] * count
        self.put_down = [0] * count
        self.shares = [
            self.slots.join(self._counter(self.woken, one), self._counter(self.put_down, one)) for one in range(count)
        ]

    @staticmethod
    def _counter(counts: list[int], which: int) -> Callable[[], None]:
        def count() -> None:
            counts[which] += 1

        return count


def claim(share: Share, brings: int) -> int:
    """A claim that is answered at once, with so much at most; how many runs began."""
    share.want()
    room = share.room
    if not room:
        return 0
    hold = share.take(room)
    found = min(brings, hold.end())
    share.begin(found)
    share.note_answer(full=found >= hold.count)
    if not found:
        share.rest()
    return found


async def test_one_store_has_all_slots() -> None:
    party = Party(10, 1)
    [share] = party.shares
    assert (share.room, share.enough) == (10, 5)
    assert claim(share, 100) == 10
    assert (share.room, party.slots.free) == (0, 0)
    share.release()
    assert (share.room, party.woken) == (1, [1])


async def test_claims_under_way_never_count_on_the_same_slot() -> None:
    party = Party(10, 2)
    first, second = party.shares
    first.want()
    second.want()
    holds = [first.take(first.room), second.take(second.room)]
    assert [hold.count for hold in holds] == [5, 5]
    assert (first.room, second.room) == (0, 0)
    assert party.slots.free == 10, "nothing runs yet"
    assert [hold.end() for hold in holds] == [5, 5]


async def test_a_store_that_wants_none_leaves_its_part_to_the_others() -> None:
    party = Party(10, 3)
    busy, idle, _ = party.shares
    assert claim(idle, 0) == 0
    assert claim(busy, 100) == 4, "nobody knows yet that there is more"
    assert claim(busy, 100) == 6


async def test_who_comes_late_gets_its_part_before_anybody_else_gets_more() -> None:
    party = Party(10, 2)
    greedy, late = party.shares
    while claim(greedy, 100):
        pass
    assert greedy.used == 10
    late.want()
    for free in range(1, 6):
        greedy.release()
        greedy.want()
        assert greedy.room == 0, f"{free} slots are the other's"
        assert claim(late, 100) == 1
        assert late.used == free
    greedy.release()
    rooms = greedy.room, late.room
    assert sorted(rooms) == [0, 1], "one slot, and both have equally many"


async def test_a_single_slot_goes_round() -> None:
    party = Party(1, 3)
    order: list[int] = []
    for share in party.shares:
        share.want()
    for _ in range(9):
        [who] = [one for one, share in enumerate(party.shares) if share.room]
        assert claim(party.shares[who], 100) == 1
        order.append(who)
        party.shares[who].release()
    assert sorted(order[:3]) == [0, 1, 2]
    assert order[:3] * 3 == order


async def test_who_waits_for_a_slot_is_woken_and_nobody_else() -> None:
    party = Party(2, 3)
    first, second, _ = party.shares
    claim(first, 2)
    claim(first, 2)
    second.want()
    woken = list(party.woken)
    first.rest()
    first.release()
    assert [now - before for now, before in zip(party.woken, woken, strict=True)] == [0, 2, 0]


async def test_slots_are_made_free_in_every_store_but_only_where_none_is() -> None:
    party = Party(2, 2)
    claim(party.shares[0], 1)
    party.shares[1].make_room()
    assert party.put_down == [0, 0]
    claim(party.shares[0], 1)
    party.shares[1].make_room()
    assert party.put_down == [1, 1]


async def test_a_claim_without_an_answer_gives_its_slots_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "SILENCE_SECONDS", 0.01)
    party = Party(10, 2)
    frozen, other = party.shares
    frozen.want()
    other.want()
    hold = frozen.take(frozen.room)
    assert other.room == 5
    await asyncio.sleep(0.05)
    assert party.woken[1] > 0
    assert claim(other, 100) + claim(other, 100) + claim(other, 100) == 10
    assert hold.end() == 0, "its answer comes late: there is no slot left for it"
    for _ in range(6):
        other.release()
    other.rest()
    assert frozen.room == 1, "it asks with one slot until it answers"
    frozen.note_answer(full=True)
    assert frozen.room == 6


@pytest.mark.parametrize("seed", range(20))
async def test_never_more_than_there_are_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "SILENCE_SECONDS", 0.001)
    chance = random.Random(seed)
    party = Party(chance.randint(1, 12), chance.randint(1, 4))
    slots = party.slots
    holds: list[tuple[Share, Hold]] = []
    for _ in range(500):
        share = chance.choice(party.shares)
        match chance.randrange(5):
            case 0:
                share.want()
                if (room := share.room) and all(one is not share for one, _ in holds):
                    holds.append((share, share.take(room)))
            case 1 if holds:
                owner, hold = holds.pop(chance.randrange(len(holds)))
                room = hold.end()
                owner.begin(found := chance.randint(0, room))
                owner.note_answer(full=found == hold.count)
            case 2 if share.used:
                share.release()
            case 3:
                share.rest()
            case _:
                await asyncio.sleep(chance.choice([0, 0, 0, 0.002]))
        assert 0 <= slots.used <= slots.total
        assert slots.used == sum(one.used for one in party.shares)
        assert slots.kept == sum(one.kept for one in party.shares) >= 0
    for owner, hold in holds:
        hold.end()
        owner.rest()
    for share in party.shares:
        while share.used:
            share.release()
    assert (slots.used, slots.kept) == (0, 0)
