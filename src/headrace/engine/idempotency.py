"""Keys: one row stands for each, claimed in the transaction that makes the run or batch it stands for.

Two who come at once meet on that row: the second waits for the first one's commit and then reads what it stands for.
Scopes keep apart the keys of each task's runs, of batches, and of single HTTP requests.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec

from headrace.durations import parse_duration
from headrace.engine.engine import Engine
from headrace.protocol.options import RunOptions
from headrace.store.statements import Plan, query

LONGEST_TTL: Final = 36_500 * 86_400
"""Longest time for which an idempotency key holds or a run waits, in seconds: what is longer is a mistake, or no date at all."""

VOID: Final = UUID(int=0)
"""What a key stands for that was taken from a run which was never made (``headrace.engine.foreign_keys``)."""

REQUEST_SCOPE: Final = "request"
BATCH_SCOPE: Final = "batch"

_DIGEST: Final = hashlib.sha256().digest_size
_HEX: Final = re.compile(r"[0-9a-fA-F]+")


def task_scope(task: str) -> str:
    """The scope of the idempotency keys of one task's runs."""
    return f"task:{task}"


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A key that is claimed for ``target_id``, and for how many seconds."""

    scope: str
    key: str
    target_id: UUID
    ttl: float
    fingerprint: bytes | None = None

    @property
    def key_hash(self) -> bytes:
        """What is stored of the key: keys can be long, and need not be read back."""
        return hash_key(self.key)


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """What a key stands for."""

    target_id: UUID
    fingerprint: bytes | None


def hash_key(key: str) -> bytes:
    """SHA-256 of a key; or the key itself, where it is one: a client that hashes and one that does not mean the same."""
    if len(key) == 2 * _DIGEST and _HEX.fullmatch(key):
        return bytes.fromhex(key)
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def fingerprint_request(value: object) -> bytes:
    """A hash that tells whether two requests are the same: of their canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).digest()


def find_ttl(options: RunOptions, default: float) -> float:
    """Seconds that a run's key holds. Raises ValueError on text that is no duration."""
    return parse_duration(options.idempotency_key_ttl) if options.idempotency_key_ttl else default


class KeyMovedError(Exception):
    """A key that was reserved was taken back before it was used: to be reserved anew."""


async def reset_key(engine: Engine, environment_id: int, task: str, key: str) -> bool:
    """Frees a key of a task's runs: the next trigger with it makes a new run. Whether it stood for one."""
    engine = engine.home  # the authority: what other stores have of it is written over by the next claim
    return bool(await engine.store.fetch("reset_key", environment_id, task_scope(task), hash_key(key)))


def claim_keys(environment_id: int, claims: Sequence[KeyClaim], *, settled: bool = True) -> Plan[list[KeyHolder]]:
    """Plan: claims keys and says, claim by claim, what each stands for: the claim's own target where it won.

    ``claims`` may not name a (scope, key) twice. The rows stay locked until the transaction ends, so what is read here
    can't be freed before it is used. With ``settled`` the targets are made in this transaction, and a key that is only
    reserved, for another target, raises KeyMovedError.
    """
    scopes = [claim.scope for claim in claims]
    hashes = [claim.key_hash for claim in claims]
    targets = [claim.target_id for claim in claims]
    won = yield from query(
        "claim_keys",
        environment_id,
        scopes,
        hashes,
        targets,
        [claim.fingerprint for claim in claims],
        [claim.ttl for claim in claims],
    )
    if len(won) == len(claims):
        return [KeyHolder(claim.target_id, claim.fingerprint) for claim in claims]
    # a statement of its own: it sees the commit that the claim may have waited for
    rows = yield from query("find_keys", environment_id, scopes, hashes)
    held = {(row["scope"], bytes(row["key_hash"])): row for row in rows}
    found = [held[name] for name in zip(scopes, hashes, strict=True)]
    if settled and any(row["reserved"] or row["target_id"] == VOID for row in found):
        if any(
            row["target_id"] != target and (row["reserved"] or row["target_id"] == VOID)
            for row, target in zip(found, targets, strict=True)
        ):
            raise KeyMovedError
        yield from query("settle_keys", environment_id, scopes, hashes, targets)
    return [KeyHolder(row["target_id"], row["fingerprint"]) for row in found]
