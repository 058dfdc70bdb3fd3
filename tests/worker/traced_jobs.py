"""Tasks of a program that has set up OpenTelemetry: each span that ends is a line in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from headrace.tasks import Retry, task


class FileExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with Path(os.environ["SPANS_FILE"]).open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(json.loads(span.to_json(indent=None))) + "\n" for span in spans)
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
trace.set_tracer_provider(provider)


def work() -> None:
    with trace.get_tracer("shop").start_as_current_span("work"):
        pass


@task(id="traced.coroutine")
async def traced_coroutine() -> None:
    work()


@task(id="traced.function")
def traced_function() -> None:
    work()


@task(id="traced.process", isolation="process")
def traced_process() -> None:
    work()


@task(id="traced.failure", retry=Retry(max_attempts=1))
async def traced_failure() -> None:
    raise ValueError("no such thing")
