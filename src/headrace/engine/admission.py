"""The one rule for a stream of items that meets a batch in some state: go on, done already, or refused.

research/batch.md 3.1, rows a to l: asked when a stream arrives, when each chunk is stored, when the stream ends with
items missing and when its seal did not go through. Rows that one store can no longer produce (PENDING and sealed,
PROCESSING and unsealed) are answered as well: an imported or older row may have them.
"""

from __future__ import annotations

from headrace.engine.outcomes import BatchState, StreamDone, StreamOpen, StreamRefused
from headrace.protocol.statuses import BatchStatus


def judge_stream(batch: BatchState) -> StreamOpen | StreamDone | StreamRefused:
    """What a stream may do with ``batch`` as it stands."""
    match batch.status:
        case (
            BatchStatus.ABORTED
        ):  # even when sealed: nothing of it is left to wait for, so the caller has to hear of it
            return StreamRefused(batch)
        case BatchStatus.PROCESSING | BatchStatus.COMPLETED | BatchStatus.PARTIAL_FAILED:
            return StreamDone(batch)
        case BatchStatus.PENDING:
            done = batch.sealed or batch.processing_completed_at is not None
            return StreamDone(batch) if done else StreamOpen(batch)
