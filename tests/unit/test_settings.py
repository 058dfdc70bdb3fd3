"""Settings: read from the environment, refused at start-up where they can't work."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from headrace.errors import ConfigurationError
from headrace.settings import Setting, Settings

NAMES = [field.name for field in fields(Settings)]


def read(environ: dict[str, str] | None = None, **given: object) -> Settings:
    return Settings.from_environment(environ or {}, **given)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read() == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_variable_and_a_meaning(name: str) -> None:
    default = getattr(Settings(), name)
    assert getattr(read({f"HEADRACE_{name.upper()}": str(default)}), name) == default
    meaning = get_args(get_type_hints(Settings, include_extras=True)[name])[1]
    assert isinstance(meaning, Setting)
    assert meaning.meaning


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("HEADRACE_PORT", "0", "port", 0),
        ("HEADRACE_SEAL_TIMEOUT", "90", "seal_timeout", 90.0),
        ("HEADRACE_SEAL_TIMEOUT", "1.5", "seal_timeout", 1.5),
        ("HEADRACE_SEAL_TIMEOUT", "1h30m", "seal_timeout", 5400.0),
        ("HEADRACE_HEARTBEAT", "250ms", "heartbeat", 0.25),
        ("HEADRACE_PAYLOAD_STORE", "s3://bucket/x", "payload_store", "s3://bucket/x"),
        ("HEADRACE_LOG_FORMAT", "json", "log_format", "json"),
        ("HEADRACE_POOLER", "transaction", "pooler", "transaction"),
    ],
)
def test_variables(variable: str, text: str, name: str, value: Any) -> None:
    assert getattr(read({variable: text}), name) == value


def test_what_is_given_goes_before_the_environment() -> None:
    environ = {"HEADRACE_PORT": "1", "HEADRACE_HOST": "::1"}
    settings = read(environ, port=2, host=None)
    assert (settings.port, settings.host) == (2, "::1")


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, ""),
        ({"DATABASE_URL": "postgresql://a"}, "postgresql://a"),
        ({"DATABASE_URL": "postgresql://a", "HEADRACE_DATABASE_URL": "postgresql://b"}, "postgresql://b"),
        ({"DATABASE_URL": "postgresql://a", "HEADRACE_DATABASE_URL": ""}, "postgresql://a"),
    ],
)
def test_database_url_stands_in(environ: dict[str, str], url: str) -> None:
    assert read(environ).database_url == url
    assert read(environ, database_url="postgresql://c").database_url == "postgresql://c"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HEADRACE_INGEST_CONCURRENCY", "0"),
        ("HEADRACE_INGEST_CONCURRENCY", "-1"),
        ("HEADRACE_INGEST_CONCURRENCY", "many"),
        ("HEADRACE_INGEST_CONCURRENCY", "1.5"),
        ("HEADRACE_INGEST_CONCURRENCY", ""),
        ("HEADRACE_CONCURRENCY", "0"),
        ("HEADRACE_POOL_SIZE", "1"),
        ("HEADRACE_ITEM_MAX_SIZE", "1023"),
        ("HEADRACE_BATCH_MAX_ITEMS", "-1"),
        ("HEADRACE_SEAL_TIMEOUT", "soon"),
        ("HEADRACE_SEAL_TIMEOUT", "-5"),
        ("HEADRACE_SEAL_TIMEOUT", "nan"),
        ("HEADRACE_SEAL_TIMEOUT", "0"),
        ("HEADRACE_LEASE", "0.1"),
        ("HEADRACE_PORT", "-1"),
        ("HEADRACE_LOG_FORMAT", "xml"),
        ("HEADRACE_LOG_LEVEL", "loud"),
        ("HEADRACE_POOLER", "session"),
    ],
)
def test_what_can_not_work_is_refused(variable: str, text: str) -> None:
    """The text names the variable and what it holds."""
    with pytest.raises(ConfigurationError, match=variable) as caught:
        read({variable: text})
    assert text in str(caught.value)


def test_settings_made_by_hand_are_held_to_the_same() -> None:
    with pytest.raises(
        ConfigurationError, match=r"HEADRACE_INGEST_CONCURRENCY is 0, but must be 1 or more\. It means: chunks"
    ):
        Settings(ingest_concurrency=0)
    with pytest.raises(ConfigurationError, match=r"HEADRACE_LOG_FORMAT is 'xml', but must be one of: console, json\."):
        Settings(log_format="xml")


def test_a_worker_must_be_able_to_miss_a_beat() -> None:
    assert Settings(lease=10, heartbeat=5).lease == 10
    with pytest.raises(ConfigurationError, match=r"HEADRACE_HEARTBEAT is 5\.1 s and HEADRACE_LEASE 10 s"):
        Settings(lease=10, heartbeat=5.1)
