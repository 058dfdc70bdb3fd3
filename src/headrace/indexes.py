"""Which indexes of a batch have not been seen yet, as ranges: what ``as_completed`` remembers, and where it looks next."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

_OPEN_END: Final = 2**31
"""Above every index that an item can have."""


class UnseenIndexes:
    """At first all of them. Costs memory by the number of gaps, not by the number of indexes.

    >>> unseen = UnseenIndexes()
    >>> unseen.take(0), unseen.take(2), unseen.take(2), unseen.find_from(0), unseen.find_from(2)
    (True, True, False, 1, 3)
    """

    def __init__(self) -> None:
        self.taken = 0
        self._starts: list[int] = [0]
        self._ends: list[int] = [_OPEN_END]  # each the first index after its range

    def find_from(self, index: int) -> int:
        """The lowest unseen index that is ``index`` or more."""
        place = bisect_left(self._ends, index + 1)
        return max(index, self._starts[place])

    def take(self, index: int) -> bool:
        """Marks an index as seen. False where it was already."""
        place = bisect_left(self._ends, index + 1)
        start, end = self._starts[place], self._ends[place]
        if index < start:
            return False
        self.taken += 1
        if start == index:
            self._starts[place] = index + 1
            if index + 1 == end:
                del self._starts[place], self._ends[place]
        elif index + 1 == end:
            self._ends[place] = index
        else:
            self._starts.insert(place + 1, index + 1)
            self._ends.insert(place, index)
        return True
