"""``headrace keys``: API keys, shown once, stored hashed. Talks to the database itself: the first key comes from here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from cyclopts import App, Parameter

from headrace.cli.connection import use_engine
from headrace.cli.options import DatabaseUrl, Json
from headrace.cli.outcome import NOT_FOUND, CommandError
from headrace.cli.output import err, out, print_json, print_table
from headrace.engine import keys

keys_app: Final = App(name="keys", help="Create, list and revoke API keys.")


@keys_app.command
def create(
    name: Annotated[
        str, Parameter(help="What it is for, to tell it apart in the list", env_var="HEADRACE_KEY_NAME")
    ] = "",
    /,
    *,
    environment: Annotated[str, Parameter(help="dev, staging or prod")] = "dev",
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Make a key of an environment. Its secret is shown now and never again."""
    made = use_engine(database_url, lambda engine: keys.create_key(engine, environment, name or "unnamed"))
    if json:
        print_json({"id": made.id, "environment": environment, "secret": made.secret})
        return
    out.print(made.secret, markup=False)
    err.print(
        f"This is key {made.id} of environment {environment}. Keep it now: only its hash is stored.", markup=False
    )


@keys_app.command(name="list")
def list_(*, database_url: DatabaseUrl = None, json: Json = False) -> None:
    """List all keys, the revoked ones too. Of a secret only the end is known."""
    found = use_engine(database_url, keys.list_keys)
    if json:
        print_json(
            [
                {
                    "id": key.id,
                    "environment": key.environment,
                    "name": key.name,
                    "endsIn": key.hint,
                    "createdAt": key.created_at,
                    "revokedAt": key.revoked_at,
                }
                for key in found
            ]
        )
        return
    print_table(
        ["id", "environment", "name", "ends in", "created", "revoked"],
        [[key.id, key.environment, key.name, key.hint, _day(key.created_at), _day(key.revoked_at)] for key in found],
    )


@keys_app.command
def revoke(
    key_id: Annotated[int, Parameter(help="Its number in the list", env_var="HEADRACE_KEY_ID")],
    /,
    *,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Revoke a key. It is refused within a second."""
    if not use_engine(database_url, lambda engine: keys.revoke_key(engine, key_id)):
        raise CommandError(f"There is no live key {key_id}. `headrace keys list` shows all of them.", NOT_FOUND)
    if json:
        print_json({"id": key_id, "revoked": True})
    else:
        out.print(f"Key {key_id} is revoked.")


def _day(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else None
