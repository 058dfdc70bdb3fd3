"""Cutting a text into chunks. Pure: chunks depend on the text and on nothing else."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter
from dataclasses import dataclass

MOST = 1200
"""Characters of a chunk, about two hundred words."""

LEAST = 300
CUTTER = "1"
"""Counts the ways of cutting: with another one every chunk is another chunk."""

_PARAGRAPH = re.compile(r".+?(?:\n[ \t\r]*\n\s*|\Z)", re.DOTALL)
_PIECE = re.compile(rf".{{1,{MOST}}}(?=\s|\Z)\s?|.{{1,{MOST}}}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: known by what it says, and for pieces that say the same by a number."""

    hash: bytes
    nth: int
    position: int
    body: str


def make_chunks(body: str, model: str) -> list[Chunk]:
    """The chunks of a text. Another model's chunks have other hashes: they are to be embedded anew."""
    chunks: list[Chunk] = []
    seen = Counter[bytes]()
    for position, piece in enumerate(cut_text(body)):
        digest = hash_text(piece, model)
        chunks.append(Chunk(digest, seen[digest], position, piece))
        seen[digest] += 1
    return chunks


def hash_text(text: str, model: str) -> bytes:
    """What a text, or a whole document, is known by."""
    return hashlib.sha256(f"{CUTTER}\0{model}\0{text}".encode()).digest()


def cut_text(body: str) -> list[str]:
    """Pieces of at most MOST characters (and one space), which joined are the text. A blank text has none.

    Where a piece ends is decided by the paragraph that it ends with, not by how much text stands before: so a changed
    paragraph changes the pieces around it, and the rest of a long text is cut as it was.
    """
    pieces: list[str] = []
    current = ""
    for paragraph in _PARAGRAPH.findall(body) if body.strip() else ():
        for part in _PIECE.findall(paragraph):
            if current and len(current) + len(part) > MOST:
                pieces.append(current)
                current = ""
            current += part
        if len(current) >= LEAST and zlib.crc32(paragraph.encode()) % 3 == 0:
            pieces.append(current)
            current = ""
    return [*pieces, current] if current else pieces
