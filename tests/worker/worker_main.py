"""A worker process for tests: says when it is ready."""

from __future__ import annotations

import os
import sys

from headrace.settings import Settings
from headrace.worker.main import run_worker

if __name__ == "__main__":
    sys.exit(run_worker(Settings.from_environment(), sys.argv[1], announce=lambda: os.write(1, b"ready\n")))
