"""What an error looks like on the wire: JSON bodies ``{"error": ...}``, and no exception left unanswered.

A 5xx never forbids a retry: whatever failed here may work the next time, and every write is safe to repeat.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from headrace.logs import get_logger
from headrace.payloads import PayloadStoreError
from headrace.store.store import HOME_NAME, find_store_name

log = get_logger("headrace.api")

RETRY_AFTER: Final = 1
"""Seconds after which a client may try again what the database or the payload store could not do."""

CLIENT_GONE: Final = 499
"""What the access log shows for a request that was cut: nobody is there to be answered."""

_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
)
"""What is raised when PostgreSQL is away, going away, full, a standby, or asks to try again. That it gives no connection is an
OSError, whatever it says (``UnreachableError``).
"""


class AnsweredError(Exception):
    """Ends a request with ``response``: raised where a check deep below a route finds the request wrong."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def answer_json(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    """A JSON response of a struct or a plain value."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def answer_error(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """``{"error": message}`` and what else belongs beside it."""
    return answer_json(status, {"error": message, **more}, headers)


def answer_missing(message: str = "Not found") -> Response:
    """404, for good: reads go to the primary, so asking again would not find it."""
    return answer_error(404, message, {"x-should-retry": "false"})


def answer_forbidden() -> Response:
    """403: the credential is good, but not for this."""
    return answer_error(403, "Unauthorized", code="unauthorized", param="access_token", type="authorization")


def forbid_unless(allowed: bool) -> None:
    """Raises AnsweredError (403) unless ``allowed``."""
    if not allowed:
        raise AnsweredError(answer_forbidden())


def answer_unavailable(message: str) -> Response:
    """503: nothing is wrong with the request; the same one may work in a moment."""
    return answer_error(503, message, {"x-should-retry": "true", "retry-after": str(RETRY_AFTER)})


def _describe_unavailable(error: BaseException) -> str:
    """Of a store other than home it says which: what the others own can be asked for."""
    name = find_store_name(error)
    if name is None or name == HOME_NAME:
        return "The database is not available"
    return f"The store {name} is not available: what it owns can't be reached now"


def answer_exception(error: BaseException, path: str) -> Response:
    """The response for whatever a route raised; what nobody foresaw is logged with its stack and answered 500."""
    match error:
        case AnsweredError():
            return error.response
        case ClientDisconnect():
            return Response(status_code=CLIENT_GONE)
        case PayloadStoreError():
            log.warning("payload_store_unavailable", path=path, error=str(error))
            return answer_unavailable("The payload store is not available")
        case asyncio.CancelledError():
            return answer_unavailable("The server is shutting down")
        case _ if isinstance(error, _UNAVAILABLE):
            log.warning("database_unavailable", path=path, error=repr(error))
            return answer_unavailable(_describe_unavailable(error))
        case _:
            log.error("request_failed", path=path, exc_info=error)
            return answer_error(500, "Internal Server Error")
