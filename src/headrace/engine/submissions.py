"""Triggering inside a caller's own open transaction: the run exists if and only if that transaction commits.

Plans only: the SDK runs them on the caller's connection, whichever driver it is of. Nobody is told of the new runs (the
commit is the caller's), so workers find them when they next look. Large payloads stay in their rows: an object would
outlive a rollback. The transaction has to be READ COMMITTED, PostgreSQL's default.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from headrace.engine.batches import CreateAnswer, fill_batch
from headrace.engine.idempotency import KeyMovedError
from headrace.engine.keys import hash_secret
from headrace.engine.lanes import LaneFinder
from headrace.engine.mirrors import UnmirroredError
from headrace.engine.outcomes import BatchElsewhere, BatchRefused, Packet, StoredItem
from headrace.engine.runs import TriggerAnswer, make_run
from headrace.ids import HOME_STORE
from headrace.protocol.batches import CreateBatch
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from headrace.store.statements import Plan, query

_KEY_ELSEWHERE = BatchRefused(
    409,
    "An idempotency key stands for something that another store has, which can't be looked at in this transaction. Trigger "
    "without connection=.",
)
_UNKNOWN_KEY = BatchRefused(401, "Invalid API key")


def trigger_in_transaction(
    api_key: str, task: str, packet: Packet, options: RunOptions, settings: Settings, *, traceparent: str | None = None
) -> Plan[TriggerAnswer]:
    """Plan: one run, in the environment of ``api_key``. BatchRefused(401) where that is no live key."""
    environment_id = yield from _find_environment(api_key)
    if not isinstance(environment_id, int):
        return environment_id
    try:
        return (
            yield from make_run(task, packet, options, LaneFinder(environment_id), settings, traceparent=traceparent)
        )
    except KeyMovedError:
        return _KEY_ELSEWHERE


def submit_in_transaction(
    api_key: str,
    request: CreateBatch,
    items: Sequence[StoredItem],
    settings: Settings,
    *,
    traceparent: str | None = None,
) -> Plan[CreateAnswer]:
    """Plan: a batch and all its runs, sealed, in the environment of ``api_key``; items as for ``batches.submit_batch``."""
    environment_id = yield from _find_environment(api_key)
    if not isinstance(environment_id, int):
        return environment_id
    try:
        answer = yield from fill_batch(
            environment_id, request, items, LaneFinder(environment_id), settings, traceparent=traceparent
        )
    except (KeyMovedError, UnmirroredError):
        return _KEY_ELSEWHERE
    return _KEY_ELSEWHERE if isinstance(answer, BatchElsewhere) else answer


def _find_environment(api_key: str) -> Plan[int | BatchRefused]:
    """Plan: the environment of a key, or why nothing can be triggered on this connection."""
    secret_hash = hash_secret(api_key)
    [row] = yield from query("find_key_here", secret_hash)
    if row["store_key"] != HOME_STORE:  # keys, API keys too, are kept at home: here nothing could tell of a duplicate
        return BatchRefused(
            409,
            f"The connection is to the store {row['store_name']!r}, but a trigger in a transaction needs one to the home store "
            "(HEADRACE_DATABASE_URL). Trigger without connection= to let the run go to any store.",
        )
    if row["secret_hash"] is None or not hmac.compare_digest(bytes(row["secret_hash"]), secret_hash):
        return _UNKNOWN_KEY
    return row["id"]
