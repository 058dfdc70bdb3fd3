"""The invariants of house.md, as questions to the database. Asked after whatever a test has done to it."""

from __future__ import annotations

from typing import Any, Final

from headrace.engine.engine import Engine

_QUESTIONS: Final = {
    "1: an index of a batch has one run or one alias, never both": """
        SELECT batch_id, batch_index, count(*) FROM (
            SELECT batch_id, batch_index FROM headrace.runs WHERE batch_id IS NOT NULL
            UNION ALL SELECT batch_id, batch_index FROM headrace.batch_aliases
        ) AS i GROUP BY 1, 2 HAVING count(*) > 1""",
    "1: a run's id follows from its batch and index": """
        SELECT id FROM headrace.runs WHERE batch_id IS NOT NULL AND id <> headrace.item_run_id(batch_id, batch_index)""",
    "2: a sealed batch has run_count items, from 0 on": """
        SELECT b.id FROM headrace.batches AS b, LATERAL (
            SELECT count(*) AS n, max(batch_index) AS highest FROM (
                SELECT batch_index FROM headrace.runs AS r WHERE r.batch_id = b.id
                UNION ALL SELECT batch_index FROM headrace.batch_aliases AS a WHERE a.batch_id = b.id
            ) AS i
        ) AS i WHERE b.sealed_at IS NOT NULL AND (i.n <> b.run_count OR i.highest <> b.run_count - 1)""",
    "4: the counts of a batch are what its items say": """
        SELECT b.id, b.accepted, i.accepted, b.settled, i.settled, b.succeeded, i.succeeded
        FROM headrace.batches AS b, LATERAL (
            SELECT count(*) AS accepted, count(*) FILTER (WHERE settled) AS settled,
                count(*) FILTER (WHERE settled AND succeeded) AS succeeded FROM (
                SELECT r.finished_at IS NOT NULL AS settled, r.status = 'COMPLETED' AS succeeded
                FROM headrace.runs AS r WHERE r.batch_id = b.id
                UNION ALL
                SELECT a.settled, coalesce(r.status::text, m.status) = 'COMPLETED' FROM headrace.batch_aliases AS a
                LEFT JOIN headrace.runs AS r ON r.environment_id = a.environment_id AND r.id = a.run_id
                LEFT JOIN headrace.mirrors AS m
                    ON m.environment_id = a.environment_id AND m.id = a.run_id AND m.kind = 'run'
                WHERE a.batch_id = b.id
            ) AS i
        ) AS i
        WHERE (b.accepted, b.settled, b.succeeded) IS DISTINCT FROM (i.accepted, i.settled, i.succeeded)""",
    "3: a sealed batch with nothing open has ended": """
        SELECT id FROM headrace.batches WHERE status IN ('PENDING', 'PROCESSING') AND sealed_at IS NOT NULL
            AND settled = run_count""",
    "3: an alias of a run that has ended is settled": """
        SELECT a.batch_id FROM headrace.batch_aliases AS a
        JOIN headrace.runs AS r ON r.environment_id = a.environment_id AND r.id = a.run_id
        WHERE NOT a.settled AND r.finished_at IS NOT NULL""",
    "6: what executes has a holder, what does not has none": """
        SELECT id FROM headrace.runs WHERE (status = 'EXECUTING') <> (worker_id IS NOT NULL)""",
    "10: what has ended says when, and what has not does not": """
        SELECT id FROM headrace.runs WHERE (finished_at IS NOT NULL) <>
            (status IN ('COMPLETED', 'CANCELED', 'FAILED', 'CRASHED', 'SYSTEM_FAILURE', 'EXPIRED', 'TIMED_OUT'))""",
    "a key that is not only reserved stands for something that exists, where that would be here": """
        SELECT k.scope, k.target_id FROM headrace.idempotency_keys AS k
        WHERE k.reserved_at IS NULL AND get_byte(uuid_send(k.target_id), 15) = (
            SELECT strpos('0123456789abcdefghijklmnopqrstuvwxyz', i.key) - 1 FROM headrace.identity AS i
        ) AND NOT EXISTS (SELECT FROM headrace.runs AS r WHERE r.environment_id = k.environment_id AND r.id = k.target_id)
        AND NOT EXISTS (SELECT FROM headrace.batches AS b WHERE b.environment_id = k.environment_id AND b.id = k.target_id)
        AND NOT EXISTS (SELECT FROM headrace.tokens AS t WHERE t.environment_id = k.environment_id AND t.id = k.target_id)
        AND NOT EXISTS (SELECT FROM headrace.bulk_actions AS a WHERE a.environment_id = k.environment_id AND a.id = k.target_id)
        AND NOT EXISTS (SELECT FROM headrace.forwards AS f WHERE f.id IN (k.target_id, headrace.item_run_id(k.target_id, 0)))""",
    "3: nobody waits for a token that has ended": """
        SELECT j.run_id, j.point FROM headrace.journal AS j
        JOIN headrace.tokens AS t ON t.environment_id = j.environment_id AND t.id = j.target
        WHERE j.pending AND t.status <> 'WAITING'""",
    "3: nobody waits for what another store has told of": """
        SELECT m.id FROM headrace.mirrors AS m WHERE m.resolved_at IS NOT NULL AND (
            EXISTS (
                SELECT FROM headrace.journal AS j
                WHERE j.environment_id = m.environment_id AND j.target = m.id AND j.kind::text = m.kind AND j.pending
            ) OR m.kind = 'run' AND EXISTS (
                SELECT FROM headrace.batch_aliases AS a
                WHERE a.environment_id = m.environment_id AND a.run_id = m.id AND NOT a.settled
            )
        )""",
    "3: another store is owed what it waits for": """
        SELECT i.target_id FROM headrace.interests AS i
        WHERE EXISTS (SELECT FROM headrace.runs AS r
            WHERE r.environment_id = i.environment_id AND r.id = i.target_id AND r.finished_at IS NOT NULL)
        OR EXISTS (SELECT FROM headrace.tokens AS t
            WHERE t.environment_id = i.environment_id AND t.id = i.target_id AND t.status <> 'WAITING')""",
    "every run stands in a lane": """
        SELECT r.id FROM headrace.runs AS r LEFT JOIN headrace.lanes AS l ON l.id = r.lane_id WHERE l.id IS NULL""",
}


async def assert_invariants(engine: Engine) -> None:
    """Fails with the first question that has an answer."""
    async with engine.store.connect() as connection:
        await assert_invariants_on(connection)


async def assert_invariants_on(connection: Any) -> None:
    """The same on a connection."""
    for name, sql in _QUESTIONS.items():
        broken = await connection.fetch(sql)
        assert not broken, f"{name}: {broken[:5]}"


async def count_rows(engine: Engine) -> dict[str, int]:
    """How many rows the tables hold that a trigger can write to."""
    async with engine.store.connect() as connection:
        tables = ("batches", "runs", "batch_aliases", "idempotency_keys", "attempts")
        return {name: await connection.fetchval(f"SELECT count(*) FROM headrace.{name}") for name in tables}


async def fetch_sql(engine: Engine, sql: str, *args: Any) -> list[Any]:
    """Rows of a statement of a test's own."""
    async with engine.store.connect() as connection:
        return await connection.fetch(sql, *args)
