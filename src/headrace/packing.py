"""Packing: many small things into few parcels of about one size, without cutting any.

>>> pack(["aa", "b", "ccc", "d"], size_of=len, most=4)
[['aa', 'b'], ['ccc', 'd']]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pack(items: Iterable[T], *, size_of: Callable[[T], float], most: float) -> list[list[T]]:
    """Lists of consecutive ``items`` whose sizes add up to ``most`` or less; all of them, in their order.

    Greedy: a list is closed when the next item would not fit. An item that alone is larger than ``most`` has a list to
    itself, whole: what belongs together is not cut for the sake of transport. No items make no lists. Sizes are
    ``size_of(item)`` in any unit (bytes, tokens), asked for once an item.
    """
    packs: list[list[T]] = []
    left = 0.0
    for item in items:
        size = size_of(item)
        if not packs or size > left:
            packs.append([])
            left = most
        packs[-1].append(item)
        left -= size
    return packs
