"""What callers give, looked at before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from typing import Any

from headrace.durations import Duration
from headrace.errors import ConfigurationError
from headrace.items import spell_duration

Filter = str | Sequence[str] | None
"""One value, or several: in a list, or with commas between."""


def refuse_running_loop() -> None:
    """Raises RuntimeError where blocking would stop an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("Client blocks, and this is a running event loop: use AsyncClient and await.")


def count_items(items: Any) -> int | None:
    """How many there are, where that is known without reading them. (A lazy query has a length too, at the price of all rows.)"""
    return len(items) if isinstance(items, Sequence | Set) else None  # pyright: ignore[reportUnknownArgumentType]


def spell_ttl(ttl: Duration) -> str:
    """A batch key's time on the wire. Raises ConfigurationError."""
    try:
        return spell_duration(ttl)
    except ValueError as error:
        raise ConfigurationError(f"batch_key_ttl: {error}") from None
