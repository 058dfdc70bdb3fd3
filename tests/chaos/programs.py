"""Programs as JSON values, and the tasks that carry them out. Loaded by workers: it imports nothing of the tests.

A program is interpreted by one function over a *world*: that of a run (``Durable`` here), or plain asyncio (in
``program_models.py``), which says what has to come out. Every part has a path, which names what it does in the log.

    ["value", v]                        v
    ["fail"]                            raises
    ["step", kind, n, flavour]          kind ok, flaky (fails n times, then ok) or bad (fails n times, for good)
    ["wait", ms]   ["token", twice]   ["expire", ms]
    ["child", how, unwrap, program]     how: async or thread, the kind of its function
    ["twice", how, together, program]   two triggers with one idempotency key
    ["batch", how, start, double, [..]] waits for all; with double the last item has the key of the first
    ["iterate", how, stop, [..]]        as they come, a step after each; leaves after stop of them, if that is not 0
    ["trigger", how, program]
    ["gather", how, [..]]               how: gather, group, wait, limit, completed, reversed
    ["race", join, winner, loser]       the loser never ends and is cancelled
    ["toss", kind, ms, ms]              a race that any may win, but always the same one
    ["meta", change, n]                 set, increment or append
    ["try", program]   ["seq", [..]]   ["loop", times, program]   ["stumble"]: its attempt fails, the next does not
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from headrace import (
    Abort,
    Item,
    Outcome,
    Retry,
    RunFailedError,
    StepFailedError,
    WaitTimeout,
    current_run,
    step,
    task,
    wait,
)
from headrace import metadata as run_metadata
from headrace.durable.port import current_port

NEVER = 3600.0
Part = Callable[[], Coroutine[Any, Any, Any]]
Told = tuple[bool, Any]
"""Whether a child succeeded; its result, or what it says of its failure."""


class ProgramError(Exception):
    """A failure that the program asks for."""


class Stumble(Exception):  # noqa: N818
    """Ends an attempt; no program catches it."""


class BrokenPromise(Exception):  # noqa: N818
    """What headrace promises was not so. No program catches it."""


FAILURES = (ProgramError, StepFailedError, RunFailedError, WaitTimeout)


def tell(error: BaseException) -> str:
    """What a failure says, without the ids in it."""
    match error:
        case StepFailedError() | RunFailedError():
            return str((error.error or {}).get("message"))
        case WaitTimeout():
            return "nobody came"
        case _:
            return str(error)


def token_value(path: str) -> int:
    """What a token is completed with."""
    return int(hashlib.sha256(path.encode()).hexdigest()[:4], 16)


class World(Protocol):
    """What a program is carried out in."""

    attempt: int

    async def step(self, path: str, kind: str, times: int, flavour: str) -> Any: ...
    async def child(self, path: str, how: str, program: Any, key: str | None = None) -> tuple[Told, str]: ...
    async def batch(
        self, path: str, how: str, start: str, items: Sequence[tuple[str, Any, str | None]]
    ) -> list[Told]: ...
    def iterate(
        self, path: str, how: str, items: Sequence[tuple[str, Any, str | None]]
    ) -> AsyncGenerator[tuple[int, Told]]: ...
    async def trigger(self, path: str, how: str, program: Any) -> None: ...
    async def sleep(self, path: str, seconds: float) -> None: ...
    async def token(self, path: str, twice: bool) -> list[Any]: ...
    async def expire(self, path: str, seconds: float) -> None: ...
    async def change(self, path: str, change: str, number: int) -> None: ...
    async def gather(self, how: str, parts: Sequence[Part]) -> list[Any]: ...
    async def race(self, join: bool, winner: Part, loser: Part) -> Any: ...
    async def toss(self, path: str, kind: str, times: Sequence[int]) -> None: ...
    async def keep(self, path: str, value: Any) -> None: ...


async def interpret(world: World, program: Any, path: str) -> Any:
    """The result of a program: a JSON value. Raises one of FAILURES where it fails."""
    match program:
        case ["value", value]:
            return value
        case ["fail"]:
            raise ProgramError(f"failed at {path}")
        case ["step", kind, times, flavour]:
            return await world.step(path, kind, times, flavour)
        case ["wait", milliseconds]:
            return await world.sleep(path, milliseconds / 1000)
        case ["never"]:
            return await world.sleep(path, NEVER)
        case ["token", twice]:
            return await world.token(path, twice)
        case ["expire", milliseconds]:
            return await world.expire(path, milliseconds / 1000)
        case ["trigger", how, child]:
            return await world.trigger(path, how, child)
        case ["meta", change, number]:
            return await world.change(path, change, number)
        case ["toss", kind, *times]:
            return await world.toss(path, kind, times)
        case ["try", part]:
            return await _try(world, part, path)
        case ["seq", parts]:
            return [await interpret(world, part, f"{path}.{place}") for place, part in enumerate(parts)]
        case ["loop", times, part]:
            return [await interpret(world, part, f"{path}.{place}") for place in range(times)]
        case ["stumble"]:
            await world.step(path, "ok", 0, "def")
            if world.attempt == 1:
                raise Stumble("the first attempt fails here")
            return None
        case _:
            return await _interpret_several(world, program, path)


async def _interpret_several(world: World, program: Any, path: str) -> Any:
    match program:
        case ["child", how, unwrap, child]:
            told, _ = await world.child(path, how, child)
            return _unwrap(told, path) if unwrap else _spell(told)
        case ["twice", how, together, child]:
            calls: list[Part] = [lambda: world.child(path, how, child, key="twice")] * 2
            both = await world.gather("gather", calls) if together else [await call() for call in calls]
            if both[0][1] != both[1][1]:
                raise BrokenPromise(f"{path}: one idempotency key, two runs: {both}")
            return [_spell(told) for told, _ in both]
        case ["batch", how, start, double, parts]:
            items = [(f"{path}.{place}", part, None) for place, part in enumerate(parts)]
            if double:
                items[0] = (items[0][0], items[0][1], "double")
                items.append(items[0])
            return [_spell(told) for told in await world.batch(path, how, start, items)]
        case ["iterate", how, stop, parts]:
            return await _iterate(world, path, how, stop, parts)
        case ["gather", how, parts]:
            outcomes = await world.gather(
                how,
                [
                    lambda part=part, place=place: _try(world, part, f"{path}.{place}")
                    for place, part in enumerate(parts)
                ],
            )
            for state, value in outcomes:
                if state == "failed":
                    raise ProgramError(value)
            return [value for _, value in outcomes]
        case ["race", join, winner, loser]:
            return await world.race(
                join, lambda: interpret(world, winner, f"{path}.0"), lambda: interpret(world, loser, f"{path}.L")
            )
        case _:
            raise BrokenPromise(f"no program: {program!r}")


async def _iterate(world: World, path: str, how: str, stop: int, parts: Sequence[Any]) -> Any:
    found: list[tuple[int, Told]] = []
    async for index, told in world.iterate(path, how, [(f"{path}.{i}", part, None) for i, part in enumerate(parts)]):
        found.append((index, told))
        await world.step(f"{path}.{'L' if stop else ''}i{index}", "ok", 0, "def")
        if len(found) == stop:
            break
    await world.keep(path, [index for index, _ in found])
    return None if stop else [[index, _spell(told)] for index, told in sorted(found)]


async def _try(world: World, part: Any, path: str) -> list[Any]:
    try:
        return ["ok", await interpret(world, part, path)]
    except FAILURES as error:
        return ["failed", tell(error)]


def _spell(told: Told) -> list[Any]:
    return ["ok" if told[0] else "failed", told[1]]


def _unwrap(told: Told, path: str) -> Any:
    if not told[0]:
        raise ProgramError(f"{path}: {told[1]}")
    return told[1]


class Durable:
    """The world of a run. ``blocking`` in a ``def`` task: whatever is awaited there is done when it is."""

    def __init__(self, given: dict[str, Any], *, blocking: bool) -> None:
        self.given = given
        self.blocking = blocking
        run = current_run()
        assert run is not None
        self.attempt = run.attempt
        self.run_id = run.run_id
        # the number of the claim, which fences writes: a user can't see it, and what ran after what can be told by it alone
        port: Any = current_port("a program", "")
        execution = getattr(port, "_execution", None)  # there is none in a process of the run's own
        self.fence: int = 0 if execution is None else execution.run.attempt

    def note(self, what: str, path: str, **more: Any) -> None:
        """One line more in the log of the program: in one write, whoever is killed."""
        line = json.dumps(
            {"what": what, "path": path, "fence": self.fence, "run": self.run_id, "pid": os.getpid(), **more}
        )
        file = os.open(self.given["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)

    async def _get(self, pending: Any) -> Any:
        return pending.result() if self.blocking else await pending

    def _key(self, path: str) -> str:
        return path if self.given["named"] else ""

    def _name(self, path: str) -> str:
        return path if self.given["named"] else "step"

    def _payload(self, path: str, program: Any) -> dict[str, Any]:
        return {**self.given, "path": path, "program": program}

    async def step(self, path: str, kind: str, times: int, flavour: str) -> Any:
        def work() -> list[Any]:
            nonce = uuid.uuid4().hex[:8]
            before = self._count_tries(path) if kind == "flaky" else 0
            self.note("tried", path, nonce=nonce)
            if kind == "bad" or (kind == "flaky" and before < times):
                raise ProgramError(f"bad step at {path}")
            return [path, nonce]

        async def work_slowly() -> list[Any]:
            await asyncio.sleep(random.random() * 0.01)
            try:
                return work()
            finally:
                await asyncio.sleep(random.random() * 0.01)

        tries = {"ok": 1, "flaky": times + 1, "bad": times}[kind]
        retry = Retry(max_attempts=tries, min_delay=0.005, max_delay=0.02, jitter=False) if tries > 1 else None
        function = work if flavour == "def" else work_slowly
        try:
            value, nonce = await self._get(step(self._name(path), function, retry=retry))
        except StepFailedError as error:
            self.note("seen", path, nonce=tell(error))
            raise
        self.note("seen", path, nonce=nonce)
        return value

    def _count_tries(self, path: str) -> int:
        lines = Path(self.given["log"]).read_text("utf-8").splitlines()
        notes = [json.loads(line) for line in lines]
        return sum(note["what"] == "tried" and note["path"] == path for note in notes)

    async def child(self, path: str, how: str, program: Any, key: str | None = None) -> tuple[Told, str]:
        options: dict[str, Any] = {"idempotency_key": f"{self.given['root']}/{path}/{key}"} if key else {}
        if self._key(path):
            options["key"] = path
        outcome = await self._get(TASKS[how].trigger_and_wait(self._payload(path, program), **options))
        self.note("seen", f"{path} child", nonce=outcome.run_id)
        return _told(outcome), outcome.run_id

    async def batch(self, path: str, how: str, start: str, items: Sequence[tuple[str, Any, str | None]]) -> list[Told]:
        pending = TASKS[how].batch_trigger_and_wait(self._items(items), start=start, key=self._key(path))
        outcomes = await self._get(pending)
        self.note("seen", f"{path} batch", nonce=[outcome.run_id for outcome in outcomes])
        if [outcome.index for outcome in outcomes] != list(range(len(items))):
            raise BrokenPromise(f"{path}: outcomes are not in the order of the items")
        return [_told(outcome) for outcome in outcomes]

    async def iterate(
        self, path: str, how: str, items: Sequence[tuple[str, Any, str | None]]
    ) -> AsyncGenerator[tuple[int, Told]]:
        outcomes: Any = TASKS[how].batch_trigger_and_iterate(self._items(items), key=self._key(path))
        if self.blocking:
            for outcome in outcomes:
                yield outcome.index, _told(outcome)
        else:
            async for outcome in outcomes:
                yield outcome.index, _told(outcome)

    def _items(self, items: Sequence[tuple[str, Any, str | None]]) -> list[Any]:
        root = self.given["root"]
        return [
            Item(self._payload(path, part), idempotency_key=f"{root}/{path}/{key}")
            if key
            else self._payload(path, part)
            for path, part, key in items
        ]

    async def trigger(self, path: str, how: str, program: Any) -> None:
        ref = await self._get(TASKS[how].trigger(self._payload(path, program), key=self._key(path)))
        self.note("seen", f"{path} trigger", nonce=ref.id)

    async def sleep(self, path: str, seconds: float) -> None:
        await self._get(wait.for_(seconds, key=self._key(path)))

    async def token(self, path: str, twice: bool) -> list[Any]:
        token = await self._get(wait.create_token(tags=["asked", f"value:{token_value(path)}"], key=self._key(path)))
        self.note("seen", f"{path} token", nonce=token.id)
        if twice and not self.blocking:
            return list(await asyncio.gather(wait.for_token(token), wait.for_token(token.id)))
        return [await self._get(wait.for_token(token)) for _ in range(1 + twice)]

    async def expire(self, path: str, seconds: float) -> None:
        token = await self._get(wait.create_token(timeout=seconds, key=self._key(path)))
        await self._get(wait.for_token(token, key=self._key(path)))

    async def change(self, path: str, change: str, number: int) -> None:
        match change:
            case "set":
                await self._get(run_metadata.set(f"set {path}", number))
            case "increment":
                await self._get(run_metadata.increment("count", number))
            case _:
                await self._get(run_metadata.append(f"list {path.rpartition('.')[0]}", number))

    async def gather(self, how: str, parts: Sequence[Part]) -> list[Any]:
        if self.blocking:
            return [await part() for part in parts]
        return await gather(how, parts)

    async def race(self, join: bool, winner: Part, loser: Part) -> Any:
        return await (winner() if self.blocking else race(join, winner, loser))

    async def toss(self, path: str, kind: str, times: Sequence[int]) -> None:
        if self.blocking:
            return
        match kind:
            case "child":
                sides = [self.child(f"{path}.L{i}", "async", ["wait", ms]) for i, ms in enumerate(times)]
            case "step":
                sides = [self.step(f"{path}.L{i}", "ok", 0, "async") for i, _ in enumerate(times)]
            case _:
                sides = [self.sleep(f"{path}.L{i}", ms / 1000) for i, ms in enumerate(times)]
        tasks = [asyncio.ensure_future(side) for side in sides]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        await self.keep(path, [tasks.index(one) for one in tasks if one in done])

    async def keep(self, path: str, value: Any) -> None:
        """A replay has to come here with the same value."""
        kept = await self._get(step(f"keep {path}", lambda: value))
        if kept != value:
            raise BrokenPromise(f"{path}: a replay came another way: {value} now, {kept} before")


async def gather(how: str, parts: Sequence[Part]) -> list[Any]:
    """The results of ``parts``, at once, in one of the ways that asyncio has."""
    match how:
        case "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part()) for part in parts]
            return [one.result() for one in tasks]
        case "wait":
            tasks = [asyncio.ensure_future(part()) for part in parts]
            if tasks:
                await asyncio.wait(tasks)
            return [one.result() for one in tasks]
        case "limit":
            limit = asyncio.Semaphore(2)

            async def within(part: Part) -> Any:
                async with limit:
                    return await part()

            return await asyncio.gather(*(within(part) for part in parts))
        case "completed":
            tasks = [asyncio.ensure_future(part()) for part in parts]
            for one in asyncio.as_completed(tasks):
                await one
            return [one.result() for one in tasks]
        case "reversed":
            tasks = [asyncio.ensure_future(part()) for part in parts]
            return [await one for one in reversed(tasks)][::-1]
        case _:
            return await asyncio.gather(*(part() for part in parts))


async def race(join: bool, winner: Part, loser: Part) -> Any:
    """The result of ``winner``; ``loser`` is cancelled."""
    first, second = asyncio.ensure_future(winner()), asyncio.ensure_future(loser())
    done, others = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    if join:
        await asyncio.gather(*others, return_exceptions=True)
    if first not in done:
        raise BrokenPromise("who never ends won the race")
    return first.result()


def _told(outcome: Outcome[Any]) -> Told:
    return (True, outcome.value) if outcome.ok else (False, str((outcome.error or {}).get("message")))


async def _carry_out(world: Durable) -> Any:
    given = world.given
    world.note("begun", given["path"])
    try:
        result = await interpret(world, given["program"], given["path"])
    except FAILURES as error:
        raise Abort(tell(error)) from None
    world.note("ended", given["path"])
    return result


ATTEMPTS = Retry(max_attempts=2, min_delay=0.01, jitter=False)


@task(id="p.run", retry=ATTEMPTS)
async def run(given: dict[str, Any]) -> Any:
    """Carries out a program."""
    return await _carry_out(Durable(given, blocking=False))


@task(id="p.run_sync", retry=ATTEMPTS)
def run_sync(given: dict[str, Any]) -> Any:
    """Carries out a program in a thread: nothing in it ever stands still, so it is over with one push."""
    return drive_blocking(_carry_out(Durable(given, blocking=True)))


@task(id="p.run_process", retry=ATTEMPTS, isolation="process")
def run_process(given: dict[str, Any]) -> Any:
    """Carries out a program in a process of its own."""
    return drive_blocking(_carry_out(Durable(given, blocking=True)))


def drive_blocking(coroutine: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
    """The result of a coroutine that awaits nothing which is not done."""
    try:
        coroutine.send(None)  # pyright: ignore
    except StopIteration as stop:
        return stop.value
    raise BrokenPromise("a program in a thread awaited something")


TASKS: dict[str, Any] = {"async": run, "thread": run_sync}
