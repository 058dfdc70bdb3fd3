"""Orders an album of the text files in a folder, and says how to answer when the draft is there.

python order.py FOLDER [TITLE]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from tasks import Album, Order, make_album

from headrace import Client


def main(folder: str, title: str = "album") -> None:
    """Triggers the run, shows its progress, prints the album that comes of it."""
    files = sorted(str(path) for path in Path(folder).resolve().rglob("*") if path.suffix in (".txt", ".md", ".rst"))
    with Client() as client:
        order = Order(title, files, str(Path.cwd()))
        handle = client.trigger(make_album, order, tags=[f"album:{title}"])
        print(f"{handle.id}: {len(files)} files")
        told = ""
        while (run := handle.retrieve())["status"] not in ("COMPLETED", "FAILED", "CANCELED", "CRASHED"):
            shown: dict[str, Any] = run.get("metadata") or {}
            if answer := shown.get("answer"):
                line = f"{answer['draft']} is to be looked at. Answer within {order.answer_within}:\n"
                line += f'  headrace token complete {answer["token"]} \'{{"approved": true, "by": "me"}}\''
            else:
                line = f"{run['status']}, {shown.get('counted', 0)} counted"
            if line != told:
                print(line, flush=True)
                told = line
            time.sleep(0.2)
        album: Album = handle.result()
    print(f"{album.status}: {album.pages} pages, {album.words} words, {len(album.unreadable)} unreadable")
    print(album.printed or "not printed")


if __name__ == "__main__":
    main(*sys.argv[1:])
