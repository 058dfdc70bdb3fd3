"""What has to pass the type checker. Never executed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, assert_type

from headrace import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncRunHandle,
    BatchHandle,
    Client,
    Failed,
    Item,
    Ok,
    Outcome,
    Retry,
    RunContext,
    RunHandle,
    Task,
    task,
)
from headrace.tasks import AsyncTask


@dataclass
class Image:
    url: str


@dataclass
class Thumb:
    width: int


class Depth(TypedDict):
    depth: int


@task
async def resize(image: Image) -> Thumb:
    return Thumb(len(image.url))


@task(queue="images", retry=Retry(max_attempts=5, min_delay="2s"), max_duration=timedelta(minutes=5))
def measure(image: Image, run: RunContext) -> int:
    return run.attempt + len(image.url)


@task
def tick() -> str:
    return "tock"


@task(isolation="process")
def dig(how: Depth) -> None: ...


@task
def anything(value: Any) -> Any:
    return value


async def stays_callable() -> None:
    assert_type(await resize(Image("x")), Thumb)
    assert_type(measure(Image("x"), RunContext("run_a", "measure")), int)
    assert_type(tick(), str)


def triggers(client: Client, image: Image) -> None:
    assert_type(client.trigger(resize, image), RunHandle[Thumb])
    assert_type(client.trigger(resize, image, delay="5m", tags=["a"], max_attempts=1).result(timeout=30), Thumb)
    assert_type(client.trigger(measure, image).result(), int)
    assert_type(client.trigger(tick).result(), str)
    assert_type(client.trigger(dig, {"depth": 3}).result(), None)
    assert_type(client.trigger("by-id", {"any": 1}), RunHandle[Any])
    client.trigger(anything, 5)
    assert_type(client.run("run_a", resize).result(), Thumb)


def batches(client: Client, images: list[Image], stream: Iterator[Image]) -> None:
    batch = client.batch_trigger(resize, stream, tags=["a"], start="seal", batch_key="k")
    assert_type(batch, BatchHandle[Thumb])
    for outcome in batch.results():
        assert_type(outcome, Ok[Thumb] | Failed)
        match outcome:
            case Ok(index, run_id, value):
                assert_type((index, run_id, value), tuple[int, str, Thumb])
            case Failed(status=status, error=error):
                assert_type((status, error), tuple[str, dict[str, Any]])
    thumbs = [outcome.unwrap() for outcome in client.batch_trigger(resize, images).as_completed()]
    assert_type(thumbs, list[Thumb])
    client.batch_trigger(resize, [images[0], Item(images[1], delay="5m")])
    client.batch_trigger(resize, [images[0], Item({"depth": 1}, task=dig)])
    assert_type(client.submit(resize, [images[0], Item(images[1])], batch_key="k", tags=["a"]), BatchHandle[Thumb])
    assert_type(client.submit("by-id", [1, "two"]), BatchHandle[Any])
    assert_type(client.batch("batch_a", resize), BatchHandle[Thumb])


def tells_by_ok(outcome: Outcome[Thumb]) -> object:
    if outcome.ok is True:
        return outcome.value.width
    return outcome.error["message"]


def asks_by_ok(outcome: Outcome[Thumb]) -> object:
    return outcome.value if outcome.ok else outcome.error


async def awaits(client: AsyncClient, image: Image, stream: AsyncIterator[Image]) -> None:
    assert_type(await client.trigger(resize, image), AsyncRunHandle[Thumb])
    assert_type(await (await client.trigger(resize, image)).result(), Thumb)
    assert_type(await client.submit(resize, stream), AsyncBatchHandle[Thumb])
    batch = await client.batch_trigger(resize, stream)
    async for outcome in batch.results():
        assert_type(outcome.unwrap(), Thumb)


def takes_any_task(some: Task[Image, object]) -> str:
    return some.id


def passes_tasks_on() -> list[str]:
    return [takes_any_task(resize), takes_any_task(measure)]


@task(coalesce=10)
async def index(images: list[Image]) -> list[Thumb | Exception]:
    return [Thumb(len(image.url)) for image in images]


assert_type(index, AsyncTask[Image, Thumb])
