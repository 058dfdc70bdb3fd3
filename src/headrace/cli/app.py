"""The commands put together, and the one place where what they raise becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

import msgspec
from cyclopts import App, CycloptsError
from cyclopts.config import Env

from headrace.cli.outcome import FAILED, INTERRUPTED, NOT_FOUND, OK, UNREACHABLE, USAGE, CommandError
from headrace.cli.output import err
from headrace.errors import (
    ApiError,
    BatchTriggerError,
    ConfigurationError,
    ConnectionFailedError,
    HeadraceError,
)
from headrace.settings import PREFIX
from headrace.store.store import DATABASE_ERRORS

_REFUSED: Final = frozenset({401, 403})
_CODES: Final = {400: USAGE, 404: NOT_FOUND, 422: USAGE}


class _Detail(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    details: list[_Detail]


app: Final = App(
    name="headrace",
    help="Durable background runs for Python that need PostgreSQL and nothing else. Every option has a twin in the "
    "environment: --port is HEADRACE_PORT.",
    help_epilogue="Exit codes: 0 it worked, 1 the work failed, 2 wrong usage, 3 configuration or nothing could be reached, "
    "4 not found, 130 interrupted.",
    version=version("headrace"),
    config=Env(PREFIX, command=False),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
# Named, not imported: a command loads what it needs and nothing of the others, so that each starts quickly.
_COMMANDS: Final = {
    "dev": ("headrace.cli.dev:dev", "Run everything on this machine: PostgreSQL, API server and worker."),
    "server": ("headrace.cli.processes:server", "Serve the HTTP API."),
    "worker": ("headrace.cli.processes:worker", "Execute runs of the tasks in a file or module."),
    "migrate": ("headrace.cli.migrate:migrate", "Apply the migrations that the database lacks."),
    "batch": ("headrace.cli.batch:batch_app", "Stream items as a batch; look at batches."),
    "run": ("headrace.cli.run:run_app", "Look at runs."),
    "bulk": ("headrace.cli.bulk:bulk_app", "Cancel or replay many runs in the background."),
    "token": ("headrace.cli.token:token_app", "List, create and complete tokens that runs wait for."),
    "schedule": ("headrace.cli.schedule:schedule_app", "Say what runs by itself, and when."),
    "keys": ("headrace.cli.keys:keys_app", "Create, list and revoke API keys."),
    "queue": ("headrace.cli.queue:queue_app", "List, pause and limit queues."),
    "version": ("headrace.cli.version:version_app", "List and promote the versions of the code that workers brought."),
    "environment": ("headrace.cli.environment:environment_app", "List, pause and limit environments."),
    "stores": ("headrace.cli.stores:stores_app", "List, add, drain and remove the databases that runs live in."),
    "import": ("headrace.cli.imports:import_", "Import runs of another installation that have ended."),
    "bench": ("headrace.cli.bench:bench", "Measure headrace on this machine."),
    "demo": ("headrace.cli.demo:demo", "Count what is in Python's standard library, one run a file."),
    "doctor": ("headrace.cli.doctor:doctor", "Look at this installation and say what is wrong with it."),
}
for _name, (_where, _help) in _COMMANDS.items():
    app.command(_where, name=_name, help=_help, sort_key=list(_COMMANDS).index(_name))


def run_command(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code; see ``headrace.cli.outcome``.

    What is expected to go wrong becomes a sentence on stderr. Anything else is a fault of ours and keeps its traceback.
    """
    try:
        result: object = app(
            list(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        return _fail(
            f"{str(error).strip()}\n`headrace --help` lists the commands, `headrace COMMAND --help` its options.", USAGE
        )
    except CommandError as error:
        return _fail(str(error), error.code)
    except (ConfigurationError, ConnectionFailedError) as error:
        return _fail(str(error), UNREACHABLE)
    except ApiError as error:
        return _fail(*_explain_status(error))
    except BatchTriggerError as error:
        code = UNREACHABLE if error.status in _REFUSED or isinstance(error.__cause__, ConnectionFailedError) else FAILED
        return _fail(f"{error}{f' (batch {error.batch_id})' if error.batch_id else ''}", code)
    except HeadraceError as error:
        return _fail(str(error), FAILED)
    except DATABASE_ERRORS as error:
        return _explain_broken_pipe(error)
    except KeyboardInterrupt:
        err.print("interrupted")
        return INTERRUPTED
    return result if isinstance(result, int) else OK


def _explain_status(error: ApiError) -> tuple[str, int]:
    if error.status in _REFUSED:
        advice = "Set HEADRACE_API_KEY or give --api-key; `headrace keys create` makes a key."
        return f"The server refused the key ({error.message}). {advice}", UNREACHABLE
    told = f"The server answered {error.status}: {error.message}{_read_details(error.body)}"
    return told, _CODES.get(error.status, FAILED)


def _read_details(body: object) -> str:
    """What the server says of each field that it did not take."""
    try:
        details = msgspec.convert(body, _Refusal).details
    except msgspec.ValidationError:
        return ""
    return "".join(f"\n{detail.message}" for detail in details if detail.message)


def _explain_broken_pipe(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        # whoever read our output has had enough: nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return _fail(
        f"The database or the network broke off: {error or type(error).__name__}. Try again, or see `headrace doctor`.",
        UNREACHABLE,
    )


def _fail(message: str, code: int) -> int:
    err.print(f"error: {message}", markup=False)
    return code
