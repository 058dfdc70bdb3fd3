"""Tasks that the client's tests trigger."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from headrace.tasks import Retry, RunContext, task


@dataclass
class Image:
    url: str
    taken: datetime


@dataclass
class Thumb:
    url: str
    taken: datetime
    attempt: int


@task(id="e2e-resize", retry=Retry(max_attempts=2, min_delay=0.05))
async def resize(image: Image, run: RunContext) -> Thumb:
    return Thumb(image.url + "/thumb", image.taken, run.attempt)


@task(id="e2e-double", queue="numbers")
async def double(number: int) -> int:
    return number * 2


@task(id="e2e-fail", retry=Retry(max_attempts=2, min_delay=0))
def fail(text: str) -> None:
    raise ValueError(text)


@task(id="e2e-slow")
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task(id="e2e-idle")
async def idle() -> str:
    return "idle"


ALL = (resize, double, fail, slow, idle)
