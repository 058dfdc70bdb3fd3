"""Where a database is, in words that may be shown: host and name, never a password."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

_UNREADABLE: Final = "a URL that can't be read"
_SECRET: Final = re.compile(r"(?<=password=)[^&\s]+", re.IGNORECASE)


def describe_place(url: str) -> str:
    """Host, port and database of a URL of PostgreSQL: ``db1:5432/runs``. What can't be read is not shown at all.

    >>> describe_place("postgresql://app:secret@db1.example:6432/runs?sslmode=require")
    'db1.example:6432/runs'
    """
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query)
    except ValueError:
        return _UNREADABLE
    hosts = parts.netloc.rpartition("@")[2]
    database = unquote(parts.path.strip("/")) or "".join(options.get("dbname", options.get("database", [])))
    # a password with a character that should have been escaped ends up in the wrong part
    if not parts.scheme.startswith("postgres") or "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        return _UNREADABLE
    if not hosts:
        hosts = ",".join(options.get("host", [])) or "localhost"
    elif options.get("host"):
        hosts = ",".join(options["host"])
    return f"{hosts}/{database}"


def describe_failure(error: BaseException, url: str) -> str:
    """What went wrong with a connection to ``url``, without what is secret in it. A driver may quote parts of the URL."""
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return (
            "its URL can't be read: it must be postgresql://user:password@host:port/database, with characters such as / @ : # in a "
            "password escaped, as %2F %40 %3A %23"
        )
    told = str(error) or type(error).__name__
    for secret in _list_secrets(url):
        told = told.replace(secret, "***")
    return told


def _list_secrets(url: str) -> list[str]:
    found = _SECRET.findall(url)
    account, at, _ = url.partition("://")[2].rpartition("@")
    if at:
        found.append(account.partition(":")[2])
    spellings = {spelling for one in found for spelling in (one, unquote(one)) if spelling}
    return sorted(spellings, key=len, reverse=True)
