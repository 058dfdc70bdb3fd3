"""Random programs (hypothesis), and what has to come out of them: the same program in plain asyncio, without any engine."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.chaos.programs import (
    FAILURES,
    NEVER,
    Part,
    ProgramError,
    Told,
    WaitTimeout,
    gather,
    interpret,
    race,
    tell,
    token_value,
)

HOWS = st.sampled_from(["async", "async", "async", "thread"])
MOMENTS = st.integers(0, 60)


@dataclass
class Expected:
    """What a program is to do. A path with an L in it is that of something that may be cut off."""

    ok: bool = True
    result: Any = None
    tried: Counter[str] = field(default_factory=Counter[str])
    runs: dict[str, Told] = field(default_factory=dict[str, Told])
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


def predict(program: Any) -> Expected:
    """What has to come out of ``program``."""
    expected = Expected()
    expected.ok, expected.result = asyncio.run(_Plain(expected, "r").run_child("r", program))
    return expected


def is_optional(path: str) -> bool:
    """Whether what stands there may be cut off before it has happened."""
    return "L" in path


class _Plain:
    """The world of a program in plain asyncio."""

    def __init__(self, expected: Expected, path: str) -> None:
        self.attempt = 2
        self.keyed: dict[str, asyncio.Future[Told]] = {}
        self.expected = expected
        self.metadata = expected.metadata.setdefault(path, {})

    async def run_child(self, path: str, program: Any) -> Told:
        try:
            told: Told = True, await interpret(_Plain(self.expected, path), program, path)
        except FAILURES as error:
            told = False, tell(error)
        self.expected.runs[path] = told
        return told

    async def step(self, path: str, kind: str, times: int, flavour: str) -> Any:
        for _ in range({"ok": 0, "flaky": times, "bad": times}[kind]):
            self.expected.tried[path] += 1
        if kind == "bad":
            raise ProgramError(f"bad step at {path}")
        self.expected.tried[path] += 1
        return path

    async def child(self, path: str, how: str, program: Any, key: str | None = None) -> tuple[Told, str]:
        if not key:
            return await self.run_child(path, program), path
        if path not in self.keyed:
            self.keyed[path] = asyncio.ensure_future(self.run_child(path, program))
        return await self.keyed[path], path

    async def batch(self, path: str, how: str, start: str, items: Sequence[tuple[str, Any, str | None]]) -> list[Told]:
        return [(await self.child(where, how, part, key))[0] for where, part, key in items]

    async def iterate(
        self, path: str, how: str, items: Sequence[tuple[str, Any, str | None]]
    ) -> AsyncGenerator[tuple[int, Told]]:
        for index, told in enumerate(await self.batch(path, how, "add", items)):
            yield index, told

    async def trigger(self, path: str, how: str, program: Any) -> None:
        await self.run_child(path, program)

    async def sleep(self, path: str, seconds: float) -> None:
        await asyncio.sleep(NEVER if seconds == NEVER else 0)

    async def token(self, path: str, twice: bool) -> list[Any]:
        return [token_value(path)] * (1 + twice)

    async def expire(self, path: str, seconds: float) -> None:
        raise WaitTimeout

    async def change(self, path: str, change: str, number: int) -> None:
        match change:
            case "set":
                self.metadata[f"set {path}"] = number
            case "increment":
                self.metadata["count"] = self.metadata.get("count", 0) + number
            case _:
                self.metadata.setdefault(f"list {path.rpartition('.')[0]}", []).append(number)

    async def gather(self, how: str, parts: Sequence[Part]) -> list[Any]:
        return await gather(how, parts)

    async def race(self, join: bool, winner: Part, loser: Part) -> Any:
        return await race(join, winner, loser)

    async def toss(self, path: str, kind: str, times: Sequence[int]) -> None:
        for place, ms in enumerate(times):
            if kind == "step":
                await self.step(f"{path}.L{place}", "ok", 0, "async")
            elif kind == "child":
                await self.run_child(f"{path}.L{place}", ["wait", ms])

    async def keep(self, path: str, value: Any) -> None:
        return


@st.composite
def programs(draw: st.DrawFn, depth: int = 2) -> Any:
    """A whole program: that of a run."""
    parts = draw(st.lists(pieces(depth), min_size=1, max_size=4 if depth == 2 else 3))
    if draw(st.integers(0, 7)) == 7:
        parts.insert(draw(st.integers(0, len(parts))), ["stumble"])
    return ["seq", parts]


@functools.cache  # a strategy is dear to make
def pieces(depth: int) -> st.SearchStrategy[Any]:
    """A piece of a program, with at most ``depth`` runs below each other, and joins as deep."""
    steps = st.one_of(
        st.tuples(st.just("step"), st.just("ok"), st.just(0), st.sampled_from(["def", "async"])),
        st.tuples(
            st.just("step"), st.sampled_from(["flaky", "bad"]), st.integers(1, 2), st.sampled_from(["def", "async"])
        ),
    )
    leaves: list[st.SearchStrategy[Any]] = [
        steps,
        steps,
        st.tuples(st.just("wait"), MOMENTS),
        st.tuples(st.just("token"), st.booleans()),
        st.tuples(st.just("expire"), MOMENTS.map(lambda ms: ms + 1)),
        st.tuples(st.just("meta"), st.sampled_from(["set", "increment", "append"]), st.integers(1, 9)),
        st.tuples(st.just("toss"), st.sampled_from(["wait", "step"]), MOMENTS, MOMENTS),
        st.just(("fail",)),
    ]
    if depth == 0:
        return st.one_of(*leaves, st.tuples(st.just("try"), st.one_of(*leaves))).map(_plain)
    inner = st.deferred(lambda: pieces(depth - 1))
    below = st.deferred(lambda: programs(depth - 1))
    cut = st.tuples(st.just("seq"), st.tuples(st.tuples(st.just("try"), st.one_of(*leaves[:4])), st.just(("never",))))
    joins: list[st.SearchStrategy[Any]] = [
        st.tuples(st.just("child"), HOWS, st.booleans(), below),
        st.tuples(st.just("child"), HOWS, st.booleans(), below),
        st.tuples(st.just("twice"), HOWS, st.booleans(), below.map(lambda part: ["try", part])),
        st.tuples(
            st.just("batch"), HOWS, st.sampled_from(["add", "seal"]), st.just(False), st.lists(below, max_size=3)
        ),
        st.tuples(
            st.just("batch"), HOWS, st.just("add"), st.just(True), st.lists(below, min_size=1, max_size=2).map(_succeed)
        ),
        st.tuples(st.just("iterate"), HOWS, st.integers(0, 2), st.lists(below, max_size=3)),
        st.tuples(st.just("trigger"), HOWS, below),
        st.tuples(
            st.just("gather"),
            st.sampled_from(["gather", "group", "wait", "limit", "completed", "reversed"]),
            st.lists(inner, min_size=2, max_size=4),
        ),
        st.tuples(st.just("gather"), st.sampled_from(["gather", "group"]), st.lists(pieces(0), min_size=2, max_size=4)),
        st.tuples(st.just("race"), st.booleans(), inner, st.one_of(st.just(("never",)), cut)),
        st.tuples(st.just("toss"), st.just("child"), MOMENTS, MOMENTS),
        st.tuples(st.just("seq"), st.lists(inner, max_size=3)),
        st.tuples(st.just("loop"), st.integers(1, 3), inner),
    ]
    tried = st.tuples(st.just("try"), st.one_of(*leaves, *joins))
    return st.one_of(*leaves, *joins, *joins, tried, tried, tried).map(_plain)


def _succeed(parts: list[Any]) -> list[Any]:
    return [["try", parts[0]], *parts[1:]]


def _plain(part: Any) -> Any:
    return [_plain(one) for one in part] if isinstance(part, tuple | list) else part
