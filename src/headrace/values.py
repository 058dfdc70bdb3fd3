"""Values to JSON bytes and back, by annotation: msgspec where it can, pydantic where the annotation names its types.

An annotation is anything that a task author writes: builtins, dataclasses, TypedDicts, msgspec structs, attrs classes,
enums, datetimes, UUIDs, unions of them, pydantic models. ``codec(annotation)`` builds what is needed once.

Ground: knows errors only. pydantic is imported only for an annotation (or a value) that is pydantic's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, cast, get_args

import msgspec

from headrace.errors import ConfigurationError, PayloadError

T = TypeVar("T")


class Codec(Generic[T]):
    """How the values of one annotation are read. Writing is the same for all: ``encode_json``."""

    def __init__(self, from_json: Callable[[bytes], T], from_object: Callable[[object], T]) -> None:
        self._from_json = from_json
        self._from_object = from_object

    def decode_json(self, data: bytes) -> T:
        """The value that the JSON text ``data`` spells. Raises PayloadError where the annotation does not admit it."""
        try:
            return self._from_json(data)
        except ValueError as error:  # msgspec's errors and pydantic's are ValueErrors both
            raise PayloadError(str(error)) from error

    def convert(self, value: object) -> T:
        """The value that parsed JSON (dicts, lists, texts, numbers) stands for. Raises PayloadError."""
        try:
            return self._from_object(value)
        except ValueError as error:
            raise PayloadError(str(error)) from error


def encode_json(value: object) -> bytes:
    """``value`` as JSON text in UTF-8.

    Raises PayloadError for what is no JSON value and no type that msgspec or pydantic turn into one. NaN and the
    infinities become ``null``, as JavaScript does it.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"{type(value).__qualname__} can't be written as JSON: {error}") from error


def codec(annotation: Any) -> Codec[Any]:
    """The codec of ``annotation``. Raises ConfigurationError where nobody knows how to read such a type."""
    try:
        return _cached_codec(annotation)
    except TypeError:  # unhashable, such as Annotated[int, []]
        return _build_codec(annotation)


class _PydanticModel(Protocol):
    def model_dump(self, *, mode: str, by_alias: bool) -> object: ...


def _encode_other(value: object) -> object:
    if hasattr(value, "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return cast("_PydanticModel", value).model_dump(mode="json", by_alias=True)
    raise TypeError(f"no rule for {type(value).__module__}.{type(value).__qualname__}")


_encoder = msgspec.json.Encoder(enc_hook=_encode_other)


def _build_codec(annotation: Any) -> Codec[Any]:
    if _names_pydantic(annotation):
        from pydantic import TypeAdapter  # noqa: PLC0415 - only who uses pydantic needs it  # pyright: ignore

        adapter: Any = TypeAdapter(annotation)
        return Codec(adapter.validate_json, adapter.validate_python)
    try:
        decoder = msgspec.json.Decoder(annotation)
    except (TypeError, RuntimeError) as error:
        raise ConfigurationError(f"{annotation!r} can't be read from JSON: {error}") from error
    return Codec(decoder.decode, lambda value: msgspec.convert(value, annotation, str_keys=True))


_cached_codec = cache(_build_codec)


def _names_pydantic(annotation: Any) -> bool:
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_core_schema__"):
        return True
    if type(annotation).__module__.partition(".")[0] == "pydantic":  # Field(...) and others within Annotated
        return True
    return any(_names_pydantic(part) for part in get_args(annotation))
