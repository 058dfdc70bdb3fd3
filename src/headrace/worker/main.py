"""A worker process: loads tasks, opens the engine, works, sweeps beside it, minds signals, answers Prometheus.

It works for every store, and sweeps each of them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from prometheus_client import start_http_server

from headrace import metrics
from headrace.engine.dev_sessions import beat_session
from headrace.engine.engine import Engine
from headrace.engine.everywhere import do_everywhere
from headrace.engine.sweeps import run_sweeps
from headrace.errors import ConfigurationError
from headrace.logs import add_context, get_logger, set_up_logs
from headrace.settings import Settings
from headrace.tasks import Task
from headrace.worker.calls import log_context
from headrace.worker.loading import load_tasks
from headrace.worker.worker import Worker

EXIT_DRAINED: Final = 0
EXIT_FAILED: Final = 1
EXIT_CUT_OFF: Final = 3
"""Some runs had to be cut off and were given back."""

_SWEEP_SECONDS: Final = 5.0

_log = get_logger("headrace.worker")


def run_worker(
    settings: Settings,
    target: str,
    *,
    queues: Sequence[str] | None = None,
    announce: Callable[[], object] | None = None,
) -> int:
    """Works until SIGTERM or SIGINT, then drains; a second signal ends it at once. Returns the process's exit code.

    ``target`` is a file (``tasks.py``), a module, or ``module:name``. ``announce`` is called once it claims. The code is 0
    where everything ended and 3 where runs were cut off and given back. Raises ConfigurationError where target,
    settings or database don't serve.

    Where it is not 0 the process ends here, with ``os._exit``: the code of a run that was cut off may be such that it can't
    be stopped, as that of a thread can't, and would be waited for for ever.
    """
    set_up_logs(settings)
    add_context(log_context)
    tasks = load_tasks(target)
    if not tasks:
        raise ConfigurationError(f"{target!r} holds no task.")
    return _run_loop(lambda: _work(settings, tasks, queues, announce))


def _run_loop(work: Callable[[], Any]) -> int:
    """Runs ``work()`` to its end, on uvloop where there is one.

    A SystemExit or KeyboardInterrupt that a task's own asyncio task raises comes out of the loop, whatever else is
    running on it. It has failed its run; the loop goes on.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        loop = runner.get_loop()
        main = loop.create_task(work())
        while True:
            try:
                code = loop.run_until_complete(main)
            except (SystemExit, KeyboardInterrupt) as error:
                if main.done():
                    raise
                _log.error("a task tried to end this process; only its run ends", error=repr(error))
            except ConfigurationError:  # before anything ran
                raise
            except Exception:  # noqa: BLE001 - logged, and the process ends
                _log.exception("the worker failed")
                _end_process(EXIT_FAILED)
            else:
                if code != EXIT_DRAINED:
                    _end_process(code)
                return code


def _end_process(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every system
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _work(
    settings: Settings,
    tasks: Mapping[str, Task[Any, Any]],
    queues: Sequence[str] | None,
    announce: Callable[[], object] | None,
) -> int:
    engine = await Engine.open(settings, listen=True)
    stop_sweeps = asyncio.Event()
    try:
        worker = Worker(engine, tasks.values(), queues=queues)
        _mind_signals(worker)
        _serve_metrics(settings)
        gc.freeze()  # what is there now stays: the collector need not look at it again
        every = sweep_seconds(settings)
        sweeping = do_everywhere(engine, lambda one: run_sweeps(one, stop_sweeps, interval=every), pause=every)
        beside = [asyncio.create_task(sweeping)]
        if settings.dev_session:
            beside.append(asyncio.create_task(do_everywhere(engine, beat_session)))
        if announce:
            beside.append(asyncio.create_task(_announce(worker, announce)))
        try:
            drained = await worker.run()
        finally:
            stop_sweeps.set()
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
    finally:
        await engine.close()
    return EXIT_DRAINED if drained else EXIT_CUT_OFF


def sweep_seconds(settings: Settings) -> float:
    """How often a worker looks at deadlines: rarely, beside a server that does, yet well within a lease."""
    return max(settings.sweep_interval, min(_SWEEP_SECONDS, settings.lease / 4))


async def _announce(worker: Worker, announce: Callable[[], object]) -> None:
    await worker.ready.wait()
    announce()


def _mind_signals(worker: Worker) -> None:
    def take(number: signal.Signals) -> None:
        if worker.stopping:
            _log.warning("told to stop again: ending now", signal=number.name)
            worker.force()
        else:
            _log.info("told to stop: draining; a second signal ends it at once", signal=number.name)
            worker.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, take, number)


def _serve_metrics(settings: Settings) -> None:
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host, registry=metrics.REGISTRY)
