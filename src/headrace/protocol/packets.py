"""Packets: a payload or a result as bytes and their media type, and the way there and back.

The published SDK serialises payloads itself and sends the text as a JSON string, with its media type in
``options.payloadType``. Without a type a payload is the JSON value that it is: the string ``"123"`` stays a string.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
from msgspec import Raw, UnsetType

JSON: Final = "application/json"
SUPER_JSON: Final = "application/super+json"
TEXT: Final = "text/plain"
STORED: Final = "application/store"

_decode_text: Final = msgspec.json.Decoder(str).decode
_check_json: Final = msgspec.json.Decoder(Raw).decode


def packet_from_json(payload: Raw | UnsetType, payload_type: str | None) -> tuple[bytes | None, str]:
    """The bytes to store of a payload from the wire, and their media type.

    >>> packet_from_json(Raw(b'"123"'), None), packet_from_json(Raw(b'"123"'), "application/json")
    ((b'"123"', 'application/json'), (b'123', 'application/json'))

    Raises msgspec.ValidationError where a type is named that only a string can have and the payload is none, or that the
    text in the string is not of.
    """
    if isinstance(payload, UnsetType):
        return None, payload_type or JSON
    raw = bytes(payload)
    if payload_type is None:
        return raw, JSON
    if not raw.startswith(b'"'):
        if payload_type not in {JSON, SUPER_JSON}:
            raise msgspec.ValidationError(f"a payload of type {payload_type} has to be a string - at `$.payload`")
        return raw, payload_type
    text = _decode_text(raw).encode("utf-8")
    if payload_type in {JSON, SUPER_JSON}:
        try:
            _check_json(text)
        except (msgspec.DecodeError, RecursionError) as error:
            if payload_type == JSON and isinstance(error, msgspec.DecodeError):
                return raw, JSON  # a string that holds no JSON is the value itself
            raise msgspec.ValidationError(
                f"a payload of type {payload_type} holds no JSON: {error} - at `$.payload`"
            ) from None
    return text, payload_type


def decode_packet(data: bytes | None, media_type: str) -> Any:
    """The value that a packet holds: None where it holds nothing. Raises msgspec.DecodeError where it is not what it says.

    Of ``application/super+json`` the plain part is given: dates and the like stay the text that they were written as.
    """
    if data is None:
        return None
    if media_type == TEXT:
        return data.decode("utf-8", "replace")
    value: Any = msgspec.json.decode(data)
    if media_type == SUPER_JSON and isinstance(value, dict):
        return cast("dict[str, Any]", value).get("json", value)
    return value
