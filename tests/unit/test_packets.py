"""Payloads from the wire to their bytes, and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from headrace.protocol.packets import decode_packet, packet_from_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(values, st.booleans())
def test_fault_24_a_payload_without_a_type_is_the_value_that_it_is(value: Any, ensure_ascii: bool) -> None:
    """Fault 24: strings that spell JSON stay strings."""
    raw = json.dumps(value, ensure_ascii=ensure_ascii).encode()
    assert packet_from_json(Raw(raw), None) == (raw, "application/json")
    assert decode_packet(*packet_from_json(Raw(raw), None)) == value
    text = json.dumps(raw.decode()).encode()
    assert decode_packet(*packet_from_json(Raw(text), None)) == raw.decode()


@given(values)
def test_text_that_the_published_sdk_serialised_is_parsed(value: Any) -> None:
    text = json.dumps(json.dumps(value)).encode()
    assert decode_packet(*packet_from_json(Raw(text), "application/json")) == value
    text = json.dumps(json.dumps({"json": value, "meta": {"values": {}}})).encode()
    assert decode_packet(*packet_from_json(Raw(text), "application/super+json")) == value


@given(st.text())
def test_plain_text_is_its_own_bytes(text: str) -> None:
    packet = packet_from_json(Raw(json.dumps(text).encode()), "text/plain")
    assert packet == (text.encode(), "text/plain")
    assert decode_packet(*packet) == text


@pytest.mark.parametrize(
    ("payload", "payload_type", "packet"),
    [
        ('"a\\u00e4\\"b"', "text/plain", ('aä"b'.encode(), "text/plain")),
        ('"packets/x.json"', "application/store", (b"packets/x.json", "application/store")),
        ('""', "text/plain", (b"", "text/plain")),
        ('"{\\"a\\":1}"', "application/json", (b'{"a":1}', "application/json")),
        ('"hello"', "application/json", (b'"hello"', "application/json")),
        ('""', "application/json", (b'""', "application/json")),
        ('{"a": 1}', "application/json", (b'{"a": 1}', "application/json")),
        ('{"json": 1}', "application/super+json", (b'{"json": 1}', "application/super+json")),
        ("null", None, (b"null", "application/json")),
        ("1.50", None, (b"1.50", "application/json")),
    ],
)
def test_bytes_and_type_of_a_payload(payload: str, payload_type: str | None, packet: tuple[bytes, str]) -> None:
    assert packet_from_json(Raw(payload.encode()), payload_type) == packet


def test_a_missing_payload_is_nothing() -> None:
    assert packet_from_json(UNSET, None) == (None, "application/json")
    assert packet_from_json(UNSET, "text/plain") == (None, "text/plain")
    assert decode_packet(None, "application/json") is None
    assert decode_packet(*packet_from_json(Raw(b"null"), None)) is None


@pytest.mark.parametrize(
    ("payload", "payload_type", "problem"),
    [
        ("7", "text/plain", "a payload of type text/plain has to be a string"),
        ("{}", "application/store", "a payload of type application/store has to be a string"),
        ('"{"', "application/super+json", "a payload of type application/super+json holds no JSON"),
        (json.dumps("[" * 200_000), "application/json", "a payload of type application/json holds no JSON"),
    ],
)
def test_a_payload_that_is_not_of_its_type_is_refused(payload: str, payload_type: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem.replace("+", r"\+")):
        packet_from_json(Raw(payload.encode()), payload_type)


def test_super_json_without_its_envelope_is_plain_json() -> None:
    assert decode_packet(b'{"a": 1}', "application/super+json") == {"a": 1}
    assert decode_packet(b"[1]", "application/super+json") == [1]
    assert decode_packet(b'{"json": null}', "application/super+json") is None


def test_a_packet_that_is_not_what_it_says() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_packet(b"hello", "application/json")
