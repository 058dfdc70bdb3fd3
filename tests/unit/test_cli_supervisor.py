"""Children of `headrace dev`: started again when they die, later each time, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.processes import wait_until

from headrace.cli.supervisor import FIRST_DELAY, LONGEST_DELAY, STEADY, Child


def make_dead_child() -> Child:
    child = Child("worker", ["--version"], dict(os.environ))
    child.start()
    assert child.process is not None
    child.process.wait(30)
    return child


def test_a_child_that_died_is_announced_once_and_started_again_after_the_delay():
    child = make_dead_child()
    first = child.process
    now = time.monotonic()
    said = child.look_after(now)
    assert said is not None
    assert "the worker ended with exit code 0" in said
    assert "0.5 s" in said
    assert child.look_after(now + FIRST_DELAY / 2) is None
    assert child.process is first
    assert child.look_after(now + FIRST_DELAY) is None
    assert child.process is not first
    child.kill()


def test_the_delay_grows_to_its_limit_and_begins_anew_after_a_steady_life():
    child = make_dead_child()
    delays = []
    for _ in range(7):
        assert child.process is not None
        child.process.wait(30)
        now = time.monotonic()
        said = child.look_after(now)
        assert said is not None
        delays.append(float(said.rpartition(" in ")[2].removesuffix(" s")))
        child.look_after(now + LONGEST_DELAY)
    assert delays == [0.5, 1, 2, 4, 8, 10, 10]
    assert child.process is not None
    child.process.wait(30)
    said = child.look_after(time.monotonic() + STEADY + 1)
    assert said is not None
    assert said.endswith(" in 0.5 s")


def test_a_kill_is_named():
    child = Child("server", ["--version"], dict(os.environ))
    child.start()
    child.kill()
    said = child.look_after()
    assert said is not None
    assert "SIGKILL" in said or "exit code 0" in said  # it may have been quicker than the kill


def test_a_restart_forgets_the_deaths_before():
    child = make_dead_child()
    child.look_after()
    child.restart()
    assert child.process is not None
    child.process.wait(30)
    said = child.look_after()
    assert said is not None
    assert said.endswith(" in 0.5 s")


def test_a_child_whose_supervisor_was_killed_is_told_to_stop():
    grandchild = (
        "import os, signal, sys, time\n"
        "from headrace.cli.supervisor import end_with_supervisor\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('told to stop'))\n"
        "assert end_with_supervisor()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    supervisor = (
        "import os, subprocess, sys, time\n"
        "from headrace.cli.supervisor import SUPERVISOR_VARIABLE\n"
        f"environment = {{**os.environ, SUPERVISOR_VARIABLE: str(os.getpid())}}\n"
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}], env=environment)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", supervisor], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (
        process.stderr.read() == "told to stop\n"
    )  # read to the end: the grandchild holds the other end until it ends
    process.stdout.close()
    process.stderr.close()
    wait_until(lambda: not is_alive(pid), "the grandchild is gone")


def test_a_process_without_a_supervisor_watches_nobody():
    program = "from headrace.cli.supervisor import end_with_supervisor as end; raise SystemExit(int(end()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
