"""The commands put together, and the one place where what they raise becomes a sentence and an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from cyclopts import App, CycloptsError
from cyclopts.config import Env

from headrace.cli import bench, demo, dev, doctor, keys, migrate, processes
from headrace.cli.batch import batch_app
from headrace.cli.outcome import INTERRUPTED, OK, UNREACHABLE, USAGE, CommandError
from headrace.cli.output import err
from headrace.cli.run import run_app
from headrace.errors import (
    ApiError,
    BatchTriggerError,
    ClientError,
    ConfigurationError,
    ConnectionFailedError,
    HeadraceError,
)
from headrace.settings import PREFIX

app: Final = App(
    name="headrace",
    help="Durable background runs for Python that need PostgreSQL and nothing else. Every option has a twin in the "
    "environment: --port is HEADRACE_PORT.",
    version=version("headrace"),
    config=Env(PREFIX, command=False),
    help_format="plaintext",
)
app.command(dev.dev)
app.command(processes.server)
app.command(processes.worker)
app.command(migrate.migrate)
app.command(keys.keys_app)
app.command(batch_app)
app.command(run_app)
app.command(demo.demo)
app.command(bench.bench)
app.command(doctor.doctor)


def run_command(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code; see ``headrace.cli.outcome``."""
    try:
        result = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _fail(f"{error} (`headrace --help` lists commands and options)", USAGE)
    except CommandError as error:
        return _fail(str(error), error.code)
    except (ConfigurationError, ConnectionFailedError) as error:
        return _fail(str(error), UNREACHABLE)
    except ApiError as error:
        return _fail(_explain_status(error), UNREACHABLE if error.status in {401, 403} else 1)
    except BatchTriggerError as error:
        return _fail(f"{error}{f' (batch {error.batch_id})' if error.batch_id else ''}", 1)
    except (ClientError, HeadraceError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else OK


def _explain_status(error: ApiError) -> str:
    if error.status == 401:
        return f"The server refused the key ({error.message}). Set HEADRACE_API_KEY; `headrace keys create` makes one."
    return str(error)


def _fail(message: str, code: int) -> int:
    err.print(f"error: {message}", markup=False)
    return code
