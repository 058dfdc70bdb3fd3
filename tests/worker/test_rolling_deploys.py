"""Deployments, by real worker processes of two versions: the new one takes over, the old one drains, and back again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from uuid import UUID

import pytest

from headrace.engine import tokens, versions
from headrace.engine.engine import Engine
from headrace.engine.outcomes import Packet
from headrace.engine.token_outcomes import TokenFilter
from headrace.engine.versions import VersionPromoted
from headrace.ids import parse_run_id
from headrace.protocol.statuses import RunStatus
from headrace.settings import Settings
from tests.invariants import assert_invariants
from tests.worker.helpers import WorkerProcess, await_end, is_there, look, read_output, trigger, until, worker_process

pytestmark = pytest.mark.anyio

FILE = '''
import asyncio
from pathlib import Path

from headrace import task, wait


@task
async def say(gate: str | None = None) -> str:
    """Which code it ran; with a gate, once that is open."""
    if gate is not None:
        Path(gate + ".started").touch()
        while not Path(gate).exists():
            await asyncio.sleep(0.01)
    return "{version}"


@task
async def nap(gate: str) -> list[str]:
    """Waits for a child and a token, and says which code it and the child ran before and after."""
    before = "{version}"
    first = await say.trigger_and_wait(None, key="first")
    Path(gate + ".waits").touch()
    await wait.for_token((await wait.create_token(idempotency_key=gate)).id)
    second = await say.trigger_and_wait(None, key="second")
    loose = await say.trigger(None, key="loose")
    return [before, first.unwrap(), "{version}", second.unwrap(), loose.id]
'''


@pytest.fixture
def code(tmp_path: Path) -> dict[str, str]:
    """The path of the file of each version."""
    files: dict[str, str] = {}
    for version in "12":
        file = tmp_path / f"v{version}" / "deployed.py"
        file.parent.mkdir()
        file.write_text(FILE.replace("{version}", version))
        files[version] = str(file)
    return files


async def test_a_rolling_deployment(engine: Engine, settings: Settings, code: dict[str, str], tmp_path: Path) -> None:
    """New runs go to the new code at once; a run that the old code began ends on it; then the old worker may go."""
    gate = str(tmp_path / "gate")
    async with worker_process(settings, code["1"]) as old:
        held = await trigger(engine, "say", gate)
        await until(lambda: is_there(gate + ".started"), "the old code runs it")
        async with worker_process(settings, code["2"]):
            assert {await say(engine) for _ in range(10)} == {"2"}
            old.signal(signal.SIGTERM)
            Path(gate).touch()
            assert await old.wait() == 0
            assert read_output(await await_end(engine, held)) == "1"
            assert {await say(engine) for _ in range(5)} == {"2"}
    listed = (await versions.list_versions(engine, 1)).versions
    assert [one.tasks for one in listed] == [["nap", "say"]] * 2
    assert [(await look(engine, held)).version] == [listed[1].version]
    await assert_invariants(engine)


async def test_a_roll_back(engine: Engine, settings: Settings, code: dict[str, str]) -> None:
    async with worker_process(settings, code["1"], HEADRACE_VERSION="one"):
        async with worker_process(settings, code["2"], HEADRACE_VERSION="two"):
            assert await say(engine) == "2"
            assert isinstance(await versions.promote_version(engine, 1, "one"), VersionPromoted)
            assert {await say(engine) for _ in range(10)} == {"1"}
            async with worker_process(
                settings, code["2"], HEADRACE_VERSION="two"
            ):  # it comes again, and changes nothing
                assert {await say(engine) for _ in range(10)} == {"1"}
            assert isinstance(await versions.promote_version(engine, 1, "two"), VersionPromoted)
            assert {await say(engine) for _ in range(10)} == {"2"}
        assert await say(engine) == "1", "none of the current version lives"


async def test_by_hand_a_new_version_waits_to_be_promoted(
    engine: Engine, settings: Settings, code: dict[str, str]
) -> None:
    by_hand = {"HEADRACE_PROMOTE": "manual"}
    async with (
        worker_process(settings, code["1"], HEADRACE_VERSION="one", **by_hand),
        worker_process(settings, code["2"], HEADRACE_VERSION="two", **by_hand),
    ):
        assert {await say(engine) for _ in range(10)} == {"1"}
        assert await say(engine, lock_to_version="two") == "2"
        await versions.promote_version(engine, 1, "two")
        assert {await say(engine) for _ in range(10)} == {"2"}


@pytest.mark.parametrize("signed", [signal.SIGKILL, signal.SIGTERM])
async def test_a_parent_and_the_children_that_it_waits_for_keep_to_their_version_while_it_lives(
    engine: Engine, settings: Settings, code: dict[str, str], tmp_path: Path, signed: signal.Signals
) -> None:
    gates = [str(tmp_path / f"gate{number}") for number in range(2)]
    async with worker_process(settings, code["1"], HEADRACE_WAIT_LINGER="0") as old:
        parents = [await trigger(engine, "nap", gate) for gate in gates]
        for gate in gates:
            await until(lambda gate=gate: is_there(gate + ".waits"), "it waits")
        async with worker_process(settings, code["2"], HEADRACE_WAIT_LINGER="0"):
            first = await finish_nap(engine, parents[0], gates[0])
            assert first[:4] == ["1", "1", "1", "1"]
            assert read_output(await await_end(engine, _run_id(first[4]))) == "2", "nobody waits for that one"
            old.signal(signed)
            await old.wait()
            second = await finish_nap(engine, parents[1], gates[1])
            assert second[:4] == ["2", "1", "2", "2"], "none of its version lives: it goes on all the same"
    await assert_invariants(engine)


async def test_runs_that_nobody_can_take_yet_start_when_a_worker_comes(
    engine: Engine, settings: Settings, code: dict[str, str]
) -> None:
    unknown, locked = await trigger(engine, "say"), await trigger(engine, "say", lock_to_version="two")
    assert [(await look(engine, one)).status for one in (unknown, locked)] == [RunStatus.PENDING_VERSION] * 2
    async with worker_process(settings, code["1"], HEADRACE_VERSION="one"):
        assert read_output(await await_end(engine, unknown)) == "1"
        assert (await look(engine, locked)).status is RunStatus.PENDING_VERSION
        async with worker_process(settings, code["2"], HEADRACE_VERSION="two"):
            assert read_output(await await_end(engine, locked)) == "2"


async def test_workers_of_other_tasks_do_not_disturb_each_other(
    engine: Engine, settings: Settings, code: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text("from headrace import task\n\n\n@task\ndef shout() -> str:\n    return 'other'\n")
    async with worker_process(settings, code["1"]), worker_process(settings, str(other)):
        assert await say(engine) == "1"
        assert read_output(await await_end(engine, await trigger(engine, "shout"))) == "other"
        assert {bool(one.current_for) for one in (await versions.list_versions(engine, 1)).versions} == {True}


async def test_a_version_that_can_be_none_is_refused_at_the_start(settings: Settings, code: dict[str, str]) -> None:
    worker = WorkerProcess(settings, code["1"], {"HEADRACE_VERSION": "feature/x"})
    with pytest.raises(AssertionError):
        await worker.start()
    assert await worker.wait() != 0
    assert worker.process is not None
    assert worker.process.stdout is not None
    worker.process.stdout.close()
    assert "HEADRACE_VERSION is 'feature/x'" in worker.log.read_text()


async def say(engine: Engine, **options: str) -> str:
    return read_output(await await_end(engine, await trigger(engine, "say", **options)))


async def finish_nap(engine: Engine, parent: UUID, gate: str) -> list[str]:
    """What the parent says, once its token is completed."""
    while True:
        page = await tokens.list_tokens(engine, 1, TokenFilter(idempotency_key=gate))
        if page.tokens:
            break
        await asyncio.sleep(0.01)
    await tokens.complete_token(engine, 1, page.tokens[0].id, Packet(b"null"))
    return read_output(await await_end(engine, parent))


def _run_id(text: str) -> UUID:
    found = parse_run_id(text)
    assert found is not None
    return found
