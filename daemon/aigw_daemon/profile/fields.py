"""Which fields of a request a route may change: those that aigw itself doesn't work with."""

import re
from typing import Final

from aigw_daemon.profile.scalars import rule

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
OURS: Final = frozenset(
    {"model", "stream", "stream_options", "n", "messages", "prompt", "input", "query", "documents", "texts"}
)
"""What the request is about, and what the gateway itself reads of it or writes into it."""


def request_field(name: str) -> str:
    """A field that a route may set or drop. Raises the rule's error for one that it may not."""
    if name in OURS:
        raise rule(f"a route can't change {', '.join(sorted(OURS))}: they are the request itself")
    if not _NAME.fullmatch(name):
        raise rule("must be the name of a request's field, such as temperature")
    return name
