"""Keys met a moment ago, so that a busy client costs one look-up a second and not one a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from headrace.engine.environments import Environment

_REMEMBERED_SECONDS: Final = 1.0
_REMEMBERED_KEYS: Final = 10_000


class KeyMemory:
    """Keys met within the last second, by hash. Bounded; misses are not remembered, so a new key works at once."""

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[Environment, float]] = {}

    def recall(self, secret_hash: bytes) -> Environment | None:
        """The environment of a key met a moment ago."""
        known = self._found.get(secret_hash)
        return known[0] if known and known[1] > time.monotonic() else None

    def keep(self, secret_hash: bytes, environment: Environment) -> None:
        """Remembers a key for a second."""
        if len(self._found) >= _REMEMBERED_KEYS:
            self._found.clear()
        self._found[secret_hash] = (environment, time.monotonic() + _REMEMBERED_SECONDS)
