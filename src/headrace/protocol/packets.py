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


def packet_from_json(payload: Raw | UnsetType, payload_type: str | None) -> tuple[bytes | None, str]:
    """The bytes to store of a payload from the wire, and their media type.

    Raises msgspec.ValidationError where a type is named that only a string can have, and the payload is none.
    """
    if isinstance(payload, UnsetType):
        return None, payload_type or JSON
    raw = bytes(payload)
    if payload_type is None:
        return raw, JSON
    if raw.lstrip()[:1] == b'"':
        return _decode_text(raw).encode("utf-8"), payload_type
    if payload_type not in {JSON, SUPER_JSON}:
        raise msgspec.ValidationError(f"a payload of type {payload_type} has to be a string - at `$.payload`")
    return raw, payload_type


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
