"""Concurrency and order keys are any text: none is a pattern, a separator, or a part of a statement."""

from __future__ import annotations

from collections import Counter
from typing import Final

import pytest

from headrace.engine.engine import Engine
from headrace.engine.outcomes import ClaimedRun
from headrace.engine.turns import Turns
from tests.engine.helpers import finish, register
from tests.engine.test_limited_claims import limit_queue, take, trigger
from tests.invariants import assert_invariants

pytestmark = pytest.mark.anyio

KEYS: Final = [
    "*", "?", "%", "_", "a", "A", "a*", "a ", " a", "a:ck:*", "a/b", "a\\", "a\nb", "'", "'; DROP TABLE headrace.runs; --",
    '"', "{}", "{a,b}", "null", "NULL", "0", "00", "-1", "\u00e9", "e\u0301", "\U0001f600", "\u202e", "\ufeff", "k" * 512,
]  # fmt: skip


@pytest.mark.parametrize("kind", ["concurrency_key", "order_key"])
async def test_any_text_is_a_key_like_another(engine: Engine, kind: str) -> None:
    """Each is a key of its own, of which one run goes at a time, and none sees another's limit."""
    if kind == "order_key":  # its runs are at home
        engine = engine.home
    for key in KEYS * 2:
        await trigger(engine, **{kind: key})
    await limit_queue(engine, key_limit=1)
    lease = await register(engine)
    turns = Turns()
    name = "concurrencyKey" if kind == "concurrency_key" else "orderKey"
    for _ in range(2):
        taken: list[ClaimedRun] = []
        while more := await take(engine, lease, 100, turns):
            taken += more
        assert Counter(run.options[name] for run in taken) == Counter(KEYS)
        await finish(engine, lease, taken)
    assert await take(engine, lease, 100, turns) == []
    await assert_invariants(engine)
