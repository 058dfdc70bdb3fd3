"""What the Helm chart starts, as processes on this machine: the rendered commands and variables, asked what Kubernetes asks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import execute_sql
from tests.processes import find_port

from headrace.cli.outcome import OK

helm = pytest.importorskip("helm_python", reason="Helm as a library is installed by `make test`")
yaml = pytest.importorskip("yaml", reason="installed by `make test`")

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 60.0


def render(port: int, metrics_port: int) -> dict[str, dict[str, Any]]:
    """The pods' specs by what they are."""
    values = {
        "image": {"repository": "example/shop", "tag": "1.2"},
        "database": {"existingSecret": "headrace"},
        "payloadStore": "s3://bucket/payloads",
        "server": {"port": port},
        "metrics": {"workerPort": metrics_port},
        "workers": [{"name": "all", "tasks": str(ROOT / "examples" / "quickstart" / "tasks.py"), "environment": "dev"}],
    }
    with helm.Chart.load(str(ROOT / "deploy" / "helm" / "headrace")) as chart:
        texts = chart.render(values, name="demo", namespace="jobs")
    found = [one for name, text in texts.items() if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    return {
        one["metadata"]["name"].removeprefix("demo-headrace-"): one["spec"]["template"]["spec"]
        for one in found
        if one["kind"] in {"Deployment", "Job"}
    }


@contextmanager
def running(pod: dict[str, Any], database_url: str, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """The container of a pod as a process, in a folder that it can't write to."""
    [container] = pod["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]} | {"HEADRACE_DATABASE_URL": database_url}
    others = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environment = others | {name: value for name, value in told.items() if value is not None}
    command = [sys.executable, "-m", "headrace", *container["args"]]
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def probe(pod: dict[str, Any], kind: str) -> int:
    """What the kubelet would get."""
    [container] = pod["containers"]
    asked = container[kind]["httpGet"]
    [port] = [one["containerPort"] for one in container["ports"] if one["name"] == asked["port"]]
    return httpx2.get(f"http://127.0.0.1:{port}{asked['path']}", timeout=container[kind]["timeoutSeconds"]).status_code


def await_probe(pod: dict[str, Any], kind: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, "the process of a pod has ended"
        try:
            if probe(pod, kind) == 200:
                return
        except httpx2.HTTPError:
            pass
        assert time.monotonic() < deadline, f"{kind} is not answered"
        time.sleep(0.1)


def test_what_the_chart_starts_is_ready_alive_and_ends_when_it_is_told(database_url, tmp_path):
    pods = render(find_port(), find_port())
    folder = tmp_path / "root"
    folder.mkdir()
    with ExitStack() as stack:
        migration = stack.enter_context(running(pods["migrate"], database_url, folder))
        assert migration.wait(PATIENCE) == OK
        server = stack.enter_context(running(pods["server"], database_url, folder))
        worker = stack.enter_context(running(pods["worker-all"], database_url, folder))
        await_probe(pods["server"], "readinessProbe", server)
        await_probe(pods["server"], "livenessProbe", server)
        await_probe(pods["worker-all"], "livenessProbe", worker)
        assert list(folder.iterdir()) == []
        for process in (server, worker):
            process.send_signal(signal.SIGTERM)
        assert [server.wait(PATIENCE), worker.wait(PATIENCE)] == [OK, OK]


def test_a_server_without_a_database_is_alive_and_not_ready(postgres, database_url, tmp_path):
    """So Kubernetes takes it out of the Service, and does not restart it."""
    name = database_url.split("?")[0].rsplit("/", 1)[1]
    pods = render(find_port(), find_port())
    with running(pods["server"], database_url, tmp_path) as server:
        await_probe(pods["server"], "readinessProbe", server)
        execute_sql(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        execute_sql(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        assert probe(pods["server"], "readinessProbe") >= 500
        assert probe(pods["server"], "livenessProbe") == 200
        execute_sql(postgres, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await_probe(pods["server"], "readinessProbe", server)
