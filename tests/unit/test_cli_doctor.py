"""What the doctor makes of what it sees."""

from __future__ import annotations

import pytest

from headrace.cli.doctor import judge_embedded, judge_python, judge_schema, judge_server, judge_stores
from headrace.store.checks import Examined, Problem, StoreFacts

WELL = {
    "version_number": 180004,
    "version": "18.4",
    "autovacuum": True,
    "durable": True,
    "max_connections": 100,
    "clock": 1000.0,
    "oldest_transaction": 0.0,
    "idle_slots": 0,
    "read_only": False,
}
BUSY = {"dead_rows": 5, "live_rows": 100, "workers": 2, "keys": 1}


def test_a_well_server_has_nothing_to_do():
    findings = list(judge_server(WELL, 1000.3))
    assert {finding.state for finding in findings} == {"ok"}
    assert {finding.todo for finding in findings} == {""}


@pytest.mark.parametrize(
    ("change", "check", "state"),
    [
        ({"version_number": 140010, "version": "14.10"}, "database", "fail"),
        ({"read_only": True}, "database", "fail"),
        ({"durable": False}, "durability", "fail"),
        ({"clock": 1010.0}, "clock", "warn"),
        ({"clock": 990.0}, "clock", "warn"),
        ({"autovacuum": False}, "autovacuum", "fail"),
        ({"oldest_transaction": 301.0}, "oldest transaction", "warn"),
        ({"idle_slots": 1}, "replication slots", "warn"),
    ],
)
def test_what_is_wrong_with_a_server_is_named_with_what_to_do(change, check, state):
    findings = {finding.check: finding for finding in judge_server({**WELL, **change}, 1000.3)}
    assert findings[check].state == state
    assert findings[check].todo
    assert [finding.check for finding in findings.values() if finding.state != "ok"] == [check]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, []),
        ({"dead_rows": 150_000}, ["dead rows"]),
        ({"dead_rows": 150_000, "live_rows": 10_000_000}, []),
        ({"workers": 0}, ["workers"]),
        ({"keys": 0}, ["keys"]),
    ],
)
def test_what_is_wrong_with_the_tables_is_a_warning(change, wrong):
    findings = list(judge_schema({**BUSY, **change}))
    assert [finding.check for finding in findings if finding.state == "warn"] == wrong
    assert all(finding.todo for finding in findings if finding.state != "ok")


def test_stores_are_judged_and_home_is_not_judged_twice():
    facts = [StoreFacts(name, f"db/{name}", version="18.4") for name in ("home", "s1", "s2", "s3")]
    problems = [
        Problem("home", "said already.", "", kind="schema"),
        Problem("home", "Deaf.", "Listen.", kind="listen"),
        Problem("s1", "Away.", "Wake it.", "warn", "unreachable"),
        Problem("s2", "Late.", "Set it.", "warn", "clock"),
    ]
    found = {finding.check: finding for finding in judge_stores(Examined(facts, problems))}
    states = {"store home": "fail", "store s1": "fail", "store s2": "warn", "store s3": "ok"}
    assert {check: finding.state for check, finding in found.items()} == states
    assert (found["store home"].seen, found["store home"].todo) == ("Deaf.", "Listen.")
    assert list(judge_stores(Examined(facts[:1], []))) == []


def test_an_old_python_and_a_missing_extra():
    assert judge_python((3, 10)).state == "fail"
    assert judge_python((3, 11)).state == "ok"
    assert judge_embedded(installed=False, needed=True).state == "warn"
    assert judge_embedded(installed=False, needed=False).state == "ok"
    assert judge_embedded(installed=True, needed=True).state == "ok"
