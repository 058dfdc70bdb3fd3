"""``headrace keys``: API keys, shown once, stored hashed. Talks to the database itself: the first key comes from here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

from cyclopts import App, Parameter

from headrace.cli.outcome import NOT_FOUND, OK, CommandError
from headrace.cli.output import err, out, print_json, print_table
from headrace.engine import keys
from headrace.engine.engine import Engine
from headrace.settings import Settings

T = TypeVar("T")

keys_app: Final = App(name="keys", help="Create, list and revoke API keys.")


@keys_app.command
def create(
    name: str = "",
    /,
    *,
    environment: Annotated[str, Parameter(help="dev, staging or prod")] = "dev",
    json: bool = False,
) -> int:
    """Make a key of an environment. Its secret is shown now and never again.

    Parameters
    ----------
    name: What it is for, to tell it apart in the list.
    """
    made = asyncio.run(with_engine(lambda engine: keys.create_key(engine, environment, name or "unnamed")))
    if json:
        print_json({"id": made.id, "environment": environment, "secret": made.secret})
    else:
        out.print(made.secret, markup=False)
        err.print(
            f"Key {made.id} of environment {environment}. Keep it now: it is stored hashed and can't be shown again."
        )
    return OK


@keys_app.command(name="list")
def list_(*, json: bool = False) -> int:
    """List all keys, the revoked ones too; of a secret only the end is known."""
    found = asyncio.run(with_engine(keys.list_keys))
    if json:
        print_json(found)
    else:
        print_table(
            ["id", "environment", "name", "ends in", "created", "revoked"],
            [
                [key.id, key.environment, key.name, key.hint, _day(key.created_at), _day(key.revoked_at)]
                for key in found
            ],
        )
    return OK


@keys_app.command
def revoke(key_id: int, /, *, json: bool = False) -> int:
    """Revoke a key. It is refused within a second.

    Parameters
    ----------
    key_id: Its number in the list.
    """
    if not asyncio.run(with_engine(lambda engine: keys.revoke_key(engine, key_id))):
        raise CommandError(f"There is no live key {key_id}; `headrace keys list` shows them.", NOT_FOUND)
    if json:
        print_json({"id": key_id, "revoked": True})
    else:
        out.print(f"Key {key_id} is revoked.")
    return OK


async def with_engine(work: Callable[[Engine], Awaitable[T]]) -> T:
    """What ``work`` gives on an engine of this process's settings."""
    engine = await Engine.open(Settings.from_environment())
    try:
        return await work(engine)
    finally:
        await engine.close()


def _day(moment: Any) -> str | None:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else None
