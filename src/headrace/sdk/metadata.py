"""What a client asks for of a run's metadata, as operations on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.errors import ConfigurationError
from headrace.values import encode_json


def make_operations(
    values: Mapping[str, Any] | None = None,
    *,
    replace: Mapping[str, Any] | None = None,
    increment: Mapping[str, float] | None = None,
    append: Mapping[str, Any] | None = None,
    remove: Mapping[str, Any] | None = None,
    delete: Sequence[str] | str = (),
) -> list[dict[str, Any]]:
    """The operations in the order in which they are done: all anew first, then single keys. Raises PayloadError for no JSON.

    >>> make_operations({"stage": "checked"}, increment={"done": 1})
    [{'type': 'set', 'key': 'stage', 'value': 'checked'}, {'type': 'increment', 'key': 'done', 'value': 1}]
    """
    made: list[dict[str, Any]] = [] if replace is None else [{"type": "update", "value": dict(replace)}]
    for kind, changes in (("set", values), ("increment", increment), ("append", append), ("remove", remove)):
        made += [{"type": kind, "key": key, "value": value} for key, value in (changes or {}).items()]
    made += [{"type": "delete", "key": key} for key in ([delete] if isinstance(delete, str) else delete)]
    if not made:
        raise ConfigurationError(
            "update_metadata() was asked for nothing: give values, or replace=, increment=, append=, remove= or delete="
        )
    return msgspec.json.decode(encode_json(made))
