"""An album of texts: its pages are counted side by side, a person looks at the draft, and then it is printed.

Each kind of waiting is here once: children as they complete, a child with its own retries, a step, a token, a timer.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from headrace import Abort, Failed, Ok, Retry, WaitTimeout, metadata, step, task, wait

WORD = re.compile(r"[^\W\d_]{4,}")
PROGRESS_EVERY = 20


@dataclass
class Order:
    """What is ordered: which files, where the album goes, how long it waits for an answer and how long it dries."""

    title: str
    files: list[str]
    folder: str
    answer_within: str = "7d"
    dries_for: str = "2s"


@dataclass
class Page:
    """What is counted of one file."""

    file: str
    words: int
    common: dict[str, int] = field(default_factory=dict)


@dataclass
class Answer:
    """What a person says to a draft."""

    approved: bool
    by: str = "somebody"


@dataclass
class Album:
    """What becomes of an order."""

    title: str
    status: str
    pages: int = 0
    words: int = 0
    unreadable: list[str] = field(default_factory=list)
    printed: str | None = None


@task(id="album.count", retry=Retry(max_attempts=2, min_delay="100ms"))
def count_words(file: str) -> Page:
    """One page: how many words a file has, and which of four letters and more are frequent."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise Abort(f"{file} is no text: {type(error).__name__}") from error
    common = Counter(WORD.findall(text.lower())).most_common(20)
    return Page(file, len(text.split()), dict(common))


@task(id="album.make", retry=Retry(max_attempts=3, min_delay="1s"))
async def make_album(order: Order) -> Album:
    """The whole way of an order. It may take a week, and holds no worker while it waits."""
    pages: dict[int, Page] = {}
    unreadable: list[str] = []
    async for outcome in count_words.batch_trigger_and_iterate(order.files, inherit_tags=True):
        match outcome:
            case Ok():
                pages[outcome.index] = outcome.value
            case Failed():
                unreadable.append(order.files[outcome.index])
        if (done := len(pages) + len(unreadable)) % PROGRESS_EVERY == 0 or done == len(order.files):
            await metadata.set("counted", done)
    album = Album(order.title, "draft", len(pages), sum(page.words for page in pages.values()), sorted(unreadable))

    draft = await step("draft", write_draft, order, [pages[index] for index in sorted(pages)])
    answer = await ask(order, draft)
    await metadata.delete("answer")
    if answer is None or not answer.approved:
        album.status = "unanswered" if answer is None else "declined"
        return album

    await wait.for_(order.dries_for, key="ink")
    printed = await print_album.trigger_and_wait(draft, key="print")
    album.status, album.printed = f"approved by {answer.by}", printed.unwrap()
    return album


async def ask(order: Order, draft: str) -> Answer | None:
    """Shows a draft to whoever completes the token; None where nobody does so in time."""
    token = await wait.create_token(timeout=order.answer_within, tags=["album"])
    await metadata.set("answer", {"draft": draft, "token": token.id, "url": token.url})
    try:
        told = await wait.for_token(token)
    except WaitTimeout:
        return None
    # What comes from outside is whatever somebody sent. A next attempt would be told the same: the token is complete.
    try:
        return msgspec.convert(told, Answer)
    except msgspec.ValidationError as error:
        raise Abort(f"that is no answer: {error}") from error


@task(id="album.print", retry=Retry(max_attempts=5, min_delay="200ms"))
def print_album(draft: str) -> str:
    """Makes a draft the album, by its name. Twice is as good as once."""
    place = Path(draft)
    album = place.with_name(place.name.removesuffix(".draft"))
    if place.exists():
        place.replace(album)
    return str(album)


@task(id="album.shelf")
def fill_shelf(orders: list[Order]) -> int:
    """Several albums, and how many were printed. A ``def`` waits as well: it asks for the ``result()``."""
    outcomes = make_album.batch_trigger_and_wait(orders, max_attempts=1).result()
    return sum(outcome.unwrap().printed is not None for outcome in outcomes)


def write_draft(order: Order, pages: list[Page]) -> str:
    """Writes the report, and says where it is. A step: it is not written again when the run goes on after a wait."""
    total: Counter[str] = Counter()
    for page in pages:
        total.update(page.common)
    lines = [f"# {order.title}", ""]
    lines += [f"{page.words:8}  {page.file}" for page in pages]
    lines += ["", "frequent: " + ", ".join(word for word, _ in total.most_common(5)), ""]
    draft = Path(order.folder) / f"{order.title}.txt.draft"
    draft.write_text("\n".join(lines), encoding="utf-8")
    return str(draft)
