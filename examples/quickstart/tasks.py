"""The smallest headrace program: one task that is quick, one that fails now and then."""

from __future__ import annotations

from dataclasses import dataclass

from headrace import Retry, RunContext, task


@dataclass
class Order:
    """What is to be billed: prices of its lines."""

    number: int
    lines: list[float]


@dataclass
class Invoice:
    """What came of it."""

    number: int
    total: float


@task(queue="billing")
async def bill(order: Order) -> Invoice:
    """Adds up an order."""
    return Invoice(order.number, sum(order.lines))


@task(retry=Retry(max_attempts=3, min_delay="50ms"))
def remind(number: int, run: RunContext) -> str:
    """Fails the first time, as mail servers do, and is tried again."""
    if run.attempt == 1:
        raise ConnectionError("the mail server is busy")
    return f"reminded of {number} in attempt {run.attempt}"
