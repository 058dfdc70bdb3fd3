"""What a run shows of itself while it runs: ``from headrace import metadata``. Visible outside at once."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from headrace.durable.ops import ChangeMetadata, ReadMetadata
from headrace.durable.pending import Pending, Steps
from headrace.durable.port import current_port
from headrace.errors import PayloadError
from headrace.values import encode_json

_OUTSIDE: Final = "Metadata of a new run is an option: trigger(..., metadata={...})."


def set(key: str, value: Any) -> Pending[None]:  # noqa: A001 - metadata.set, as a dict's item is
    """Sets ``key`` to a JSON value: ``await metadata.set("progress", 0.4)``. A replay does not go back to older values."""
    return _change("set", key, value, is_point=False)


def delete(key: str) -> Pending[None]:
    """Removes ``key``, where it is there."""
    return _change("delete", key, None, is_point=False)


def increment(key: str, by: float = 1) -> Pending[None]:
    """Adds ``by`` to the number under ``key`` (0 where there is none), exactly once however often the code is replayed."""
    return _change("increment", key, by, is_point=True)


def append(key: str, value: Any) -> Pending[None]:
    """Adds ``value`` to the list under ``key`` (a new one where there is none), exactly once."""
    return _change("append", key, value, is_point=True)


def current() -> Pending[dict[str, Any]]:
    """The run's metadata as it is now. On a replay: as it is then, so don't decide by it what points to come to."""
    port = current_port("metadata.current()", _OUTSIDE, is_point=False)
    return Pending(port, _read(), "metadata.current()")


def _change(
    change: Literal["set", "delete", "increment", "append"], key: str, value: Any, *, is_point: bool
) -> Pending[None]:
    port = current_port(f"metadata.{change}()", _OUTSIDE, is_point=is_point)
    if change == "increment" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise PayloadError(f"metadata.increment({key!r}, {value!r}): it adds a number")
    plain = msgspec.json.decode(encode_json(value))
    name = port.names.take("metadata", f"{change}:{key}") if is_point else ""
    return Pending(port, _perform(ChangeMetadata(name, change, key, plain)), f"metadata.{change}({key!r})")


def _perform(op: ChangeMetadata) -> Steps[None]:
    yield op


def _read() -> Steps[dict[str, Any]]:
    return (yield ReadMetadata())
