"""The slots of a worker process: how many runs it executes at a time, of whichever store.

Each store has a share, which takes slots for a claim before it asks, so that two claims never count on one slot. Stores that
want slots at the same time get equally many, in turn where they don't divide; one that wants none leaves its part to the
others, and so does one that does not answer. With one store all slots are its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Final

SILENCE_SECONDS: Final = 1.0
"""For so long a claim that has no answer keeps its slots from the other stores."""


class Slots:
    """The slots of one process: ``slots.join(...)`` gives a store's share of them."""

    def __init__(self, total: int) -> None:
        self.total: Final = total
        self.used = 0
        """Slots in which something runs."""
        self.kept = 0
        """Slots that claims under way keep for what they bring."""
        self.shares: list[Share] = []
        self.turns: Final = itertools.count(1)

    @property
    def free(self) -> int:
        """Slots in which nothing runs."""
        return self.total - self.used

    def join(self, wake: Callable[[], None], put_down: Callable[[], None]) -> Share:
        """A share of them. ``wake`` is called when it may have room, ``put_down`` when slots are short."""
        share = Share(self, wake, put_down)
        self.shares.append(share)
        return share


class Share:
    """What one store has of the slots."""

    def __init__(self, slots: Slots, wake: Callable[[], None], put_down: Callable[[], None]) -> None:
        self.slots: Final = slots
        self.used = 0
        self.kept = 0
        self.served = 0
        self.wants = False
        self.wake = wake
        self.put_down = put_down
        self._busy = False  # its last claim brought as much as was asked for
        self._silent = False  # its last claim had no answer

    @property
    def held(self) -> int:
        """Slots that nobody else can have now."""
        return self.used + self.kept

    @property
    def room(self) -> int:
        """How many slots it may take now."""
        slots = self.slots
        free = slots.total - slots.used - slots.kept
        if free <= 0 or len(slots.shares) == 1:
            return max(free, 0)
        if self._silent:
            free = 1
        elif not self._busy:  # nobody knows whether there is anything: most is left to the others
            free = min(free, -(-slots.total // len(slots.shares)))
        return min(free, self._divide([one for one in slots.shares if one.wants or one is self]))

    @property
    def enough(self) -> int:
        """So much room is worth a claim at once: half of its part. For less a busy store waits a moment for more."""
        if len(self.slots.shares) == 1:
            return (self.slots.total + 1) // 2
        if not self._busy:
            return 1
        return (self.slots.total // sum(one.wants or one is self for one in self.slots.shares) + 1) // 2

    def want(self) -> None:
        """From now on the others leave it its part."""
        self.wants = True

    def rest(self) -> None:
        """It has nothing to claim, or can't."""
        self._busy = False
        if self.wants:
            self.wants = False
            self._wake_others()

    def make_room(self) -> None:
        """Where no slot is free, runs of every store that only wait are put down."""
        if self.slots.free <= 0:
            for one in self.slots.shares:
                one.put_down()

    def take(self, count: int) -> Hold:
        """Keeps slots for a claim, at most ``room``."""
        self.served = next(self.slots.turns)
        self._keep(count)
        return Hold(self, count)

    def note_answer(self, *, full: bool) -> None:
        """A claim was answered; ``full``: with as many runs as were asked for."""
        self._busy, self._silent = full, False

    def note_silence(self) -> None:
        """A claim was not answered: until one is, it takes one slot to ask."""
        self._silent = True
        self.rest()

    def begin(self, runs: int) -> None:
        """So many runs have a slot each from now on."""
        self.used += runs
        self.slots.used += runs

    def release(self) -> None:
        """A slot is free."""
        self.used -= 1
        self.slots.used -= 1
        if len(self.slots.shares) == 1:
            self.slots.shares[0].wake()
        else:
            self._wake_others()
            if self.wants:
                self.wake()

    def leave(self) -> None:
        """It takes no more; what it uses it still has to give back."""
        if self in self.slots.shares:
            self.slots.shares.remove(self)
            self.wants = False
            self._wake_others()

    def let_go(self, count: int) -> None:
        """Slots that were kept for a claim are not."""
        self._keep(-count)
        if len(self.slots.shares) > 1:
            self._wake_others()

    def _keep(self, count: int) -> None:
        self.kept += count
        self.slots.kept += count

    def _divide(self, rivals: Sequence[Share]) -> int:
        """Its part of what is free, where in the end all have the same, as far as that can be."""
        poorest_first = sorted(rivals, key=lambda one: one.held)
        free = self.slots.total - self.slots.used - self.slots.kept
        while True:
            level, odd = divmod(sum(one.held for one in poorest_first) + free, len(poorest_first))
            if poorest_first[-1].held <= level:
                break
            if poorest_first.pop() is self:
                return 0
        longest_first = sorted(poorest_first, key=lambda one: one.served)
        return level - self.held + (self in longest_first[:odd])

    def _wake_others(self) -> None:
        for one in self.slots.shares:
            if one.wants and one is not self:
                one.wake()


class Hold:
    """Slots that a claim under way keeps: no longer than the answer takes, nor than others can wait."""

    def __init__(self, share: Share, count: int) -> None:
        self.count: Final = count
        self._share = share
        self._kept = True
        alone = len(share.slots.shares) == 1
        self._timer = None if alone else asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._lapse)

    def end(self) -> int:
        """Keeps them no longer. How many slots there are for the answer, which have to be begun at once."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._kept:
            slots = self._share.slots
            return max(min(self.count, slots.total - slots.used - slots.kept), 0)
        self._kept = False
        self._share.let_go(self.count)
        return self.count

    def _lapse(self) -> None:
        self._kept = False
        self._share.note_silence()
        self._share.let_go(self.count)
