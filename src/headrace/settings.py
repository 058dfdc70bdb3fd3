"""Every setting of headrace: its environment variable, its default and its meaning, in one typed class.

The variable of a setting is ``HEADRACE_`` and its name in capitals: ``seal_timeout`` is ``HEADRACE_SEAL_TIMEOUT``.
Sizes are bytes, times are durations ("30m", or seconds). A value that can't work is refused when it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final, get_args, get_type_hints

from headrace.durations import parse_duration
from headrace.errors import ConfigurationError
from headrace.version_names import find_version_fault

PREFIX: Final = "HEADRACE_"

_SESSION: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a setting means, and which values it may have."""

    meaning: str
    at_least: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. ``Settings.from_environment()`` reads them; tests build them by hand."""

    database_url: Annotated[str, Setting("PostgreSQL to use; without it DATABASE_URL")] = ""
    pooler: Annotated[
        str,
        Setting(
            "what stands between headrace and PostgreSQL: none, or transaction (PgBouncer in that mode)",
            choices=("none", "transaction"),
        ),
    ] = "none"
    listen_url: Annotated[str, Setting("PostgreSQL to LISTEN on where database_url goes through a pooler")] = ""
    pool_size: Annotated[int, Setting("most connections of one process to one store", at_least=2)] = 10
    stores: Annotated[
        str,
        Setting("more databases to keep runs in, by name: s1=postgresql://...,s2=postgresql://... (headrace stores)"),
    ] = ""
    stores_listen: Annotated[
        str,
        Setting("PostgreSQL to LISTEN on for the stores that go through a pooler, by name: s1=postgresql://..."),
    ] = ""
    legacy_store: Annotated[
        str, Setting("name of the store that runs of another installation are imported to; default: home")
    ] = ""
    store_grace: Annotated[
        float,
        Setting("a store that is added takes new roots after so long, when every process knows it", at_least=0),
    ] = 10.0
    store_patience: Annotated[
        float, Setting("a store that does not answer a question to all for so long is left out", at_least=0.1)
    ] = 5.0
    api_url: Annotated[str, Setting("where clients find the server")] = "http://127.0.0.1:8030"
    api_key: Annotated[str, Setting("key that clients send; at first start the key of environment dev")] = ""
    host: Annotated[str, Setting("address that the server binds")] = "127.0.0.1"
    port: Annotated[int, Setting("port that the server binds; 0 takes a free one", at_least=0)] = 8030
    environment: Annotated[str, Setting("environment that a worker serves")] = "dev"
    payload_store: Annotated[
        str,
        Setting("where large payloads go: a folder or an s3://, gs://, az:// URL; default: a folder under data_dir"),
    ] = ""
    data_dir: Annotated[str, Setting("folder of embedded PostgreSQL and local payloads")] = ".headrace"
    offload_threshold: Annotated[int, Setting("payloads of this size and more go to the payload store", at_least=1)] = (
        512 * 1024
    )
    item_max_size: Annotated[int, Setting("longest line of an item stream, in bytes", at_least=1024)] = 3 * 1024 * 1024
    body_max_size: Annotated[int, Setting("longest body of a trigger request", at_least=1024)] = 3 * 1024 * 1024
    batch_max_items: Annotated[int, Setting("most items of one batch; 0 sets no limit", at_least=0)] = 0
    one_shot_max_items: Annotated[int, Setting("most items of a one-shot batch request", at_least=1)] = 1_000
    ingest_concurrency: Annotated[int, Setting("chunks and payload uploads in flight per stream", at_least=1)] = 10
    ingest_chunk_items: Annotated[int, Setting("items stored by one statement at most", at_least=1)] = 1_000
    ingest_chunk_bytes: Annotated[int, Setting("payload bytes stored by one statement, about", at_least=1024)] = (
        1024 * 1024
    )
    seal_timeout: Annotated[
        float, Setting("a batch that stores nothing for this long unsealed is aborted", at_least=0.1)
    ] = 1800.0
    request_key_ttl: Annotated[float, Setting("how long a repeated request is recognised", at_least=60)] = 86_400.0
    idempotency_key_ttl: Annotated[float, Setting("how long an idempotency key holds unless it says", at_least=1)] = (
        30 * 86_400.0
    )
    lease: Annotated[float, Setting("a worker silent for this long loses its runs", at_least=0.5)] = 30.0
    heartbeat: Annotated[float, Setting("how often a worker renews its lease", at_least=0.1)] = 5.0
    max_rescues: Annotated[
        int,
        Setting("how often a run is taken from a dead worker and tried again; after that it is CRASHED", at_least=0),
    ] = 5
    poll_interval: Annotated[
        float, Setting("how often an idle worker looks for runs without a hint", at_least=0.05)
    ] = 2.0
    sweep_interval: Annotated[float, Setting("how often deadlines are looked at", at_least=0.05)] = 1.0
    schedule_tolerance: Annotated[
        float,
        Setting("a tick of a schedule that is later than this was missed: its catch-up policy decides", at_least=1),
    ] = 300.0
    schedule_catch_up: Annotated[
        int,
        Setting(
            "most missed ticks of a schedule that are made up for, the latest ones, where its policy is all", at_least=1
        ),
    ] = 100
    audit_interval: Annotated[
        float,
        Setting("how often a slice of what waits is looked through for what is stuck, which is a bug", at_least=0.05),
    ] = 10.0
    concurrency: Annotated[int, Setting("runs that one worker executes at once", at_least=1)] = 100
    drain_timeout: Annotated[float, Setting("how long a worker that is told to stop lets its runs end", at_least=0)] = (
        30.0
    )
    cancel_grace: Annotated[
        float,
        Setting(
            "how long the code of a canceled run may clean up before it is ended hard, unless its task says", at_least=0
        ),
    ] = 10.0
    dev_grace: Annotated[
        float,
        Setting("how long headrace dev may be away until what it had begun is canceled", at_least=0.1),
    ] = 30.0
    dev_session: Annotated[
        str, Setting("the session of headrace dev that a process belongs to: headrace dev sets it for its own")
    ] = ""
    version: Annotated[
        str, Setting("version of the code that a worker runs; without it a hash of the source files of its tasks")
    ] = ""
    promote: Annotated[
        str,
        Setting(
            "which version takes a task's new runs: auto, the newest that a worker brought; manual, the one that was promoted",
            choices=("auto", "manual"),
        ),
    ] = "auto"
    child_version: Annotated[
        str,
        Setting(
            "which version takes children that a run waits for: parent, that of the run while it lives; current, any run's",
            choices=("parent", "current"),
        ),
    ] = "parent"
    wait_linger: Annotated[
        float,
        Setting("a run that waits for longer than this is put down: it holds no slot until it goes on", at_least=0),
    ] = 2.0
    max_depth: Annotated[int, Setting("most runs above one in its tree of parents", at_least=1)] = 64
    max_points: Annotated[int, Setting("most durable points of one run: waits, children, steps", at_least=1)] = 10_000
    metadata_max_size: Annotated[int, Setting("most bytes of the metadata of one run, as JSON", at_least=64)] = (
        256 * 1024
    )
    metrics_port: Annotated[int, Setting("port on which a worker answers Prometheus; 0 is none", at_least=0)] = 0
    log_format: Annotated[str, Setting("console or json", choices=("console", "json"))] = "console"
    log_level: Annotated[
        str, Setting("debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    ] = "info"

    def __post_init__(self) -> None:
        for name, (_, setting) in _declared().items():
            _check_value(name, setting, getattr(self, name))
        if self.dev_session and not _SESSION.fullmatch(self.dev_session):
            raise ConfigurationError(
                f"HEADRACE_DEV_SESSION is {self.dev_session!r}, but must be 32 hexadecimal digits. headrace dev sets it for its "
                "own processes; leave it out of your environment."
            )
        if self.version and (fault := find_version_fault(self.version)):
            raise ConfigurationError(f"HEADRACE_VERSION {fault}.")
        if self.heartbeat * 2 > self.lease:
            raise ConfigurationError(
                f"HEADRACE_HEARTBEAT is {self.heartbeat:g} s and HEADRACE_LEASE {self.lease:g} s: a worker must be able to "
                "miss a beat. Set the lease to at least twice the heartbeat."
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **given: object) -> Settings:
        """Settings from ``environ``; ``given`` (from the command line, None where not given) goes before it.

        Raises ConfigurationError naming the variable, what it held and what is allowed.
        """
        values: dict[str, object] = {}
        for name, (type_, _) in _declared().items():
            text = environ.get(PREFIX + name.upper())
            if text is not None:
                values[name] = _parse_value(name, type_, text)
        if not values.get("database_url"):
            values["database_url"] = environ.get("DATABASE_URL", "")
        values.update({name: value for name, value in given.items() if value is not None})
        return cls(**values)  # pyright: ignore[reportArgumentType] - each value was parsed to its field's type


@cache
def _declared() -> dict[str, tuple[type, Setting]]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: (get_args(hint)[0], get_args(hint)[1]) for name, hint in hints.items()}


def _parse_value(name: str, type_: type, text: str) -> object:
    try:
        if type_ is int:
            return int(text)
        if type_ is float:
            return parse_duration(text) if not text.replace(".", "", 1).isdigit() else float(text)
    except ValueError as error:
        raise ConfigurationError(f"{PREFIX}{name.upper()} is {text!r}: {error}") from None
    return text


def _check_value(name: str, setting: Setting, value: object) -> None:
    if setting.at_least is not None and not (isinstance(value, int | float) and value >= setting.at_least):
        raise ConfigurationError(
            f"{PREFIX}{name.upper()} is {value!r}, but must be {setting.at_least:g} or more. It means: {setting.meaning}."
        )
    if setting.choices and value not in setting.choices:
        raise ConfigurationError(
            f"{PREFIX}{name.upper()} is {value!r}, but must be one of: {', '.join(setting.choices)}."
        )
