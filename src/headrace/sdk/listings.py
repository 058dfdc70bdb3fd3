"""Lists of runs. The calls of both clients over one body."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol, TypeVar, Unpack

from headrace.sdk.effects import Flow
from headrace.sdk.flows import retrieve
from headrace.sdk.run_filters import RunFilters, name_run_filters

T = TypeVar("T")

_PAGE = 100


class ListCalls:
    """What Client does to find runs."""

    def list_runs(
        self: _Blocking,
        *,
        limit: int = 25,
        after: str | None = None,
        before: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> dict[str, Any]:
        """A page of runs, newest first: ``data``, and ``pagination`` with the cursors for ``after`` and ``before``.

        A filter is one value, or several: in a list, or with commas between; see RunFilters. ``limit`` is 1 to 100. A page
        can be shorter, and even empty, while there are more: as long as there is a cursor (``iterate_runs`` sees to it).
        Where a store does not answer, ``warnings`` in it says which one's runs are missing.
        """
        return self.run_flow(list_runs(limit, after, before, filters))

    def iterate_runs(self: _Blocking, **filters: Unpack[RunFilters]) -> Iterator[dict[str, Any]]:
        """All runs that the filters mean, newest first, read in pages: each that was there at the begin comes once.

        Where a store does not answer, its runs are missing, and a Python warning says so.

        >>> with Client() as client:                            # doctest: +SKIP
        ...     for run in client.iterate_runs(status="FAILED", period="1d"):
        ...         print(run["id"])
        """
        cursor: str | None = None
        while True:
            page = self.run_flow(list_runs(_PAGE, cursor, None, filters))
            yield from page["data"]
            _warn(page)
            if (cursor := page["pagination"].get("next")) is None:
                return


class AsyncListCalls:
    """What AsyncClient does to find runs."""

    async def list_runs(
        self: _Awaiting,
        *,
        limit: int = 25,
        after: str | None = None,
        before: str | None = None,
        **filters: Unpack[RunFilters],
    ) -> dict[str, Any]:
        """See Client.list_runs."""
        return await self.run_flow(list_runs(limit, after, before, filters))

    async def iterate_runs(self: _Awaiting, **filters: Unpack[RunFilters]) -> AsyncIterator[dict[str, Any]]:
        """See Client.iterate_runs."""
        cursor: str | None = None
        while True:
            page = await self.run_flow(list_runs(_PAGE, cursor, None, filters))
            for run in page["data"]:
                yield run
            _warn(page)
            if (cursor := page["pagination"].get("next")) is None:
                return


class _Blocking(Protocol):
    def run_flow(self, flow: Flow[T]) -> T: ...


class _Awaiting(Protocol):
    async def run_flow(self, flow: Flow[T]) -> T: ...


def _warn(page: Mapping[str, Any]) -> None:
    for text in page.get("warnings", ()):
        warnings.warn(text, stacklevel=3)


def list_runs(limit: int, after: str | None, before: str | None, filters: Mapping[str, Any]) -> Flow[dict[str, Any]]:
    """Flow: a page of runs."""
    query = {"page[size]": limit, "page[after]": after, "page[before]": before, **name_run_filters(filters)}
    return (yield from retrieve("/api/v1/runs", **query))
