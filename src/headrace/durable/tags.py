"""Tags that a run gives itself while it runs: ``from headrace import tags``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from headrace.durable.ops import AddTags, Value
from headrace.durable.pending import Pending, Steps
from headrace.durable.port import current_port
from headrace.errors import ConfigurationError

_OUTSIDE = "Tags of a new run are an option: trigger(..., tags=[...]). Of another run: Client.add_tags()."


def add(new: Sequence[str] | str, /, *more: str) -> Pending[list[str]]:
    """Gives the run tags: ``await tags.add("large", "customer-7")``, or a list of them. All tags that it has then.

    Those that it has already are left as they are; runs are found by the new ones as soon as this returns. At most 10 in
    all, each of at most 128 characters: else ConfigurationError, and none is added. A replay is told the same again.
    """
    given = [new, *more] if isinstance(new, str) else [*new, *more]
    if wrong := next((tag for tag in given if not isinstance(tag, str)), None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"tags.add(): a tag is text, and {wrong!r} is not")
    port = current_port("tags.add()", _OUTSIDE)
    return Pending(port, _add(AddTags(port.names.take("tags", "add"), given)), "tags.add()")


def _add(op: AddTags) -> Steps[list[str]]:
    value: Value = yield op
    return msgspec.json.decode(value.data or b"[]", type=list[str])
