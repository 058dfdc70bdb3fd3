"""How an item of a batch ended: a value, not an exception.

``match`` tells Ok from Failed, and so does ``outcome.ok is True`` for a type checker; ``unwrap()`` gives or raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Literal, NoReturn, TypeVar

from headrace.errors import RunFailedError

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ok(Generic[R_co]):
    """A run that succeeded, and its result: ``value``. ``error`` is None."""

    index: int
    run_id: str
    value: R_co
    ok: ClassVar[Literal[True]] = True
    error: ClassVar[None] = None

    def unwrap(self) -> R_co:
        """The result."""
        return self.value


@dataclass(frozen=True, slots=True)
class Failed:
    """A run that did not succeed: its status and its error, both as on the wire. ``value`` is None."""

    index: int
    run_id: str
    status: str
    error: dict[str, Any]
    ok: ClassVar[Literal[False]] = False
    value: ClassVar[None] = None

    def unwrap(self) -> NoReturn:
        """Raises RunFailedError."""
        raise make_run_error(self.run_id, self.status, self.error)


Outcome = Ok[R_co] | Failed
_UNNAMED: Final = "it failed"


def make_run_error(run_id: str, status: str, error: dict[str, Any] | None) -> RunFailedError:
    """The exception for a run that ended without a result."""
    told = error or {}
    what = told.get("message") or told.get("raw") or _UNNAMED
    name = told.get("name") or told.get("code")
    return RunFailedError(
        f"run {run_id} is {status}: {f'{name}: ' if name else ''}{what}", run_id=run_id, status=status, error=error
    )
