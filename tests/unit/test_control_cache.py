"""What is remembered of the control plane is bounded, over in time, and never older than the last change that was heard of."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine import control_cache
from headrace.engine.control_cache import ControlCache, ControlMemory, Epochs, Known, Moment


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Room:
    """A cache of three places whose clock is the test's."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.epochs = Epochs(self.clock)
        self.cache: ControlCache[str, str] = ControlCache(self.epochs, seconds=1.0, size=3)

    def put(self, key: str, value: str | None, environment: int | None = 1) -> None:
        self.cache.keep(key, value, self.epochs.begin(), environment)

    def see(self, *keys: str) -> list[str]:
        return [key for key in keys if self.cache.recall(key) is not None]


@pytest.fixture
def room() -> Room:
    return Room()


def test_that_there_is_nothing_is_an_answer_and_no_miss(room: Room) -> None:
    assert room.cache.recall("k") is None
    room.put("k", None, None)
    assert room.cache.recall("k") == Known(None)


def test_an_entry_lives_from_before_it_was_read(room: Room) -> None:
    moment = room.epochs.begin()
    room.clock.now += 0.7  # so long reading takes
    room.cache.keep("k", "v", moment, 1)
    room.clock.now += 0.29
    assert room.see("k")
    room.clock.now += 0.01
    assert not room.see("k")


def test_what_took_longer_to_read_than_it_may_live_is_not_kept(room: Room) -> None:
    moment = room.epochs.begin()
    room.clock.now += 1.0
    room.cache.keep("k", "v", moment, 1)
    assert len(room.cache) == 0


def test_what_is_over_is_dropped_when_it_is_read(room: Room) -> None:
    room.put("k", "v")
    room.clock.now += 1
    assert room.cache.recall("k") is None
    assert len(room.cache) == 0


def test_a_full_cache_drops_what_is_over_before_the_oldest(room: Room) -> None:
    """The one that is over was written last: it took long to read."""
    slow = room.epochs.begin()
    room.clock.now += 0.5
    room.put("a", "1")
    room.put("b", "1")
    room.cache.keep("slow", "1", slow, 1)
    room.clock.now += 0.5
    room.put("c", "1")
    assert room.see("a", "b", "slow", "c") == ["a", "b", "c"]


def test_a_full_cache_of_good_entries_drops_the_oldest(room: Room) -> None:
    for key in "abcd":
        room.put(key, "1")
    assert room.see(*"abcd") == ["b", "c", "d"]


def test_a_key_that_is_written_again_drops_no_other_and_is_young_again(room: Room) -> None:
    for key in "abc":
        room.put(key, "1")
    room.put("b", "2")
    assert room.see(*"abc") == ["a", "b", "c"]
    room.put("d", "1")
    room.put("e", "1")
    assert room.see(*"abcde") == ["b", "d", "e"]
    assert room.cache.recall("b") == Known("2")


def test_a_change_of_an_environment_ends_what_is_of_it(room: Room) -> None:
    room.put("one", "1", 1)
    room.put("two", "2", 2)
    room.put("none", None, None)
    room.epochs.move(1)
    assert room.see("one", "two", "none") == ["two"]


def test_a_change_of_the_installation_ends_everything(room: Room) -> None:
    room.put("one", "1", 1)
    room.put("none", None, None)
    room.epochs.move(0)
    assert room.see("one", "none") == []


@pytest.mark.parametrize(
    ("value", "environment", "moved"), [("v", 1, 1), ("v", 1, 0), (None, None, 1), (None, None, 0)]
)
def test_what_was_being_read_while_it_changed_is_not_kept(
    room: Room, value: str | None, environment: int | None, moved: int
) -> None:
    moment = room.epochs.begin()
    room.epochs.move(moved)
    room.cache.keep("k", value, moment, environment)
    assert room.cache.recall("k") is None
    room.put("k", value, environment)
    assert room.cache.recall("k") == Known(value)


def test_what_was_being_read_while_another_environment_changed_is_kept(room: Room) -> None:
    moment = room.epochs.begin()
    room.epochs.move(2)
    room.cache.keep("k", "v", moment, 1)
    assert room.see("k")


def test_epochs_are_bounded_and_forgetting_them_brings_nothing_back(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_cache, "_REMEMBERED_EPOCHS", 10)
    room.put("old", "1", 1)
    early = room.epochs.begin()
    for environment in range(1, 1000):
        room.epochs.move(environment)
    assert len(room.epochs._moved) <= 10  # pyright: ignore[reportPrivateUsage]
    room.cache.keep("late", "1", early, 1)
    assert room.see("old", "late") == []


def test_keys_that_are_none_push_out_no_key() -> None:
    memory = ControlMemory()
    for number in range(20_000):
        memory.strangers.keep(str(number).encode(), None, memory.epochs.begin())
    assert len(memory.strangers) <= 1000
    assert len(memory.keys) == 0


def test_what_a_store_was_seen_to_have_is_believed_for_a_while() -> None:
    clock = Clock()
    memory = ControlMemory(clock)
    mark, other = uuid.uuid4(), uuid.uuid4()
    assert not memory.has_copied(mark, 30)
    memory.note_copied(mark)
    assert memory.has_copied(mark, 30)
    assert not memory.has_copied(other, 30)
    clock.now += 30
    assert not memory.has_copied(mark, 30)


ENVIRONMENTS = st.integers(1, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 0.7)),
        st.tuples(st.just("begin"), st.sampled_from("abcdef")),
        st.tuples(st.just("keep"), st.integers(0, 5)),
        st.tuples(st.just("change"), st.integers(0, 3)),
        st.tuples(st.just("ask"), st.sampled_from("abcdef")),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_an_answer_is_a_second_old_at_most_and_not_older_than_a_change(
    steps: list[tuple[str, object]],
) -> None:
    """Keys a to e are of environments 1 to 3; f is nowhere. What is true of a key is how often what it is of was changed."""
    room = Room()
    homes: dict[str, int | None] = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3, "f": None}
    truth = dict.fromkeys(homes, 0)
    reading: list[tuple[str, Moment, int]] = []
    for what, of in steps:
        match what, of:
            case "wait", float(seconds):
                room.clock.now += seconds
            case "begin", str(key):  # what is true of it is seen here, and written to the cache later
                reading.append((key, room.epochs.begin(), truth[key]))
            case "keep", int(place) if place < len(reading):
                key, moment, seen = reading.pop(place)
                room.cache.keep(key, None if homes[key] is None else f"{seen}@{moment.time}", moment, homes[key])
            case "change", int(environment):
                for key, home in homes.items():
                    truth[key] += environment in (0, home) or home is None
                room.epochs.move(environment)
            case "ask", str(key):
                known = room.cache.recall(key)
                if known is not None and known.value is not None:
                    seen, read_at = known.value.split("@")
                    assert int(seen) == truth[key]
                    assert room.clock.now - float(read_at) < 1.0
            case _:
                pass
        assert len(room.cache) <= 3
