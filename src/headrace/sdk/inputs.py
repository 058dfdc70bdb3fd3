"""What callers give, looked at before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence, Set
from typing import Any

from headrace.durations import Duration
from headrace.errors import ConfigurationError
from headrace.sdk.items import spell_duration

Filter = str | Sequence[str] | None
"""One value, or several: in a list, or with commas between."""


def refuse_running_loop() -> None:
    """Raises RuntimeError where blocking would stop an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("Client blocks, and this is a running event loop: use AsyncClient and await.")


def check_items(items: Any, options: Mapping[str, Any], *, may_be_async: bool = False) -> None:
    """Raises TypeError for what is no iterable of payloads, ConfigurationError for options that a batch can't share."""
    if isinstance(items, AsyncIterable) and not isinstance(items, Iterable):
        if not may_be_async:
            raise TypeError("items is an async iterable: use AsyncClient, which reads them.")
    elif not isinstance(items, Iterable):
        raise TypeError(f"items is a {type(items).__name__}: give an iterable of payloads, such as [payload].")
    if isinstance(items, str | bytes | bytearray | Mapping):
        raise TypeError(f"items is one {type(items).__name__}: give an iterable of payloads, such as [payload].")  # pyright: ignore[reportUnknownArgumentType]
    if clash := options.keys() & {"idempotency_key", "idempotency_key_ttl"}:
        raise ConfigurationError(
            f"{' and '.join(sorted(clash))} of a batch would make all its items one run. A key for the batch is batch_key=; "
            "keys of items are given by Item(payload, idempotency_key=...)."
        )


def count_items(items: Any) -> int | None:
    """How many there are, where that is known without reading them. (A lazy query has a length too, at the price of all rows.)"""
    return len(items) if isinstance(items, Sequence | Set) else None  # pyright: ignore[reportUnknownArgumentType]


def spell_ttl(ttl: Duration) -> str:
    """A batch key's time on the wire. Raises ConfigurationError."""
    try:
        return spell_duration(ttl)
    except ValueError as error:
        raise ConfigurationError(f"batch_key_ttl: {error}") from None


def name_filters(limit: int, cursors: dict[str, str | None], filters: dict[str, Filter]) -> dict[str, Any]:
    """A list's query: names as on the wire, several values by commas."""
    query: dict[str, Any] = {"page[size]": limit}
    query |= {f"page[{name}]": value for name, value in cursors.items()}
    for name, value in filters.items():
        query[f"filter[{name}]"] = value if value is None or isinstance(value, str) else ",".join(value)
    return query
