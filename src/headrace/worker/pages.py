"""The pages in which a run's code was given outcomes of a batch as they came: a row of the journal each.

A batch of slow children makes as many pages as it has items. A replay is given those that followed each other, with
nothing else told in between, as one: it costs by what the code did, not by how slowly the outcomes came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from headrace.durable.ops import ITERATE, page_name
from headrace.engine.outcomes import Packet, Point

MOST_INDEXES: Final = 1000
"""Outcomes that are given to a replay at once."""

_MARK: Final = "/page"


class PageBook:
    """The pages of one run: ``points`` has them as the code asks for them, by batch and number."""

    def __init__(self, journal: Sequence[Point]) -> None:
        self._stored: Counter[str] = Counter()  # rows, by batch
        self._given: Counter[str] = Counter()  # pages that the code can ask for, by batch
        self._names: dict[str, str] = {}
        told = sorted((p for p in journal if p.seen is not None and p.kind != "progress"), key=lambda p: p.seen or 0)
        untold = sorted((p for p in journal if p.seen is None and is_page(p)), key=lambda p: p.made)
        self.points = [*self._merge(told), *self._merge(untold)]

    def store_name(self, name: str) -> str:
        """The name under which a new page, or a point of any other kind, is written."""
        batch, mark, _ = name.rpartition("~")
        if not mark or not batch.startswith(ITERATE):
            return name
        if name not in self._names:
            self._stored[batch] += 1
            self._names[name] = f"{batch}{_MARK}{self._stored[batch]}"
        return self._names[name]

    def _merge(self, points: Sequence[Point]) -> list[Point]:
        groups: list[tuple[str, list[Point]]] = []
        last: str | None = None
        sizes: defaultdict[int, int] = defaultdict(int)
        for point in points:
            batch = point.name.rpartition(_MARK)[0] if is_page(point) else None
            if batch is not None:
                self._stored[batch] += 1
                size = len(msgspec.json.decode(point.value.data or b"[]"))
                if batch != last or point.seen is None or sizes[len(groups)] + size > MOST_INDEXES:
                    groups.append((batch, []))
                groups[-1][1].append(point)
                sizes[len(groups)] += size
            last = batch
        return [self._give(batch, pages) for batch, pages in groups]

    def _give(self, batch: str, pages: Sequence[Point]) -> Point:
        self._given[batch] += 1
        name = page_name(batch, self._given[batch])
        self._names[name] = pages[0].name
        indexes = [index for page in pages for index in msgspec.json.decode(page.value.data or b"[]")]
        return replace(pages[0], name=name, value=Packet(msgspec.json.encode(indexes)))


def is_page(point: Point) -> bool:
    """Whether a row of the journal is a page."""
    return point.kind == "step" and point.name.startswith(ITERATE)
