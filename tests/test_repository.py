"""What may stand in the tree: nothing that names a machine, and locks that fit any registry."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent

# Put together from pieces, so that this file does not find itself.
HOSTS = [".".join(parts) for parts in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org")]]
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:" + "|".join(["work", "root", "home", "farm", "Users"]) + r")/[\w.]")


def list_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of what belongs to the tree")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert ROOT / "pyproject.toml" in files
    return [file for file in files if file.is_file()]


def read_texts() -> Iterator[tuple[str, str]]:
    for file in list_files():
        yield str(file.relative_to(ROOT)), file.read_text(encoding="utf-8", errors="replace")


def list_configured_hosts() -> list[str]:
    """The hosts of the registries that this machine is set up for."""
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    urls = re.findall(r"https?://[^\s'\"]+", shown.stdout)
    return [host for url in urls if (host := urlsplit(url).hostname)]


def test_no_file_names_a_registry():
    hosts = {*HOSTS, *list_configured_hosts()}
    found = [(name, host) for name, text in read_texts() for host in hosts if host in text]
    assert found == []


def test_no_file_names_a_path_of_a_machine():
    found = [(name, match[0]) for name, text in read_texts() for match in MACHINE_PATHS.finditer(text)]
    assert found == []


def test_there_is_no_lock_file_that_records_hosts():
    forbidden = {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "yarn.lock"}
    assert [str(file) for file in list_files() if file.name in forbidden] == []


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_a_lock_holds_versions_and_hashes_and_nothing_else(lock: Path):
    text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    shape = re.compile(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+( ; [^@]+?)?( +--hash=sha256:[0-9a-f]{64})+\s*")
    assert [line[:80] for line in lines if not shape.fullmatch(line)] == []


def test_a_lock_has_everything_that_the_project_depends_on():
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    groups = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(one for group in groups.values() for one in group)]
    wanted += [one for group in project["dependency-groups"].values() for one in group]
    names = {re.split(r"[\s\[<>=!;~]", one, maxsplit=1)[0].lower() for one in wanted}
    locked = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    assert names - set(re.findall(r"^([\w.-]+?)(?:\[[\w,-]+\])?==", locked, re.MULTILINE)) == set()


def test_continuous_integration_runs_what_a_developer_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in script.splitlines() if line.strip() and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]


def test_the_wheel_holds_all_that_runs(tmp_path: Path):
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "headrace"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {f"headrace/{path.relative_to(package).as_posix()}" for path in files} - held == set()
    assert {f"headrace/_examples/stdlib_census/{name}.py" for name in ("tasks", "sources")} <= held
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in held)
