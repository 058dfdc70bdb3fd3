"""From an exception to what is stored of it: name, message, stack, as text that PostgreSQL can hold. Pure."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

MAX_NAME: Final = 128
MAX_MESSAGE: Final = 1024
MAX_STACK: Final = 16 * 1024
"""Most bytes of UTF-8 that are stored of an error's name, its message and its stack."""

_OWN_CODE: Final = str(Path(__file__).parent)
_CUT: Final = "\n  ... cut ...\n"


def describe_error(error: BaseException) -> dict[str, object]:
    """An exception as it is stored, in the shape of ``headrace.protocol.runs``."""
    return {
        "type": "BUILT_IN_ERROR",
        "name": clean_text(type(error).__name__, MAX_NAME),
        "message": clean_text(text_of(error), MAX_MESSAGE),
        "stackTrace": _cut_middle(clean_text(_stack_of(error))),
    }


def text_of(error: BaseException) -> str:
    """What an exception says."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception whose __str__ raises is a user's bug, and theirs to see
        return f"<{type(error).__name__} whose text can't be made>"


def _stack_of(error: BaseException) -> str:
    """The traceback, beginning with the task's own code: what called it is headrace's business."""
    try:
        lines = traceback.format_exception(type(error), error, _skip_own_code(error.__traceback__))
    except Exception:  # noqa: BLE001 - as above: a __notes__ or __cause__ can be anything
        return ""
    return "".join(lines)


def _skip_own_code(stack: TracebackType | None) -> TracebackType | None:
    while stack is not None and _is_own(stack.tb_frame.f_code.co_filename):
        stack = stack.tb_next
    return stack


def _is_own(file: str) -> bool:
    return file.startswith(_OWN_CODE) or file.endswith("concurrent/futures/thread.py")


def clean_text(text: str, most: int | None = None) -> str:
    """Text that PostgreSQL's jsonb and UTF-8 can hold: without NUL and without halves of surrogate pairs."""
    raw = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    return (raw if most is None else raw[:most]).decode("utf-8", "ignore")


def _cut_middle(text: str) -> str:
    # both ends tell something: where it began, and (the last lines) what it was
    raw = text.encode("utf-8")
    if len(raw) <= MAX_STACK:
        return text
    head = MAX_STACK // 4
    tail = MAX_STACK - head - len(_CUT)
    return raw[:head].decode("utf-8", "ignore") + _CUT + raw[-tail:].decode("utf-8", "ignore")
