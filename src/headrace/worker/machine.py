"""What a worker process has once, for the runs of all stores: slots, threads, child processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from headrace.settings import Settings
from headrace.worker.processes import ProcessPool
from headrace.worker.slots import Slots


class Machine:
    """The means of one worker process."""

    def __init__(self, settings: Settings) -> None:
        self.slots = Slots(settings.concurrency)
        self.threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="headrace-run")
        self.processes = ProcessPool(settings)

    async def close(self) -> None:
        """Ends the child processes, and waits for no thread."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        await self.processes.close()
