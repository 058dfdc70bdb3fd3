"""What an operation makes of a run's metadata. Pure: the same of the same, whoever applies it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast

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

MAX_DEPTH: Final = 64
"""Most steps of a path: deeper JSON could not be read back everywhere."""

_NOTHING: Final = object()
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_INDEX: Final = re.compile(r"\[(\d+)\]")
_UNKNOWN: Final = re.compile(r"[*:?()\[\]]")
_LONGEST_INDEX: Final = 9
_SHOWN: Final = 60


def apply_operations(metadata: dict[str, Any], operations: Sequence[MetadataOperation]) -> dict[str, Any]:
    """The metadata after the operations, in their order; ``metadata`` itself stays as it was.

    Raises PayloadError where one of them can't be done, which says the key and what is there.

    >>> apply_operations({"done": 1}, [IncrementKey("done", 2), AppendToKey("log", "a")])
    {'done': 3, 'log': ['a']}
    """
    for operation in operations:
        metadata = _apply(metadata, operation)
    return metadata


def encode_metadata(metadata: dict[str, Any], max_size: int) -> str:
    """It as JSON. Raises PayloadError where it is longer than ``max_size`` bytes, or holds what PostgreSQL's JSON can't."""
    try:
        text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode("utf-8"))
    except (ValueError, RecursionError) as error:  # infinity, half a surrogate pair, a number or a nesting without end
        raise PayloadError(f"the run's metadata would be no JSON: {error}") from None
    if size > max_size:
        raise PayloadError(
            f"the run's metadata would have {size} bytes, but may have {max_size} (HEADRACE_METADATA_MAX_SIZE): keep large "
            "values elsewhere, and show where"
        )
    if "\\u0000" in text and _NUL.search(text):
        raise PayloadError("the run's metadata would hold a NUL character, which can't be stored")
    return text


def _apply(metadata: dict[str, Any], operation: MetadataOperation) -> dict[str, Any]:
    match operation:
        case ReplaceMetadata(value):
            return dict(value)
        case DeleteKey(key):
            return _delete(metadata, _read_path(key))
        case SetKey(key, value):
            return _put(metadata, _read_path(key), value, key)
        case _:
            path = _read_path(operation.key)
            before = _find(metadata, path)
            after = _change(operation, before)
            return metadata if after is before else _put(metadata, path, after, operation.key)


def _change(operation: IncrementKey | AppendToKey | RemoveFromKey, before: Any) -> Any:
    match operation:
        case IncrementKey(_, by):
            number = 0 if before is _NOTHING else before
            if isinstance(number, bool) or not isinstance(number, int | float):
                _refuse(operation, before, "number")
            try:
                return number + by
            except OverflowError:
                raise PayloadError(f"metadata.increment({operation.key!r}): the number is too large") from None
        case AppendToKey(_, value):
            if before is not _NOTHING and not isinstance(before, list):
                _refuse(operation, before, "list")
            return [value] if before is _NOTHING else [*before, value]
        case RemoveFromKey(_, value):
            if before is _NOTHING:
                return before
            if not isinstance(before, list):
                _refuse(operation, before, "list")
            values = cast("list[Any]", before)
            return [one for one in values if not _are_equal(one, value)]


def _refuse(operation: IncrementKey | AppendToKey | RemoveFromKey, before: Any, wanted: str) -> NoReturn:
    name = str(operation.__struct_config__.tag)
    raise PayloadError(f"metadata.{name}({operation.key!r}): there is {_show(before)}, which is no {wanted}")


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 3]}..."


def _are_equal(one: Any, other: Any) -> bool:
    """As JSON has it: true is not 1, and 1 is 1.0."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        left, right = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return left.keys() == right.keys() and all(_are_equal(left[key], right[key]) for key in left)
    if isinstance(one, list) and isinstance(other, list):
        first, second = cast("list[Any]", one), cast("list[Any]", other)
        return len(first) == len(second) and all(map(_are_equal, first, second))
    return bool(one == other)


def _read_path(key: str) -> list[str]:
    """A key by itself, or the steps of one that begins with ``$.``: names of members, and indexes of lists."""
    if not key.startswith("$."):
        return [key]
    path = _INDEX.sub(r".\1", key[2:]).split(".")
    if not all(path) or any(_UNKNOWN.search(step) for step in path) or len(path) > MAX_DEPTH:
        raise PayloadError(
            f"metadata: {key[:60]!r} is no path: it is $. and names or indexes with dots between, at most {MAX_DEPTH}, such as "
            "$.files.0.name or $.files[0].name"
        )
    return path


def _find(value: Any, path: Sequence[str]) -> Any:
    for step in path:
        match value:
            case dict():
                value = cast("dict[str, Any]", value).get(step, _NOTHING)
            case list():
                items = cast("list[Any]", value)
                value = items[int(step)] if _is_index(step, len(items)) else _NOTHING
            case _:
                return _NOTHING
    return value


def _put(value: Any, path: Sequence[str], new: Any, key: str) -> Any:
    """``value`` with ``new`` at the path. Objects on the way that are not there are made."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    match value:
        case dict():
            members = cast("dict[str, Any]", value)
            return {**members, step: _put(members.get(step, _NOTHING), rest, new, key)}
        case list():
            items = cast("list[Any]", value)
            if not _is_index(step, len(items)):
                raise PayloadError(f"metadata: {key!r} asks for {step!r} of a list that has {len(items)} items")
            index = int(step)
            return [*items[:index], _put(items[index], rest, new, key), *items[index + 1 :]]
        case _ if value is _NOTHING:
            return {step: _put(_NOTHING, rest, new, key)}
        case _:
            raise PayloadError(f"metadata: {key!r} asks for {step!r} of {_show(value)}, which is no object and no list")


def _delete(value: Any, path: Sequence[str]) -> Any:
    """``value`` without what is at the path; as it is where nothing is there."""
    if _find(value, path) is _NOTHING:
        return value
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if rest:
            return {**members, step: _delete(members[step], rest)}
        return {name: member for name, member in members.items() if name != step}
    items, index = cast("list[Any]", value), int(step)
    kept = [_delete(items[index], rest)] if rest else []
    return [*items[:index], *kept, *items[index + 1 :]]


def _is_index(step: str, count: int) -> bool:
    return step.isascii() and step.isdigit() and len(step) <= _LONGEST_INDEX and int(step) < count
