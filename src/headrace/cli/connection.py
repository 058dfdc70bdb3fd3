"""The client that commands talk to the server with."""

from __future__ import annotations

from headrace.cli.outcome import UNREACHABLE, CommandError
from headrace.sdk import Client
from headrace.settings import Settings


def open_client(api_url: str | None, api_key: str | None) -> Client:
    """A client of the server that the options or the environment name. Raises CommandError without a key."""
    settings = Settings.from_environment(api_url=api_url, api_key=api_key)
    if not settings.api_key:
        raise CommandError(
            "No API key is given. Set HEADRACE_API_KEY, or give --api-key; `headrace keys create` makes one.",
            UNREACHABLE,
        )
    return Client(settings.api_url, api_key=settings.api_key)
