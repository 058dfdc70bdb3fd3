"""``headrace queue``: list queues, look at one, pause and resume it, and set a limit over the one that its code declares."""

from __future__ import annotations

from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from headrace.cli.connection import open_client, told_when_missing
from headrace.cli.options import ApiKey, ApiUrl, Json
from headrace.cli.outcome import OK, USAGE, CommandError
from headrace.cli.output import out, print_fields, print_json, print_table
from headrace.items import spell_duration
from headrace.queues import TASK_PREFIX

queue_app: Final = App(name="queue", help="List, pause and limit queues.")

Name = Annotated[
    str, Parameter(help="The queue; task/ID is the one that a task has of its own", env_var="HEADRACE_QUEUE")
]


@queue_app.command(name="list")
def list_(
    *,
    page: Annotated[int, Parameter(help="Which page, from 1", env_var="HEADRACE_QUEUE_PAGE")] = 1,
    limit: Annotated[int, Parameter(help="Queues a page, 1 to 100", env_var="HEADRACE_QUEUE_LIMIT")] = 25,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """List queues by name, with what executes and what is ready."""
    with open_client(api_url, api_key) as client:
        found = client.list_queues(page=page, per_page=limit)
    if json:
        print_json(found)
        return OK
    print_table(
        ["queue", "limit", "running", "queued", "state"],
        [
            [_full_name(queue), _spell_limit(queue), queue["running"], queue["queued"], _spell_state(queue)]
            for queue in found["data"]
        ],
    )
    if page < found["pagination"]["totalPages"]:
        print_fields({"more": f"--page {page + 1}"})
    return OK


@queue_app.command
def show(name: Name, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Show a queue: its limits, what executes and what is ready."""
    with open_client(api_url, api_key) as client, told_when_missing(f"queue {name}"):
        queue = client.retrieve_queue(name)
    if json:
        print_json(queue)
        return OK
    rate = queue["rateLimit"]
    print_fields(
        {
            "queue": _full_name(queue),
            "id": queue["id"],
            "state": _spell_state(queue),
            "running": queue["running"],
            "queued": queue["queued"],
            "limit": _spell_limit(queue),
            "declared limit": queue["concurrency"]["base"],
            "limit set": queue["concurrency"]["overriddenAt"],
            "limit a key": queue["keyLimit"],
            "rate": rate and f"{rate['limit']} in {spell_duration(rate['period'])}{' a key' if rate['perKey'] else ''}",
            "waiting runs": None if queue["releaseConcurrencyOnWaitpoint"] else "keep their slots",
        }
    )
    return OK


@queue_app.command
def pause(name: Name, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Pause a queue: nothing of it starts until it is resumed. What executes goes on."""
    with open_client(api_url, api_key) as client, told_when_missing(f"queue {name}"):
        queue = client.pause_queue(name)
    return _tell(queue, f"Queue {name} is paused; {queue['running']} of its runs execute still.", json=json)


@queue_app.command
def resume(name: Name, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Let a paused queue go on."""
    with open_client(api_url, api_key) as client, told_when_missing(f"queue {name}"):
        queue = client.resume_queue(name)
    return _tell(queue, f"Queue {name} goes on; {queue['queued']} runs are ready.", json=json)


@queue_app.command
def limit(
    name: Name,
    limit: Annotated[
        str,
        Parameter(
            help="Runs at once, such as 5 (0: none), or 50% of the environment's limit", env_var="HEADRACE_QUEUE_TO"
        ),
    ],
    /,
    *,
    json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Set how many runs of a queue may execute at once, over what its code declares, until it is reset."""
    number, percent = _read_limit(limit)
    with open_client(api_url, api_key) as client, told_when_missing(f"queue {name}"):
        queue = client.limit_queue(name, number, percent=percent)
    return _tell(queue, f"Queue {name} may execute {_spell_limit(queue)} at once.", json=json)


@queue_app.command
def reset(name: Name, /, *, json: Json = False, api_url: ApiUrl = None, api_key: ApiKey = None) -> int:
    """Let the limit that a queue's code declares hold again."""
    with open_client(api_url, api_key) as client, told_when_missing(f"queue {name}"):
        queue = client.reset_queue(name)
    return _tell(queue, f"Queue {name} may execute {_spell_limit(queue)} at once.", json=json)


def _tell(queue: dict[str, Any], text: str, *, json: bool) -> int:
    if json:
        print_json(queue)
    else:
        out.print(text, markup=False)
    return OK


def _read_limit(text: str) -> tuple[int | None, float | None]:
    try:
        return (None, float(text.removesuffix("%"))) if text.endswith("%") else (int(text), None)
    except ValueError:
        raise CommandError(
            f"The limit is a number of runs, or a percentage such as 50%, but not {text!r}.", USAGE
        ) from None


def _full_name(queue: dict[str, Any]) -> str:
    return TASK_PREFIX + queue["name"] if queue["type"] == "task" else queue["name"]


def _spell_limit(queue: dict[str, Any]) -> str:
    current = queue["concurrencyLimit"]
    return "any number" if current is None else str(current)


def _spell_state(queue: dict[str, Any]) -> str:
    if queue["paused"]:
        return "paused"
    if away := queue.get("waitsForStores"):
        return f"waits for store {', '.join(away)}, which does not answer"
    return "limit set over the declared one" if queue["concurrency"]["override"] is not None else "open"
