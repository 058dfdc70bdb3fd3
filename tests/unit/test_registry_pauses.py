"""How often a process reads the registry of stores: never later than a new store needs, and not all processes at once."""

from __future__ import annotations

from headrace.engine.engine import pause_of
from headrace.settings import Settings
from headrace.store.router import StoreRecord

HOME = StoreRecord("0", "home", "", 1.0, "active")


def opening(seconds: float) -> StoreRecord:
    return StoreRecord("1", "s1", "", 1.0, "active", opens_in=seconds)


def test_every_process_has_read_of_a_store_before_it_takes_roots() -> None:
    pauses = [pause_of([HOME]) for _ in range(1000)]
    assert max(pauses) <= 5.0 <= Settings().store_grace / 2
    assert min(pauses) >= 2.5, "no more often than worked out in docs/explanation/scale.md"


def test_processes_that_were_told_at_once_go_apart_again() -> None:
    """Two hundred of them, over ten rounds: in no tenth of a second of the last come more than a tenth."""
    moments = [sum(pause_of([HOME]) for _ in range(10)) for _ in range(200)]
    assert max(sum(begin <= one < begin + 0.1 for one in moments) for begin in moments) <= 20


def test_a_store_is_taken_into_use_when_it_opens() -> None:
    assert pause_of([HOME, opening(0.25)]) == 0.25
    assert pause_of([HOME, opening(60)]) <= 5.0
