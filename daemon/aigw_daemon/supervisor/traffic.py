"""What the supervisor knows of the requests on its backends: told by the gateway, asked for through an edge."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Traffic:
    """Of one backend."""

    in_flight: int = 0
    relayed: int = 0
    """Grows with every piece of an answer that comes from it; starts again with a new gateway worker."""
    told_at: float = 0.0
    """When the gateway said so, in monotonic seconds; while something is in flight it says so each second."""
    refused: bool = False
    """Whether the gateway found nobody listening."""


Watch = Callable[[str], Traffic]
"""The traffic of a backend now."""
