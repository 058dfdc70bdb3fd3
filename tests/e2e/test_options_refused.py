"""Options that are wrong: refused by each way, in words that say which one, what was given, what is allowed; nothing is left."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from tests.e2e.test_options_everywhere import SHARED, WAYS, Asker, Option, RefusedError, Way, asker
from tests.invariants import fetch_sql

from headrace import ApiError, BatchTriggerError, ConfigurationError, Debounce, PayloadError
from headrace.settings import Settings

__all__ = ["asker"]

pytestmark = pytest.mark.anyio

LEFT: Final = """
SELECT 'a run' AS what FROM headrace.runs AS r JOIN headrace.lanes AS l ON l.id = r.lane_id
    WHERE l.task ~ '^(t|d[.].*)$' AND convert_from(r.payload, 'UTF8') <> '"first"'
UNION ALL SELECT 'a schedule' FROM headrace.schedules
UNION ALL SELECT 'a declaration' FROM headrace.declarations
UNION ALL SELECT 'a key' FROM headrace.idempotency_keys WHERE scope ~ '^(task|debounce):'
UNION ALL SELECT 'a sealed batch' FROM headrace.batches WHERE sealed_at IS NOT NULL
"""


@dataclass(frozen=True)
class Wrong:
    """A value that an option can't have, and what has to stand in the refusal: the option, the value, what is allowed."""

    option: Option
    which: str
    given: str
    allowed: str


def wrong(
    name: str,
    value: Any,
    wire: dict[str, Any],
    which: str,
    given: str,
    allowed: str,
    cli: Sequence[str] = (),
    **more: Any,
) -> Wrong:
    option = Option(name, value, wire, tuple(cli), lambda _: False, **more)
    return Wrong(option, which, given, allowed)


LARGE: Final = {"a": "x" * 2000}
ELEVEN: Final = [f"t{number}" for number in range(11)]

WRONG: Final = [
    wrong("delay", "soon", {"delay": "soon"}, "delay", "soon", "duration", ("--delay", "soon")),
    wrong("delay", "9999999d", {"delay": "9999999d"}, "delay", "", "date", ("--delay", "9999999d")),
    wrong("ttl", "soon", {"ttl": "soon"}, "ttl", "soon", "duration", ("--ttl", "soon")),
    wrong("ttl", "9999999d", {"ttl": "9999999d"}, "ttl", "", "36500 days", ("--ttl", "9999999d")),
    wrong("queue", "a\n", {"queue": {"name": "a\n"}}, "queue", r"a\\n", "printable", ("--queue", "a\n")),
    wrong("priority", 1e12, {"priority": 1e12}, "priority", r"1000000000000|1e\+?12", "2147483", ("--priority", "1e12")),
    wrong("concurrency_key", "k" * 513, {"concurrencyKey": "k" * 513}, "concurrencyKey", "", "512", ("--concurrency-key", "k" * 513)),
    wrong("order_key", "k" * 513, {"orderKey": "k" * 513}, "orderKey", "", "512", ("--order-key", "k" * 513)),
    wrong("order_key", "k", {"orderKey": "k", "concurrencyKey": "c"}, "concurrencyKey or an orderKey", "both were given", "one run of the key", ("--order-key", "k", "--concurrency-key", "c"), more={"concurrency_key": "c"}),
    wrong("tags", ELEVEN, {"tags": ELEVEN}, "tags", "11", "10", ("--tags", ",".join(ELEVEN))),
    wrong("tags", ["x" * 129], {"tags": ["x" * 129]}, "tag", "129", "128", ("--tags", "x" * 129)),
    wrong("metadata", LARGE, {"metadata": LARGE}, "metadata", "2008", "1000", ("--metadata", json.dumps(LARGE))),
    wrong("metadata", [1], {"metadata": [1]}, "metadata", "", "object", ("--metadata", "[1]")),
    wrong("max_attempts", 0, {"maxAttempts": 0}, "maxAttempts", "0", "1", ("--max-attempts", "0")),
    wrong("retry", {"factor": 0.5}, {"retry": {"factor": 0.5}}, "retry.factor", r"0\.5", "1", ("--retry", '{"factor": 0.5}'), plain={"retry": {"factor": 0.5}}),
    wrong("max_duration", -1, {"maxDuration": -1}, "max_duration|maxDuration", "-1", "0|duration", ("--max-duration=-1s",)),
    wrong("version", "a/b", {"lockToVersion": "a/b"}, "lockToVersion", "a/b", "letters, digits", ("--lock-to-version", "a/b")),
    wrong("machine", "huge", {"machine": "huge"}, "machine", "huge", "large-2x", ("--machine", "huge")),
    wrong("idempotency_key", "k" * 2049, {"idempotencyKey": "k" * 2049}, "idempotency[ _]?[kK]ey", "", "2048", ("--idempotency-key", "k" * 2049), keyed=True),
    wrong("idempotency_key_ttl", "soon", {"idempotencyKey": "k", "idempotencyKeyTTL": "soon"}, "idempotency_?[kK]ey_?(TTL|ttl)", "soon", "duration", ("--idempotency-key", "k", "--idempotency-key-ttl", "soon"), keyed=True, more={"idempotency_key": "k"}),
    wrong("idempotency_key_ttl", "9999999w", {"idempotencyKey": "k", "idempotencyKeyTTL": "9999999w"}, "idempotency_?[kK]ey_?(TTL|ttl)", "", "36500 days", ("--idempotency-key", "k", "--idempotency-key-ttl", "9999999w"), keyed=True, more={"idempotency_key": "k"}),
    wrong("debounce", Debounce("d", "soon"), {"debounce": {"key": "d", "delay": "soon"}}, "debounce", "soon", "duration", ("--debounce-key", "d", "--debounce-delay", "soon"), keyed=True, plain={"debounce": {"key": "d", "delay": "soon"}}),
    wrong("debounce", Debounce("d", "5s", max_delay="5s"), {"debounce": {"key": "d", "delay": "5s", "maxDelay": "5s"}}, "debounce.maxDelay", "5s", "more than", ("--debounce-key", "d", "--debounce-delay", "5s", "--debounce-max-delay", "5s"), keyed=True, plain={"debounce": {"key": "d", "delay": "5s", "maxDelay": "5s"}}),
    wrong("debounce", Debounce("d" * 513, "5s"), {"debounce": {"key": "d" * 513, "delay": "5s"}}, "debounce.key", "", "512", ("--debounce-key", "d" * 513, "--debounce-delay", "5s"), keyed=True, plain={"debounce": {"key": "d" * 513, "delay": "5s"}}),
    wrong("order_key", "a\0", {"orderKey": "a\0"}, "", "", "NUL", ()),
]  # fmt: skip


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HEADRACE_METADATA_MAX_SIZE", "1000")  # of clients that trigger with no server between
    return replace(settings, metadata_max_size=1000)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_wrong_option_is_told_and_leaves_nothing(asker: Asker, way: Way) -> None:
    faults: list[str] = []
    is_command = way.__name__.startswith("command")
    for one in WRONG:
        option = one.option
        if option.keyed and way in SHARED:
            continue
        if is_command and not option.cli:
            continue
        try:
            await way(asker, option)
        except (RefusedError, ConfigurationError, PayloadError, ApiError, BatchTriggerError) as error:
            told = " ".join(str(error).split())
            wanted = (one.which, one.given, one.allowed)
            missing = [text for text in wanted if not re.search(text, told)]
            if missing:
                faults.append(f"{option.name}: {missing} not in {told[:300]!r}")
        except Exception as error:  # noqa: BLE001 - which options are refused in another way is what is asked
            faults.append(f"{option.name}={str(option.value)[:20]}: {type(error).__name__}: {str(error)[:300]}")
        else:
            faults.append(f"{option.name}={str(option.value)[:20]}: taken")
    left = await fetch_sql(asker.engine, LEFT)
    assert faults == []
    assert [row["what"] for row in left] == []
