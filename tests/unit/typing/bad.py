"""What the type checker has to refuse: each line with ``# wrong`` and no other. Never executed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypedDict

from headrace import AsyncClient, Client, Retry, RunHandle, Task, task


@dataclass
class Image:
    url: str


class Depth(TypedDict):
    depth: int


@task
async def resize(image: Image) -> int:
    return len(image.url)


@task
def tick() -> str:
    return "tock"


@task
def dig(how: Depth) -> None: ...


def plainly() -> None:
    tick(5)  # wrong
    dig({"width": 3})  # wrong


async def plainly_async() -> None:
    await resize("x")  # wrong


def trigger(client: Client, wrong_payload: str, image: Image) -> None:
    client.trigger(resize, wrong_payload)  # wrong
    client.trigger(resize)  # wrong
    client.trigger(resize, None)  # wrong
    client.trigger(tick, 5)  # wrong
    client.trigger(dig, {"depth": "deep"})  # wrong
    client.trigger(resize, image, delya="5m")  # wrong
    client.trigger(resize, image, max_attempts="5")  # wrong
    handle: RunHandle[str] = client.trigger(resize, image)  # wrong
    text: str = client.trigger(resize, image).result()  # wrong
    del handle, text


def batch(client: Client, names: list[str], images: list[Image], stream: AsyncIterator[Image]) -> None:
    client.batch_trigger(resize, names)  # wrong
    client.batch_trigger(resize, images, idempotency_key="k")  # wrong
    client.batch_trigger(resize, images, start="now")  # wrong
    client.batch_trigger(resize, stream)  # wrong
    client.submit(resize, names)  # wrong
    client.submit(resize, images, start="seal")  # wrong
    client.submit(resize, images, idempotency_key="k")  # wrong
    for outcome in client.batch_trigger(resize, images).results():
        outcome.value.bit_length()  # wrong


async def batch_async(client: AsyncClient, names: list[str]) -> None:
    await client.batch_trigger(resize, names)  # wrong
    await client.submit(resize, names)  # wrong
    await client.trigger(resize, 3)  # wrong


def declare() -> None:
    task(queue=5)  # wrong
    task(isolation="threads")  # wrong
    Retry(attempts=3)  # wrong
    some: Task[str, int] = resize  # wrong
    del some
