"""Debounce: triggers with one key become one run while that run is delayed, and each puts it off.

The key is a row among the other keys (``headrace.engine.idempotency``): whoever comes holds it, then looks at the run that it
stands for. Only the run says whether it is delayed still, under its lock; if it is not, the key goes to a new run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.durations import parse_duration
from headrace.engine.idempotency import LONGEST_TTL, KeyClaim, claim_keys
from headrace.engine.outcomes import JSON_TYPE, Packet
from headrace.payloads import STORED_TYPE
from headrace.protocol.options import RunOptions
from headrace.store.statements import Plan, query

KEPT: Final = 86_400.0
"""Seconds that a key is kept beyond its run's delay: it is the run that says whether it is delayed, so these do no harm."""

_QUANTUM: Final = 1.0
"""A run that keeps its payload is not written anew to put it off by less than so many seconds."""

_REPLACED: Final = (
    "metadata", "metadataType", "tags", "maxAttempts", "maxDuration", "machine", "payloadType", "payloadSize",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """What a trigger says of its debouncing. ``most`` is the longest that its run may be put off altogether."""

    key: str
    delay: float
    trailing: bool
    most: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A run that is to be, unless its debounce key stands for one that is delayed."""

    run_id: UUID
    task: str
    window: Window
    packet: Packet
    options: RunOptions


@dataclass(frozen=True, slots=True)
class Joined:
    """The run that the key stood for; and the payload that the trigger's own took the place of, where it did."""

    run_id: UUID
    replaced: Packet | None = None


Hold = Callable[[Sequence[UUID]], Plan[None]]
"""A plan that holds runs without waiting for them."""


def debounce_scope(task: str) -> str:
    """The scope of the debounce keys of one task."""
    return f"debounce:{task}"


def read_window(options: RunOptions) -> Window | None:
    """How a run is debounced, if it is. Raises ValueError saying what is wrong with it."""
    if (said := options.debounce) is None:
        return None
    if options.delay:
        raise ValueError("delay and debounce were given: a debounced run is delayed by debounce.delay")
    delay = _read_duration("debounce.delay", said.delay)
    most = None if said.max_delay is None else _read_duration("debounce.maxDelay", said.max_delay)
    if delay <= 0:
        raise ValueError(f"debounce.delay is {said.delay!r}, but must be more than 0")
    if most is not None and most <= delay:
        raise ValueError(
            f"debounce.maxDelay is {said.max_delay!r}, but must be more than debounce.delay, {said.delay!r}"
        )
    return Window(said.key, delay, said.mode == "trailing", most)


def join_runs(environment_id: int, asked: Sequence[Asked], *, hold: Hold | None = None) -> Plan[dict[UUID, Joined]]:
    """Plan: puts off the runs that debounce keys stand for, and says which of ``asked``, by its id, became part of one.

    The keys of the others are theirs, and stay locked until the transaction ends: they are to be made in it. ``hold`` is for
    who must not wait for these runs: a plan that locks them, or raises.
    """
    names = {one.run_id: (debounce_scope(one.task), one.window.key) for one in asked}
    claims: dict[tuple[str, str], KeyClaim] = {}
    for one in asked:
        name = names[one.run_id]
        if name not in claims or one.window.trailing:  # of one moment the first is the run, or the last
            claims[name] = KeyClaim(*name, one.run_id, one.window.delay + KEPT)
    holders = yield from claim_keys(environment_id, list(claims.values()))
    targets = {name: holder.target_id for name, holder in zip(claims, holders, strict=True)}
    joined: dict[UUID, Joined] = {}
    fresh = {one.run_id for one in asked if targets[names[one.run_id]] == one.run_id}
    if hold is not None and (there := set(targets.values()) - fresh):
        yield from hold(sorted(there))
    for one in sorted(asked, key=lambda one: targets[names[one.run_id]]):  # the runs are locked in one order
        name = names[one.run_id]
        target = targets[name]
        if target in fresh:
            if target != one.run_id:
                joined[one.run_id] = Joined(target)
            continue
        answer = yield from _put_off(environment_id, target, one)
        if answer is None:
            targets[name] = one.run_id
            fresh.add(one.run_id)
        else:
            joined[one.run_id] = answer
        scope, key_hash = claims[name].scope, claims[name].key_hash
        yield from query("take_key", environment_id, scope, key_hash, targets[name], one.window.delay + KEPT)
    return joined


def _put_off(environment_id: int, run_id: UUID, one: Asked) -> Plan[Joined | None]:
    """Plan: the run, put off; None where it is not delayed any more, or has waited long enough."""
    window = one.window
    held = yield from query("hold_debounced", environment_id, run_id, window.delay, window.most, _QUANTUM, STORED_TYPE)
    if not held or not held[0]["within"]:
        return None
    if window.trailing or held[0]["moves"]:
        yield from query(
            "postpone_run",
            environment_id,
            run_id,
            window.delay,
            window.trailing,
            one.packet.data,
            None if one.packet.type == JSON_TYPE else one.packet.type,
            _spell_replaced(one.options),
        )
    return Joined(run_id, Packet(held[0]["payload"], held[0]["payload_type"] or JSON_TYPE) if window.trailing else None)


def _spell_replaced(options: RunOptions) -> str:
    said: dict[str, Any] = msgspec.to_builtins(options)
    return msgspec.json.encode({name: said[name] for name in _REPLACED if name in said}).decode("utf-8")


def _read_duration(name: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}: give a duration such as '30s' or '5m'") from None
    if seconds > LONGEST_TTL:
        raise ValueError(f"{name} is {text!r}, but may be at most {LONGEST_TTL // 86_400} days")
    return seconds
