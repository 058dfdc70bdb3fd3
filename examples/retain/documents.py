"""What goes in, what travels, and what is said of it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Document(Struct, frozen=True):
    """A text under a name. Retained again under the same ``id``, it replaces what was there."""

    id: str
    body: str
    tags: list[str] = []


class Parcel(Struct, frozen=True):
    """Documents that travel together, one run's work, and the number of the submission that they are of."""

    sequence: int
    documents: list[Document]


class Retained(Struct, frozen=True):
    """What became of a document; how many of its chunks were embedded, kept as they were, and removed.

    ``superseded``: a later submission of the same document had been there already, so this one did nothing.
    """

    document: str
    state: Literal["changed", "unchanged", "superseded"]
    embedded: int = 0
    kept: int = 0
    removed: int = 0
