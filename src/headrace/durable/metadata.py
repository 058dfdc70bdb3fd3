"""What a run shows of itself while it runs: ``from headrace import metadata``. Visible outside at once.

``metadata.parent`` and ``metadata.root`` have the same functions, for the run that triggered this one and the run at the
top of the tree. Many runs may change one at a time: each change is done to what the others have made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.durable.ops import ChangeMetadata, ReadMetadata, Target
from headrace.durable.pending import Pending, Steps
from headrace.durable.port import current_port
from headrace.errors import PayloadError
from headrace.protocol.metadata import (
    AppendToKey,
    DeleteKey,
    IncrementKey,
    MetadataOperation,
    RemoveFromKey,
    ReplaceMetadata,
    SetKey,
)
from headrace.values import encode_json

_OUTSIDE: Final = (
    "Metadata of a new run is an option: trigger(..., metadata={...}). Of another: Client.update_metadata()."
)


def set(key: str, value: Any) -> Pending[None]:  # noqa: A001 - metadata.set, as a dict's item is
    """Sets ``key`` to a JSON value: ``await metadata.set("progress", 0.4)``. A replay does not go back to older values.

    A key that begins with ``$.`` is a path, here and in all the others: ``"$.files.0.name"``.
    """
    return _OWN.set(key, value)


def delete(key: str) -> Pending[None]:
    """Removes ``key``, where it is there."""
    return _OWN.delete(key)


def increment(key: str, by: float = 1) -> Pending[None]:
    """Adds ``by`` to the number under ``key`` (0 where there is none), exactly once however often the code is replayed."""
    return _OWN.increment(key, by)


def decrement(key: str, by: float = 1) -> Pending[None]:
    """Takes ``by`` from the number under ``key``, exactly once."""
    return _OWN.decrement(key, by)


def append(key: str, value: Any) -> Pending[None]:
    """Adds ``value`` to the list under ``key`` (a new one where there is none), exactly once."""
    return _OWN.append(key, value)


def remove(key: str, value: Any) -> Pending[None]:
    """Removes what equals ``value`` from the list under ``key``, once."""
    return _OWN.remove(key, value)


def update(values: Mapping[str, Any]) -> Pending[None]:
    """Sets several keys at once, and leaves the others: as a dict's ``update``."""
    return _OWN.update(values)


def replace(values: Mapping[str, Any]) -> Pending[None]:
    """Makes ``values`` all of the metadata: what is not in it is gone."""
    return _OWN.replace(values)


def current() -> Pending[dict[str, Any]]:
    """The run's metadata as it is now. On a replay: as it is then, so don't decide by it what points to come to."""
    return _OWN.current()


class Metadata:
    """The metadata of the run, or of one above it. To be had as ``metadata.parent`` and ``metadata.root``.

    Of a run above every change is a point of the journal: a replay of this run does not go back on what others did since.
    """

    def __init__(self, target: Target) -> None:
        self._target: Target = target
        self._prefix = "" if target == "run" else f"{target}."

    def set(self, key: str, value: Any) -> Pending[None]:
        """See ``metadata.set``."""
        return self._change("set", key, [SetKey(key, _to_json(value))])

    def delete(self, key: str) -> Pending[None]:
        """See ``metadata.delete``."""
        return self._change("delete", key, [DeleteKey(key)])

    def increment(self, key: str, by: float = 1) -> Pending[None]:
        """See ``metadata.increment``."""
        return self._change("increment", key, [IncrementKey(key, _check_number("increment", key, by))], is_point=True)

    def decrement(self, key: str, by: float = 1) -> Pending[None]:
        """See ``metadata.decrement``."""
        return self._change("decrement", key, [IncrementKey(key, -_check_number("decrement", key, by))], is_point=True)

    def append(self, key: str, value: Any) -> Pending[None]:
        """See ``metadata.append``."""
        return self._change("append", key, [AppendToKey(key, _to_json(value))], is_point=True)

    def remove(self, key: str, value: Any) -> Pending[None]:
        """See ``metadata.remove``."""
        return self._change("remove", key, [RemoveFromKey(key, _to_json(value))], is_point=True)

    def update(self, values: Mapping[str, Any]) -> Pending[None]:
        """See ``metadata.update``."""
        return self._change("update", "", [SetKey(key, value) for key, value in _to_object("update", values).items()])

    def replace(self, values: Mapping[str, Any]) -> Pending[None]:
        """See ``metadata.replace``."""
        return self._change("replace", "", [ReplaceMetadata(_to_object("replace", values))])

    def current(self) -> Pending[dict[str, Any]]:
        """See ``metadata.current``."""
        what = f"metadata.{self._prefix}current()"
        port = current_port(what, _OUTSIDE, is_point=False)
        return Pending(port, _read(ReadMetadata(self._target)), what)

    def _change(
        self, change: str, key: str, operations: list[MetadataOperation], *, is_point: bool = False
    ) -> Pending[None]:
        what = f"{self._prefix}{change}"
        is_point = is_point or self._target != "run"
        port = current_port(f"metadata.{what}()", _OUTSIDE, is_point=is_point)
        name = port.names.take("metadata", f"{what}:{key}") if is_point else ""
        return Pending(port, _perform(ChangeMetadata(name, operations, self._target)), f"metadata.{what}({key!r})")


def _check_number(change: str, key: str, by: float) -> float:
    if isinstance(by, bool) or not isinstance(by, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PayloadError(f"metadata.{change}({key!r}, {by!r}): it takes a number")
    return _to_json(by)


def _to_json(value: Any) -> Any:
    return msgspec.json.decode(encode_json(value))


def _to_object(change: str, values: Mapping[str, Any]) -> dict[str, Any]:
    plain = _to_json(values)
    if not isinstance(plain, dict):
        raise PayloadError(f"metadata.{change}({values!r}): it takes a dict")
    return plain  # pyright: ignore[reportUnknownVariableType]


def _perform(op: ChangeMetadata) -> Steps[None]:
    yield op


def _read(op: ReadMetadata) -> Steps[dict[str, Any]]:
    return (yield op)


_OWN: Final = Metadata("run")
parent: Final = Metadata("parent")
root: Final = Metadata("root")
