"""What a program holds of a token: enough to wait for it, to hand it to a person or a machine, and to complete it.

Ground: knows nothing above it. Tokens are made by clients (``sdk``) and by code that waits alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was made: whoever is handed one of its credentials can complete it, and do nothing else.

    ``url``: a POST there, without a key, completes it; the body is the output. ``public_token``: a credential for a
    browser, good for a day. ``is_cached``: its idempotency key stood for it already; then it may have ended.
    """

    id: str
    url: str = field(repr=False)
    public_token: str = field(repr=False)
    is_cached: bool = False
