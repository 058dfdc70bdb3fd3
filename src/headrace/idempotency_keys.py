"""Idempotency keys as a program writes them: a text, and for whom it stands for one run.

On the wire a key is a SHA-256 of its parts joined with "-", so that the clients of the system we match mean the same run by
the same key; what the author wrote and its scope go with it, to be shown.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from headrace.tasks import current_run

KeyScope = Literal["run", "attempt", "global"]

LONGEST_KEY: Final = 2048
"""Characters of an idempotency key."""

_HASHED: Final = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, init=False)
class Key:
    """An idempotency key with a scope: ``Key("invoice", order_id, scope="global")``. Parts are joined with "-".

    run: one run for each run that triggers, whatever is tried again; what a plain text means inside of a run.
    attempt: one for each attempt of it. global: one for all. Outside of a run each of them is global, unless ``run_id`` (and
    ``attempt``) say whose key is meant, to reset it.

    >>> Key("invoice", 7, scope="global").hash()[:8]
    '61bf036e'

    Raises ValueError where it has no text or too much of it.
    """

    text: str
    scope: KeyScope
    run_id: str | None
    attempt: int | None

    def __init__(
        self, *parts: str | int, scope: KeyScope = "run", run_id: str | None = None, attempt: int | None = None
    ) -> None:
        text = "-".join(str(part) for part in parts)
        _check(text)
        if scope not in get_args(KeyScope):
            raise ValueError(f"the scope of a key is {scope!r}, but must be one of: {', '.join(get_args(KeyScope))}")
        for name, value in (("text", text), ("scope", scope), ("run_id", run_id), ("attempt", attempt)):
            object.__setattr__(self, name, value)

    def hash(self) -> str:
        """What stands for it here and now: inside of a run, of that run."""
        run = current_run()
        run_id = self.run_id or (run.run_id if run else None)
        attempt = self.attempt if self.attempt is not None else run.attempt if run and self.run_id is None else None
        parts = [self.text]
        if self.scope != "global" and run_id is not None:
            parts.append(run_id)
            if self.scope == "attempt":
                if attempt is None:
                    raise ValueError("a key of scope 'attempt' needs the attempt's number beside run_id")
                parts.append(str(attempt))
        return hash_text("-".join(parts))


def hash_text(text: str) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_hashed(text: str) -> bool:
    """Whether a key is taken to be a hash already."""
    return _HASHED.fullmatch(text) is not None


def spell_key(key: str | Key) -> dict[str, Any]:
    """A key as it stands among the options of a run. Raises ValueError, TypeError where it is none.

    A text that is a hash goes as it is. Another goes as it is outside of a run, where the server hashes it; inside it is
    that run's.
    """
    if not isinstance(key, Key):
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - it comes from callers
            raise TypeError("give a text, or a Key")
        _check(key)
        if is_hashed(key) or current_run() is None:
            return {"idempotencyKey": key}
        key = Key(key)
    return {"idempotencyKey": key.hash(), "idempotencyKeyOptions": {"key": key.text, "scope": key.scope}}


def _check(text: str) -> None:
    if not text:
        raise ValueError("an idempotency key can't be empty")
    if len(text) > LONGEST_KEY:
        raise ValueError(f"an idempotency key has at most {LONGEST_KEY} characters, this one has {len(text)}")
