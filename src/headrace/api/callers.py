"""Who calls, and what they may do: all of one environment (a secret key), or what the scopes of a public token say.

A scope is ``action:kind`` or ``action:kind:id``: ``read:batch:batch_06f...`` reads one batch, ``read:runs`` every run.
``write`` allows all that writes, triggering included; ``admin`` allows everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headrace.engine.environments import Environment

_TRIGGERING: Final = frozenset({"trigger", "batchTrigger"})


@dataclass(frozen=True, slots=True)
class Caller:
    """A request's credential, checked. ``scopes`` is None for a secret key, which may do everything.

    >>> Caller(environment, frozenset({"read:batch:batch_1"})).may("read", ("batch", "batch_1"))
    True
    """

    environment: Environment
    scopes: frozenset[str] | None = None

    @property
    def has_secret_key(self) -> bool:
        """Whether this is a key of the environment itself, not a token made with it."""
        return self.scopes is None

    def may(self, action: str, *resources: tuple[str, str | None]) -> bool:
        """Whether ``action`` is allowed on one of ``resources``: pairs of kind and id, id None for all of a kind."""
        if self.scopes is None or "admin" in self.scopes:
            return True
        return any(
            self._holds(one, kind, resource_id) for one in _actions_for(action) for kind, resource_id in resources
        )

    def may_trigger_all(self, action: str, tasks: Iterable[str]) -> bool:
        """Whether every one of ``tasks`` may be triggered; of none, whether any task at all may be."""
        if self.may(action, ("tasks", None), ("batch", None)):
            return True
        wanted = list(tasks)
        return bool(wanted) and all(self.may(action, ("tasks", task)) for task in wanted)

    def _holds(self, action: str, kind: str, resource_id: str | None) -> bool:
        scopes = self.scopes or frozenset()
        if f"{action}:all" in scopes or f"{action}:{kind}" in scopes:
            return True
        return resource_id is not None and f"{action}:{kind}:{resource_id}" in scopes


def _actions_for(action: str) -> tuple[str, ...]:
    return (action, "write") if action in _TRIGGERING else (action,)
