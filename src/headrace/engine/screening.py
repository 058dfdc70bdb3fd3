"""What no schema can say about an item: found before it is stored, so that a bad one spoils no chunk of good ones."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw, UnsetType

from headrace.durations import parse_duration
from headrace.engine.debounces import read_window
from headrace.engine.idempotency import LONGEST_TTL
from headrace.engine.items import delayed_until, read_ttl
from headrace.engine.outcomes import Packet
from headrace.errors import ConfigurationError, PayloadError
from headrace.payloads import STORED_TYPE
from headrace.protocol.options import RunOptions
from headrace.protocol.packets import packet_from_json

_encode: Final = msgspec.json.Encoder().encode
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def refuse_options(task: str, options: RunOptions, most_metadata: int) -> None:
    """Raises ConfigurationError, PayloadError where a run that a program asks for, with no server between, would be refused by one."""
    try:
        refuse_faults(task, options)
    except ValueError as error:
        raise ConfigurationError(f"These options are not what a run can have: {error}") from None
    try:
        refuse_large_metadata(options, most_metadata)
    except ValueError as error:
        raise PayloadError(str(error)) from None


def read_packet(payload: Raw | UnsetType, options: RunOptions | None) -> Packet:
    """The payload of a request as it will be stored. Raises ValueError where it is not of the type that it says."""
    return Packet(*packet_from_json(payload, options.payload_type if options else None))


def refuse_faults(task: str, options: RunOptions | None) -> None:
    """Raises ValueError with what is wrong with a run that is asked for, as part of a sentence."""
    if "\0" in task:
        raise ValueError("task holds a NUL character")
    if options is None:
        return
    if options.payload_type == STORED_TYPE:
        raise ValueError(f"payloadType {STORED_TYPE} names an object of the server's own and can't be sent")
    if holds_nul(_encode(options)):
        raise ValueError("options hold a NUL character")
    read_window(options)
    delayed_until(options)
    read_ttl(options)
    if options.idempotency_key_ttl:
        check_ttl(options.idempotency_key_ttl)


def refuse_large_metadata(options: RunOptions | None, most: int) -> None:
    """Raises ValueError where a run's first metadata is longer than a run's metadata may be."""
    if options is not None and options.metadata is not None and (size := len(_encode(options.metadata))) > most:
        raise ValueError(f"metadata has {size} bytes, but may have {most} (HEADRACE_METADATA_MAX_SIZE)")


def check_ttl(text: str) -> None:
    """Raises ValueError where ``text`` does not say how long a key holds."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"idempotencyKeyTTL: {error}") from None
    if seconds > LONGEST_TTL:
        raise ValueError(f"idempotencyKeyTTL is {text!r}, but a key holds at most {LONGEST_TTL // 86_400} days")


def holds_nul(json_text: bytes) -> bool:
    """Whether a string in a JSON text holds a NUL character, which PostgreSQL's text can't."""
    return b"\\u0000" in json_text and _NUL.search(json_text) is not None
