"""From a point of the journal to what the code is told of it."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.durable import ops
from headrace.engine.outcomes import Packet, Point
from headrace.errors import ConfigurationError, HeadraceError, PayloadError
from headrace.ids import format_batch_id, format_run_id, format_token_id
from headrace.protocol.statuses import BatchStatus, RunStatus

_GONE = {"type": "INTERNAL_ERROR", "code": "RUN_GONE", "message": "The run is not there any more."}


def describe_outcome(op: Any, point: Point) -> Any:
    """What the code that asked for ``op`` is told: a value of ``durable.ops``, or an exception."""
    value = _value(point.value)
    match op:
        case ops.TriggerRun(awaited=True):
            assert point.target is not None
            status = point.status or RunStatus.SYSTEM_FAILURE
            error = point.error if point.status else _GONE
            return ops.RunOutcome(format_run_id(point.target), status, value, error)
        case ops.TriggerRun():
            told = msgspec.json.decode(point.value.data or b"{}")
            return ops.Triggered(told["id"], told["isCached"])
        case ops.OpenBatch():
            assert point.target is not None
            is_open = point.status == BatchStatus.PENDING if point.status else op.items is None
            count = len(op.items) if op.items is not None else point.run_count
            return ops.BatchOpened(format_batch_id(point.target), is_open, None if is_open else count)
        case ops.AwaitBatch() | ops.FollowBatch():
            assert point.target is not None
            status = point.status or BatchStatus.ABORTED
            return ops.BatchOutcome(format_batch_id(point.target), status, point.run_count, point.error)
        case ops.AwaitToken():
            if point.status is None or point.target is None:
                return ConfigurationError(f"There is no token {op.token_id} in this environment.")
            return ops.TokenOutcome(format_token_id(point.target), point.status, value)
        case ops.BeginStep() | ops.EndStep():
            return ops.StepState(point.succeeded is not None, value, point.error, point.failures)
        case ops.KeepPage() | ops.ChangeMetadata() | ops.AddTags():
            return value if point.error is None else _make_error(point.error)
        case ops.MakeToken():
            return msgspec.json.decode(point.value.data or b"", type=ops.MadeToken)
        case _:
            return None


def has_failed(point: Point) -> bool:
    """Whether it ended badly: what a next attempt does again, where it was the last thing that happened."""
    match point.kind:
        case "run":
            return not point.pending and point.status not in (None, RunStatus.COMPLETED)
        case "batch":
            return not point.pending and point.status == BatchStatus.ABORTED
        case "step" | "effect":
            return point.succeeded is False
        case _:
            return False


def _make_error(error: dict[str, object]) -> HeadraceError:
    kind = PayloadError if error["name"] == PayloadError.__name__ else ConfigurationError
    return kind(str(error["message"]))


def _value(packet: Packet) -> ops.Value:
    return ops.Value(packet.data, packet.type)
