"""What a worker tells: spans that continue the trigger's trace, lines of log that name their run, figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from headrace import metrics
from headrace.engine import runs
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet, RunCreated
from headrace.ids import format_run_id
from headrace.protocol.options import RunOptions
from headrace.settings import Settings
from tests.processes import find_port
from tests.worker import jobs
from tests.worker.helpers import await_end, execute, until, worker_process, working

pytestmark = pytest.mark.anyio

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


async def trace_run(engine: Engine, settings: Settings, folder: Path, task: str) -> dict[str, Any]:
    """The spans of a run that was triggered within a trace, by name."""
    file = folder / "spans"
    file.touch()
    target = str(Path(__file__).with_name("traced_jobs.py"))
    async with worker_process(settings, target, SPANS_FILE=str(file)):
        made = await runs.trigger_run(engine, 1, task, Packet(None), RunOptions(), traceparent=TRACEPARENT)
        assert isinstance(made, RunCreated)
        run = await await_end(engine, made.run_id)
        await until(lambda: f"{task} process" in file.read_text(), "the run's span has ended")
    spans = {span["name"]: span for span in map(json.loads, file.read_text().splitlines())}
    assert {span["context"]["trace_id"] for span in spans.values()} == {"0x" + TRACE_ID}
    top = spans[f"{task} process"]
    assert top["parent_id"] == "0x00f067aa0ba902b7"
    assert top["kind"] == "SpanKind.CONSUMER"
    assert top["attributes"]["messaging.message.id"] == format_run_id(run.id)
    assert top["attributes"]["headrace.attempt"] == 1
    return spans


@pytest.mark.parametrize("task", ["traced.coroutine", "traced.function"])
async def test_a_runs_span_continues_the_trace_of_its_trigger(
    engine: Engine, settings: Settings, tmp_path: Path, task: str
) -> None:
    spans = await trace_run(engine, settings, tmp_path, task)
    assert spans["work"]["parent_id"] == spans[f"{task} process"]["context"]["span_id"]


async def test_the_trace_goes_on_into_a_runs_own_process(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    spans = await trace_run(engine, settings, tmp_path, "traced.process")
    within = spans["traced.process execute"]
    assert within["parent_id"] == spans["traced.process process"]["context"]["span_id"]
    assert spans["work"]["parent_id"] == within["context"]["span_id"]


async def test_the_span_of_a_failed_run_says_so(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    spans = await trace_run(engine, settings, tmp_path, "traced.failure")
    top = spans["traced.failure process"]
    assert top["status"] == {"status_code": "ERROR", "description": "ValueError: no such thing"}
    assert [event["attributes"]["exception.type"] for event in top["events"]] == ["ValueError"]


WITHOUT_OTEL = """
import sys
sys.modules["opentelemetry"] = None
sys.modules["opentelemetry.trace"] = None
from headrace import telemetry
assert not telemetry.is_tracing()
assert telemetry.current_traceparent() is None
headers = {}
telemetry.inject_headers(headers)
assert headers == {}
with telemetry.start_span("x", kind="consumer", traceparent="00-a-b-01", attributes={"a": 1}) as span:
    span.set("a", 1)
    span.fail("ValueError", "no")
print("fine")
"""


def test_without_the_package_nothing_is_traced_and_nothing_breaks() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_OTEL], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


async def test_lines_of_log_of_a_task_name_its_run(engine: Engine, settings: Settings) -> None:
    async with worker_process(settings) as worker:
        run = await execute(engine, jobs.log, "out of stock")
        [line] = worker.logged("out of stock")
        assert (line["run"], line["task"], line["attempt"]) == (format_run_id(run.id), "w.log", 1)
        assert (line["level"], line["logger"]) == ("warning", "shop")
        failed = await execute(engine, jobs.raise_named, "ValueError")
        [line] = worker.logged("run failed")
        assert (line["run"], line["error"], line["message"]) == (
            format_run_id(failed.id),
            "ValueError",
            "no such thing",
        )


def read_metric(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def test_claims_run_seconds_and_retries_are_counted(engine: Engine) -> None:
    names: list[tuple[str, dict[str, str]]] = [
        ("headrace_claims_total", {}),
        ("headrace_run_seconds_count", {"task": "w.fail", "status": "COMPLETED"}),
        ("headrace_run_seconds_count", {"task": "w.fail", "status": "FAILED"}),
        ("headrace_retries_total", {"task": "w.fail"}),
    ]
    before = [read_metric(name, **labels) for name, labels in names]
    async with working(engine, jobs.fail) as worker:
        await execute(engine, jobs.fail, 3)
        await until(lambda: worker.status.unwritten == 0, "all is counted")
    after = [read_metric(name, **labels) for name, labels in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 1, 2, 2]


async def test_a_worker_answers_prometheus_where_it_is_told_to(engine: Engine, settings: Settings) -> None:
    port = find_port()
    async with worker_process(settings, HEADRACE_METRICS_PORT=str(port)):
        await execute(engine, jobs.add, {"x": 1})
        async with httpx2.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    assert 'headrace_run_seconds_count{status="COMPLETED",task="w.add"} 1.0' in text
    assert "headrace_claims_total 1.0" in text
    assert "headrace_executing_runs 0.0" in text
