"""Runs on the wire, and the statuses that both runs and batches are in."""

from __future__ import annotations

import msgspec

from headrace.protocol.runs import Pagination, RunList, RunResult, TriggerResponse, TriggerTask
from headrace.protocol.statuses import (
    KEY_FREEING_STATUSES,
    TERMINAL_BATCH_STATUSES,
    TERMINAL_RUN_STATUSES,
    BatchStatus,
    RunStatus,
)


def test_what_a_trigger_says() -> None:
    body = b'{"payload":{"n":1},"context":{},"options":{"maxAttempts":1},"parentRunId":"run_p"}'
    trigger = msgspec.json.decode(body, type=TriggerTask)
    assert (trigger.payload, trigger.context, trigger.parent_run_id) == (msgspec.Raw(b'{"n":1}'), {}, "run_p")
    assert trigger.options is not None
    assert trigger.options.max_attempts == 1
    assert msgspec.json.decode(b"{}", type=TriggerTask).payload is msgspec.UNSET


def test_answers_to_the_byte() -> None:
    assert msgspec.json.encode(TriggerResponse("run_a", False)) == b'{"id":"run_a","isCached":false}'
    assert msgspec.json.encode(RunList([], Pagination())) == b'{"data":[],"pagination":{}}'
    assert msgspec.json.encode(RunResult(True, "run_a", "t", "1", "application/json")) == (
        b'{"ok":true,"id":"run_a","taskIdentifier":"t","output":"1","outputType":"application/json"}'
    )
    failed = RunResult(False, "run_a", "t", error={"type": "STRING_ERROR", "raw": "no"}, index=3)
    assert msgspec.json.encode(failed) == (
        b'{"ok":false,"id":"run_a","taskIdentifier":"t","error":{"type":"STRING_ERROR","raw":"no"},"index":3}'
    )


def test_statuses_are_spelt_as_on_the_wire() -> None:
    assert msgspec.json.encode([RunStatus.QUEUED, BatchStatus.PARTIAL_FAILED]) == b'["QUEUED","PARTIAL_FAILED"]'
    assert all(status.value == status.name for status in [*RunStatus, *BatchStatus])


def test_what_is_terminal() -> None:
    """A run that succeeded or was cancelled keeps its key; each other end frees it."""
    open_runs = {"PENDING_VERSION", "DELAYED", "QUEUED", "DEQUEUED", "EXECUTING", "WAITING"}
    assert set(RunStatus) - TERMINAL_RUN_STATUSES == open_runs
    assert set(BatchStatus) - TERMINAL_BATCH_STATUSES == {"PENDING", "PROCESSING"}
    keeping = TERMINAL_RUN_STATUSES - KEY_FREEING_STATUSES
    assert keeping == {"COMPLETED", "CANCELED"}
    assert KEY_FREEING_STATUSES < TERMINAL_RUN_STATUSES
