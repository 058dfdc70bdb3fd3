"""Versions of the code, from outside of a run: looked at, promoted. The calls of both clients over one body."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from headrace.errors import ConfigurationError
from headrace.sdk.effects import Flow, Send
from headrace.sdk.flows import make_headers, make_query, quote, retrieve
from headrace.sdk.retries import read_object, send_patiently
from headrace.version_names import find_version_fault

T = TypeVar("T")

_PATH = "/api/v1/deployments"


class VersionCalls:
    """What Client does with versions."""

    def list_versions(self: _Blocking, *, limit: int = 20, after: str | None = None) -> dict[str, Any]:
        """A page of versions that workers brought, the last one first: ``data``, and ``pagination``, whose ``next`` is the
        ``after`` of the next page. ``limit`` is 1 to 100.
        """
        return self.run_flow(list_versions(limit, after))

    def retrieve_version(self: _Blocking, version: str | None = None) -> dict[str, Any]:
        """``GET /api/v1/deployments/{version}``: its tasks, those whose new runs it takes, its living workers.

        Without a version the one that was promoted last. Raises ApiError 404 where no worker brought it.
        """
        return self.run_flow(retrieve_version(version))

    def promote_version(self: _Blocking, version: str) -> dict[str, Any]:
        """Lets a version, newer or older, take the new runs of all its tasks. What others have begun they go on with.

        Raises ConfigurationError on what can't be a version, ApiError 404 where no worker brought it.
        """
        return self.run_flow(promote_version(version))


class AsyncVersionCalls:
    """What AsyncClient does with versions."""

    async def list_versions(self: _Awaiting, *, limit: int = 20, after: str | None = None) -> dict[str, Any]:
        """See Client.list_versions."""
        return await self.run_flow(list_versions(limit, after))

    async def retrieve_version(self: _Awaiting, version: str | None = None) -> dict[str, Any]:
        """See Client.retrieve_version."""
        return await self.run_flow(retrieve_version(version))

    async def promote_version(self: _Awaiting, version: str) -> dict[str, Any]:
        """See Client.promote_version."""
        return await self.run_flow(promote_version(version))


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def list_versions(limit: int, after: str | None) -> Flow[dict[str, Any]]:
    """Flow: a page of versions."""
    query = make_query({"page[size]": limit, "page[after]": after})
    return read_object((yield from send_patiently(Send("GET", _PATH + query))), "data", "pagination")


def retrieve_version(version: str | None) -> Flow[dict[str, Any]]:
    """Flow: a version, or the current one."""
    return (yield from retrieve(f"{_PATH}/{quote(_check(version)) if version else 'current'}"))


def promote_version(version: str) -> Flow[dict[str, Any]]:
    """Flow: promotes a version. Safe to repeat: it is current already."""
    request = Send("POST", f"{_PATH}/{quote(_check(version))}/promote", json={}, headers=make_headers())
    return read_object((yield from send_patiently(request)), "id", "version")


def _check(version: str) -> str:
    if fault := find_version_fault(version):
        raise ConfigurationError(f"The version {fault}.")
    return version
