"""What the tests' databases refuse: a change of a status that is not in the table of transitions.

A trigger on each row costs some 5 to 10 % of a claim or a completion (100,000 rows, 2026-11-21), so production has none: there
the statements' own conditions hold it. Here every test runs under it. A test that puts a row into a state by force, whether or
not the engine could, says so in its statement: ``/* forced */``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace.protocol.transitions import BATCH_PAIRS, RUN_PAIRS, TOKEN_PAIRS

GUARDED: Final = {"runs": RUN_PAIRS, "batches": BATCH_PAIRS, "tokens": TOKEN_PAIRS}

_REFUSE: Final = """
CREATE FUNCTION headrace.refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_query() LIKE '%/* forced */%' THEN RETURN NEW; END IF;
    RAISE EXCEPTION 'no way from % to % in the table of transitions (headrace.%, %)', OLD.status, NEW.status, TG_TABLE_NAME, OLD.id;
END $$
"""


ALLOW_ALL_IDS: Final = """
DO $$ BEGIN
    ALTER TABLE headrace.runs DROP CONSTRAINT runs_owned;
    ALTER TABLE headrace.batches DROP CONSTRAINT batches_owned;
    ALTER TABLE headrace.tokens DROP CONSTRAINT tokens_owned;
END $$
"""
"""For a database that is filled with rows of made-up ids, to look at plans: there any store owns them."""

REMOVE_GUARDS: Final = "DROP FUNCTION headrace.refuse_transition() CASCADE"


def list_guards() -> list[str]:
    """The statements that set the guards up."""
    return [_REFUSE, *(_make_trigger(table, pairs) for table, pairs in GUARDED.items())]


def _make_trigger(table: str, pairs: Iterable[tuple[str, str]]) -> str:
    allowed = " OR ".join(f"(OLD.status = '{source}' AND NEW.status = '{target}')" for source, target in sorted(pairs))
    return (
        f"CREATE TRIGGER guard_status BEFORE UPDATE OF status ON headrace.{table} FOR EACH ROW"
        f" WHEN (OLD.status <> NEW.status AND NOT ({allowed})) EXECUTE FUNCTION headrace.refuse_transition()"
    )
