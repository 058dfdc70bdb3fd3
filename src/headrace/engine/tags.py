"""Tags of a run, added after its trigger: they stand where those of the trigger stand, in its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from headrace.engine.engine import Engine
from headrace.engine.forwards import ask_owner
from headrace.engine.outcomes import RunMissing
from headrace.engine.rows import read_json
from headrace.errors import ConfigurationError
from headrace.protocol.options import MAX_TAG_LENGTH, MAX_TAGS
from headrace.store.statements import Plan, query


@dataclass(frozen=True, slots=True)
class TagsAdded:
    """All tags that the run has now, and which of them are new."""

    tags: list[str]
    added: list[str]


@dataclass(frozen=True, slots=True)
class TagsRefused:
    """Too many of them, or too long ones: none is added."""

    message: str


TagsAnswer = TagsAdded | TagsRefused | RunMissing


async def add_tags(engine: Engine, environment_id: int, run_id: UUID, tags: Sequence[str]) -> TagsAnswer:
    """Gives a run tags beside those that it has, whatever its status: all of them, or none."""
    return await ask_owner(engine, run_id, lambda owner: _add_there(owner, environment_id, run_id, tags))


async def _add_there(engine: Engine, environment_id: int, run_id: UUID, tags: Sequence[str]) -> TagsAnswer:
    answer, is_queued = await engine.store.run_plan(_add(environment_id, run_id, tags))
    if is_queued:  # a claim may have stepped over it
        engine.notices.runs_ready(environment_id)
    return answer


def merge_tags(present: Sequence[str], given: Sequence[str]) -> list[str]:
    """Both, each tag once, in the order of their coming. Empty ones are left out, as at a trigger.

    Raises ConfigurationError where a tag is too long or they are too many.

    >>> merge_tags(["a"], ["b", "", "a"])
    ['a', 'b']
    """
    merged = list(dict.fromkeys([*present, *(tag for tag in given if tag.strip())]))
    if long := next((tag for tag in merged if len(tag) > MAX_TAG_LENGTH), None):
        raise ConfigurationError(f"a tag has at most {MAX_TAG_LENGTH} characters, {long[:20]!r}... has {len(long)}")
    if any("\0" in tag for tag in given):
        raise ConfigurationError("a tag must not hold a NUL character")
    if len(merged) > MAX_TAGS:
        new = ", ".join(repr(tag) for tag in merged if tag not in present)
        raise ConfigurationError(
            f"Runs can only have {MAX_TAGS} tags, you're trying to set {len(merged)}. These tags have not been set: {new}."
        )
    return merged


def _add(environment_id: int, run_id: UUID, given: Sequence[str]) -> Plan[tuple[TagsAnswer, bool]]:
    rows = yield from query("lock_tags", environment_id, run_id)
    if not rows:
        return RunMissing(), False
    present = list[str](read_json(rows[0]["tags"]) or [])
    try:
        merged = merge_tags(present, given)
    except ConfigurationError as error:
        return TagsRefused(str(error)), False
    added = [tag for tag in merged if tag not in present]
    if not added:
        return TagsAdded(merged, []), False
    [row] = yield from query("set_tags", environment_id, run_id, merged)
    return TagsAdded(merged, added), row["queued"]
