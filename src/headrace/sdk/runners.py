"""The two runners of flows: one on httpx2.Client, one on httpx2.AsyncClient. All I/O of the SDK is here."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, TypeVar

import httpx2
import msgspec

from headrace.sdk.effects import Answer, Broken, Flow, Send, Sleep
from headrace.sdk.flows import RawJson

T = TypeVar("T")

_CONNECT_TIMEOUT: Final = 10.0


def run_flow(flow: Flow[T], http: httpx2.Client) -> T:
    """What a flow returns, its effects done here and now."""
    result: Answer | Broken | None = None
    try:
        effect = next(flow)
        while True:
            match effect:
                case Sleep(seconds):
                    time.sleep(seconds)
                    result = None
                case Send():
                    result = _send(http, effect)
            effect = flow.send(result)
    except StopIteration as stop:
        return stop.value


async def run_flow_async(flow: Flow[T], http: httpx2.AsyncClient) -> T:
    """The same on an event loop."""
    result: Answer | Broken | None = None
    try:
        effect = next(flow)
        while True:
            match effect:
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                    result = None
                case Send():
                    result = await _send_async(http, effect)
            effect = flow.send(result)
    except StopIteration as stop:
        return stop.value


def _send(http: httpx2.Client, effect: Send) -> Answer | Broken:
    body = None if effect.segment is None else effect.segment.write()
    try:
        answer = http.request(effect.method, effect.path, **_arguments(effect, body or _encode(effect)))
    except httpx2.HTTPError as error:
        _raise_own(effect)
        return Broken(error)
    except BaseException:
        _raise_own(effect)
        raise
    finally:
        if body is not None:
            body.close()  # nobody reads items behind the back of the next try
    return _read(answer)


async def _send_async(http: httpx2.AsyncClient, effect: Send) -> Answer | Broken:
    body = None if effect.segment is None else effect.segment.write_async()
    try:
        answer = await http.request(effect.method, effect.path, **_arguments(effect, body or _encode(effect)))
    except httpx2.HTTPError as error:
        _raise_own(effect)
        return Broken(error)
    except BaseException:
        _raise_own(effect)
        raise
    finally:
        if body is not None:
            await body.aclose()  # nobody reads items behind the back of the next try
    return _read(answer)


def _raise_own(effect: Send) -> None:
    """What the user's own iterator raised goes before what the connection made of it."""
    if effect.segment is not None and effect.segment.source.error is not None:
        raise effect.segment.source.error


def _arguments(effect: Send, content: Any) -> dict[str, Any]:
    headers = dict(effect.headers)
    if content is not None:
        headers.setdefault("content-type", "application/json")
    return {
        "content": content,
        "headers": headers,
        "timeout": httpx2.Timeout(effect.timeout, connect=_CONNECT_TIMEOUT),
    }


def _encode(effect: Send) -> bytes | None:
    if effect.json is None:
        return None
    return msgspec.json.encode(effect.json, enc_hook=_encode_raw)


def _encode_raw(value: Any) -> Any:
    if isinstance(value, RawJson):
        return msgspec.Raw(value.data)
    raise NotImplementedError(type(value).__name__)


def _read(answer: httpx2.Response) -> Answer:
    return Answer(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)
