"""Plans at another time: the database's clock is shifted for their transaction only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from headrace.engine.engine import Engine
from headrace.store.statements import Plan, Statement

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawStatement:
    """A statement of a test's own, in a plan."""

    name: str
    sql: str
    args: Sequence[Any] = ()


def later(shift: str, plan: Plan[T]) -> Plan[T]:
    """Plan: ``plan`` when the database's clock is ``shift`` (an interval) further on."""
    shifted = RawStatement("shift_clock", "SELECT set_config('headrace.clock_shift', $1, true)", [shift])
    yield cast("Statement", shifted)
    return (yield from plan)


async def run_later(engine: Engine, shift: str, plan: Plan[T]) -> T:
    """What ``plan`` returns then."""
    return await engine.store.run_plan(later(shift, plan))
