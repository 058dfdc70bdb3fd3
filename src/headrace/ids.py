"""The shapes of ids: mint them, parse them, and read off which store owns one.

An id is a prefix that names its kind and a body of 26 lower-case characters, for example
``run_06f3q1c2k8g5m0t7n4e9r2ab12``:

    characters 0-23   15 bytes in base32hex: 6 of Unix time in ms, 2 of 1/65,536 ms, 7 random ones
    character  24     the store that owns it, ``[a-z0-9]``
    character  25     the version of the shape, ``2``

Bodies sort by time as text and as bytes, those of one process in the order in which it minted them (RFC 9562,
section 6.2, method 3). They hold nothing that a DNS label may not hold, and are stored in PostgreSQL as a ``uuid``
of 16 bytes: the 15 bytes, then one byte for the store.

A batch leaves the last 4 of its 15 bytes zero; item *n* of it is the run whose last 4 bytes are *n*. So the run
of an item is known without a look-up, inserting it twice collides on the primary key, and the runs of a batch lie
side by side in the index, in the order of the items.

A run that was imported keeps the id that another installation gave it. Such a text is known by its shape, which is none of
ours, and stands for a ``uuid`` that follows from it: the time that it holds (6 bytes, 0 where it holds none), 9 bytes of its
SHA-256, and a last byte that no store of ours has. Ids of ours are never minted in these shapes.

Pure: no I/O but the clock and the system's random bytes when minting.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import threading
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

STORE_KEYS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Every key that a store can have, in the order of the byte that stands for it."""

HOME_STORE: Final = "0"
"""The key of the first store, and of the only one until more are added."""

LEGACY_STORE: Final = "legacy"
"""What ``store_of`` says of an id from another installation: the store that is declared for imported runs owns it."""

LEGACY_BYTE: Final = 255
"""The last byte of ids from another installation."""

MAX_ITEM_INDEX: Final = 2**31 - 1
"""The largest index that an item of a batch can have: what PostgreSQL's ``integer`` holds."""

_VERSION: Final = "2"
_FOREIGN: Final = "0x"
"""The end of a body that spells the ``uuid`` of an imported run, where the id that it came with is not at hand."""

_BODY_LENGTH: Final = 26
_ALPHABET: Final = frozenset("0123456789abcdefghijklmnopqrstuv")
_BYTES: Final = {key: bytes([ordinal]) for ordinal, key in enumerate(STORE_KEYS)}
_KEYS: Final = dict(enumerate(STORE_KEYS)) | {LEGACY_BYTE: LEGACY_STORE}

_FOREIGN_SHAPES: Final = re.compile(
    r"run_(?:(?P<dated>[0-9a-v]{24})[0-9a-z]1|(?P<cuid>c[0-9a-z]{24})|(?P<ksuid>[0-9A-Za-z]{27})|[0-9a-z]{25}|[0-9a-z]{21})",
    re.ASCII,
)
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KSUID_EPOCH: Final = 1_400_000_000


def mint_run_id(store: str = HOME_STORE) -> UUID:
    """A new id for a run that belongs to no batch, owned by ``store``."""
    return _mint(os.urandom(7), store)


def mint_batch_id(store: str = HOME_STORE) -> UUID:
    """A new id for a batch owned by ``store``."""
    return _mint(os.urandom(3) + b"\0\0\0\0", store)


def mint_token_id(store: str = HOME_STORE) -> UUID:
    """A new id for a token that a run may wait for, owned by ``store``."""
    return _mint(os.urandom(7), store)


def mint_schedule_id(store: str = HOME_STORE) -> UUID:
    """A new id for a schedule that is made over the API, owned by ``store``."""
    return _mint(os.urandom(7), store)


def task_schedule_id(environment_id: int, task: str) -> UUID:
    """The id of the schedule that a task declares in its code: always the same one in an environment. It has no time."""
    digest = hashlib.sha256(f"{environment_id}:{task}".encode()).digest()
    return UUID(bytes=bytes(6) + digest[:9] + _store_byte(HOME_STORE))


def mint_bulk_action_id(store: str = HOME_STORE) -> UUID:
    """A new id for a bulk action, owned by ``store``."""
    return _mint(os.urandom(7), store)


def item_run_id(batch_id: UUID, index: int) -> UUID:
    """The id of the run of item ``index`` (0 or more) of a batch: always the same one.

    The SQL function ``headrace.item_run_id`` is its twin; a test holds them together.
    """
    raw = batch_id.bytes
    return UUID(bytes=raw[:11] + index.to_bytes(4, "big") + raw[15:])


def format_run_id(run_id: UUID) -> str:
    """``run_`` and the body, as it stands on the wire."""
    return "run_" + _body(run_id)


def format_batch_id(batch_id: UUID) -> str:
    """``batch_`` and the body, as it stands on the wire."""
    return "batch_" + _body(batch_id)


def format_token_id(token_id: UUID) -> str:
    """``waitpoint_`` and the body, as it stands on the wire."""
    return "waitpoint_" + _body(token_id)


def format_schedule_id(schedule_id: UUID) -> str:
    """``sched_`` and the body, as it stands on the wire."""
    return "sched_" + _body(schedule_id)


def format_bulk_action_id(action_id: UUID) -> str:
    """``bulk_`` and the body, as it stands on the wire."""
    return "bulk_" + _body(action_id)


def parse_run_id(text: str) -> UUID | None:
    """The run id that ``text`` spells, or None where it spells none.

    That may be an id from another installation: 25 characters ``[0-9a-z]`` (a cuid), 27 of base62 (a KSUID), 26 whose last
    is ``1``, or 21 ``[0-9a-z]``, each after ``run_``.
    """
    return _parse("run_", text) or _parse_foreign(text)


def parse_batch_id(text: str) -> UUID | None:
    """The batch id that ``text`` spells, or None where it spells none."""
    return _parse("batch_", text)


def parse_token_id(text: str) -> UUID | None:
    """The token id that ``text`` spells, or None where it spells none."""
    return _parse("waitpoint_", text)


def parse_schedule_id(text: str) -> UUID | None:
    """The schedule id that ``text`` spells, or None where it spells none."""
    return _parse("sched_", text)


def parse_bulk_action_id(text: str) -> UUID | None:
    """The id of a bulk action that ``text`` spells, or None where it spells none."""
    return _parse("bulk_", text)


def store_of(value: UUID) -> str:
    """The key of the store that owns an id: total and pure, from its last byte alone. LEGACY_STORE for one from elsewhere."""
    return _KEYS.get(value.int & 0xFF, HOME_STORE)


def is_foreign(value: UUID) -> bool:
    """Whether an id was not minted here, but came with an imported run."""
    return value.int & 0xFF == LEGACY_BYTE


def at_store(value: UUID, store: str) -> UUID:
    """The id that differs from this one in the store that owns it, and in nothing else.

    >>> at_store(mint_bulk_action_id(), "3").bytes[15]
    3
    """
    return UUID(bytes=value.bytes[:15] + _store_byte(store))


def minted_at(value: UUID) -> datetime:
    """When an id was minted, to the millisecond."""
    return datetime.fromtimestamp(int.from_bytes(value.bytes[:6], "big") / 1000, UTC)


def first_id_at(moment: datetime) -> UUID:
    """What no id that is minted at ``moment`` or later is less than."""
    milliseconds = max(int(moment.timestamp() * 1000), 0)
    return UUID(int=min(milliseconds << 80, 2**128 - 1))


_TICKS_A_SECOND: Final = 65_536_000


class _Clock:
    """The time in ticks of 1/65,536 ms, each later than the one before: ids sort in the order of minting.

    Where the clock stands still or goes back by less than a second, ticks are counted on from the last one.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def tick(self) -> int:
        now = time.time_ns() * _TICKS_A_SECOND // 1_000_000_000
        with self._lock:
            self._last = self._last + 1 if self._last - _TICKS_A_SECOND < now <= self._last else now
            return self._last


_clock = _Clock()


def _mint(unique: bytes, store: str) -> UUID:
    return UUID(bytes=_clock.tick().to_bytes(8, "big") + unique + _store_byte(store))


def _store_byte(store: str) -> bytes:
    return _BYTES[store]


def _body(value: UUID) -> str:
    end = _FOREIGN if is_foreign(value) else store_of(value) + _VERSION
    return base64.b32hexencode(value.bytes[:15]).decode("ascii").lower() + end


def _parse(prefix: str, text: str) -> UUID | None:
    body = text.removeprefix(prefix)
    if len(body) != _BODY_LENGTH or len(text) != len(prefix) + _BODY_LENGTH or not _ALPHABET.issuperset(body[:24]):
        return None
    if body[25] == _VERSION and body[24] in STORE_KEYS:
        owner = _store_byte(body[24])
    elif body[24:] == _FOREIGN:
        owner = bytes([LEGACY_BYTE])
    else:
        return None
    return UUID(bytes=base64.b32hexdecode(body[:24].upper().encode("ascii")) + owner)


def _parse_foreign(text: str) -> UUID | None:
    found = _FOREIGN_SHAPES.fullmatch(text)
    if found is None:
        return None
    return UUID(bytes=_read_time(found) + hashlib.sha256(text.encode("ascii")).digest()[:9] + bytes([LEGACY_BYTE]))


def _read_time(found: re.Match[str]) -> bytes:
    """The Unix time in ms that an id from elsewhere holds, in 6 bytes: so it is listed where it belongs. Else 0."""
    milliseconds = 0
    if found["dated"]:
        return base64.b32hexdecode(found["dated"].upper().encode("ascii"))[:6]
    if found["cuid"]:
        milliseconds = int(found["cuid"][1:9], 36)
    elif found["ksuid"]:
        number = 0
        for digit in found["ksuid"]:
            number = number * len(_DIGITS) + _DIGITS.index(digit)
        if number < 1 << 160:
            milliseconds = ((number >> 128) + _KSUID_EPOCH) * 1000
    return milliseconds.to_bytes(6, "big")
