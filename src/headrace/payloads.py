"""The one place that knows where a large payload or result lies: inline in its row, or in the payload store.

The store is whatever obstore opens: a folder, or a bucket by URL (``s3://``, ``gs://``, ``az://``). An object is
written once, under a key that nobody can guess and no retry can meet again; the row holds its path, with media type
``application/store``.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from headrace.errors import ConfigurationError
from headrace.settings import Settings

STORED_TYPE: Final = "application/store"
_TRIES: Final = 4
_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 2.0


class PayloadStoreError(Exception):
    """The payload store refused a write or a read, on every try."""


class Payloads:
    """A payload store. ``Payloads.open(settings)`` makes no connection yet."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    @classmethod
    def open(cls, settings: Settings) -> Payloads:
        """The store that the settings name. Raises ConfigurationError where they name none that can be."""
        where = settings.payload_store or str(Path(settings.data_dir) / "payloads")
        try:
            if "://" in where and not where.startswith("file://"):
                return cls(from_url(where))
            folder = Path(where.removeprefix("file://")).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            return cls(LocalStore(folder))
        except (BaseError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"HEADRACE_PAYLOAD_STORE is {where!r}, which can't be opened: {error}. Give a folder, or a URL that begins "
                "with s3://, gs:// or az://."
            ) from error

    async def put(self, environment: str, data: bytes) -> str:
        """Stores ``data`` and returns its path. Tries four times; raises PayloadStoreError after the last."""
        path = f"payloads/{environment}/{secrets.token_hex(2)}/{secrets.token_urlsafe(24)}"
        delay = _FIRST_DELAY
        for attempt in range(_TRIES):
            try:
                await obstore.put_async(self._backend, path, data)
            except (BaseError, OSError) as error:
                if attempt == _TRIES - 1:
                    raise PayloadStoreError(f"Failed to upload large payload to object store: {error}") from error
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
            else:
                break
        return path

    async def get(self, environment: str, path: str) -> bytes:
        """The bytes stored under ``path``. Raises PayloadStoreError where there are none, or they are another environment's."""
        if not path.startswith(f"payloads/{environment}/") or ".." in path:
            raise PayloadStoreError(f"{path!r} is no payload of this environment")
        try:
            answer = await obstore.get_async(self._backend, path)
            return bytes(await answer.bytes_async())
        except (BaseError, OSError) as error:
            raise PayloadStoreError(f"The payload {path!r} can't be read: {error}") from error

    async def delete(self, path: str) -> None:
        """Removes an object that no row names. A failure is nobody's loss but some space."""
        try:
            await obstore.delete_async(self._backend, path)
        except (BaseError, OSError):
            return
