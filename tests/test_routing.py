"""Nothing goes round the router: a static check, so that what is built later can't do otherwise.

Two rules. Tables of runs are named in store/ only. And a function of the engine that asks ``engine.store`` says first which
store that is: by an id (``engine.at``), home, one that takes roots, or each in turn; unless it works under a worker's lease
or for one store by its name (``OF_ONE_STORE``), in which case its Engine is the right one already.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).parents[1] / "src" / "headrace"
RUN_TABLES: Final = re.compile(
    r"\bheadrace\.(runs|attempts|batches|batch_aliases|journal|tokens|lanes|workers|idempotency_keys)\b(?!\.py)"
)
ROUTES: Final = re.compile(
    r"\bengine = (?:[^\n]*\bengine\.(?:at\(|home\b|pick\(|stores\.)|_choose_store\()|engine\.(?:home|at\([^)]*\))\.store\b"
)

OF_ONE_STORE: Final = {
    "audits.audit_once": "each store is audited by whoever sweeps it",
    "bulk_parts.tend_all_parts": "each store's parts are carried out by whoever sweeps it",
    "cancels.cancel_trees": "trees lie in one store; each store is swept",
    "dev_sessions.keep_session": "called for each store",
    "environments.find_environment_here": "the copy of this store, for its workers",
    "journals.end_due_points": "of runs that this store's worker holds",
    "journals.read_journals": "of runs that this store's worker has claimed",
    "journals.read_points": "of runs that this store's worker holds",
    "measures.check_database": "called for each store",
    "mirrors.audit_mirrors": "each store's mirrors are audited by whoever sweeps it",
    "mirrors.forget_mirrors": "each store's mirrors are looked at by whoever sweeps it",
    "mirrors.mirror_targets": "the store is that of who waits",
    "mirrors.resolve_mirrors": "the store is that of who waits",
    "mirrors.tell_ended": "each store's interests are looked at by whoever sweeps it",
    "moves.carry_on_moves": "each store's moves are carried on by whoever sweeps it",
    "parkings.let_tree_go": "of a move of this store",
    "parkings.park_tree": "of a move of this store",
    "parkings.release_runs": "of this store, by whoever sweeps it",
    "queues.count_again": "called for each store",
    "relay.deliver_mail": "each store's outbox is delivered by whoever sweeps it",
    "relay.relay_outbox": "each store's outbox is delivered by whoever sweeps it",
    "shared_limits.claim_over_stores": "of the worker of one store",
    "workers.register_worker": "a worker registers in each store",
}
"""Public functions that ask the store of the Engine that they are given, and why that is the right one."""


def find_statements() -> list[tuple[str, str]]:
    """Text of string literals outside store/, and where they stand. Docstrings are prose."""
    found: list[tuple[str, str]] = []
    for path in sorted(SOURCE.rglob("*.py")):
        if path.is_relative_to(SOURCE / "store") or path.is_relative_to(SOURCE / "bench"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            (f"{path.relative_to(SOURCE)}:{node.lineno}", node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        ]
    return found


def find_askers() -> list[tuple[str, str]]:
    """Public functions that take an Engine and ask its store: where, and their text."""
    found: list[tuple[str, str]] = []
    for path in sorted((SOURCE / "engine").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue  # what is private is called by what is not
            source = ast.get_source_segment(text, node) or ""
            arguments = [*node.args.args, *node.args.kwonlyargs]
            leased = any(argument.arg in ("lease", "fence") for argument in arguments)
            if any(argument.arg == "engine" for argument in arguments) and "engine.store." in source and not leased:
                found.append((f"{path.stem}.{node.name}", source))
    return found


def test_tables_of_runs_are_named_in_the_store_only() -> None:
    assert [place for place, text in find_statements() if RUN_TABLES.search(text)] == []


def test_whoever_asks_a_store_says_which() -> None:
    unrouted = {name for name, source in find_askers() if not ROUTES.search(source)}
    assert sorted(unrouted - OF_ONE_STORE.keys()) == []
    assert sorted(OF_ONE_STORE.keys() - unrouted) == [], (
        "they are not there any more, or are routed: take them off the list"
    )


@pytest.mark.parametrize(
    ("source", "routed"),
    [
        ("engine = engine.at(run_id)", True),
        ("rows = await engine.home.store.fetch('x')", True),
        ("rows = await engine.store.fetch('find_run', run_id)", False),
    ],
)
def test_the_check_tells_them_apart(source: str, routed: bool) -> None:
    assert bool(ROUTES.search(source)) is routed


def test_the_check_finds_a_table() -> None:
    assert RUN_TABLES.search("SELECT 1 FROM headrace.runs AS r")
    assert not RUN_TABLES.search("headrace.runsheet")
