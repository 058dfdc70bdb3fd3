"""The command line: ``python -m retain add PATH...``, ``python -m retain search WORDS...``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from pathlib import Path

from headrace import AsyncBatchHandle, AsyncClient, Failed, HeadraceError, Ok

from .documents import Retained
from .library import open_library
from .sources import read_files, read_installed
from .submission import submit_documents
from .tasks import retain_documents


def main() -> int:
    """What a shell calls."""
    options = _make_parser().parse_args()
    try:
        return asyncio.run(_perform(options))
    except (HeadraceError, LookupError, OSError, ValueError) as error:
        print(f"retain: {error}", file=sys.stderr)
        return 2


async def _perform(options: argparse.Namespace) -> int:
    match options.command:
        case "add":
            return await _add(options)
        case "follow":
            return await _follow(options.batch)
        case _:
            return await _search(options)


async def _add(options: argparse.Namespace) -> int:
    documents = [*read_files(options.paths), *(read_installed() if options.installed else ())]
    if not documents:
        raise LookupError("there is no text in what you named")
    async with AsyncClient() as client, open_library() as library:
        await library.prepare()
        batch = await submit_documents(client, library, documents, tags=options.tag, key=options.key)
        print(f"{batch.id}: {len(documents)} documents in {batch.run_count} parcels", flush=True)
        return await _report(batch)


async def _follow(batch_id: str) -> int:
    async with AsyncClient() as client:
        return await _report(client.batch(batch_id, retain_documents))


async def _report(batch: AsyncBatchHandle[list[Retained]]) -> int:
    """Prints what becomes of a batch as it becomes of it; 1 where some of it failed."""
    failures = 0
    states = Counter[str]()
    chunks = Counter[str]()
    async for outcome in batch.as_completed():
        match outcome:
            case Ok(value=done):
                states.update(one.state for one in done)
                for one in done:
                    chunks.update(embedded=one.embedded, kept=one.kept, removed=one.removed)
            case Failed(error=error):
                failures += 1
                print(f"failed: {error.get('message')}", file=sys.stderr)
        print(f"parcel {outcome.index}: {_tell(states)} so far; chunks: {_tell(chunks)}", flush=True)
    print(f"done: {_tell(states)}; chunks: {_tell(chunks)}")
    return 1 if failures else 0


async def _search(options: argparse.Namespace) -> int:
    async with open_library() as library:
        found = await library.search(" ".join(options.words), tags=options.tag, limit=options.limit)
    for one in found:
        print(f"{one.score:.3f}  {one.document} [{one.position}]  {' '.join(one.tags)}")
        print(f"       {' '.join(one.body.split())[:150]}")
    return 0 if found else 1


def _tell(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "nothing"


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("retain", description="Keep documents by their meaning, and find them again.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="submit documents, and follow what becomes of them")
    add.add_argument("paths", nargs="*", type=Path, help="files, or folders of .md, .rst and .txt files")
    add.add_argument("--installed", action="store_true", help="the texts that come with the installed packages")
    add.add_argument("--tag", action="append", default=[], help="for every document; may be given more often")
    add.add_argument("--key", help="a name for this submission: repeated with it, it is done once")
    follow = commands.add_parser("follow", help="follow a batch that was submitted before")
    follow.add_argument("batch")
    search = commands.add_parser("search", help="find the chunks that are nearest in meaning")
    search.add_argument("words", nargs="+")
    search.add_argument("--tag", action="append", default=[], help="only chunks that have this tag")
    search.add_argument("--limit", type=int, default=5)
    return parser


if __name__ == "__main__":
    sys.exit(main())
