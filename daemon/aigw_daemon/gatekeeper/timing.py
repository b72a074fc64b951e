"""How long the gatekeeper waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds. Tests shorten them."""

    adoption: float = 5.0
    """A worker that outlived its daemon may take as long to say hello; it dials five times a second."""
    greeting: float = 15.0
    """A fresh worker may take as long: its imports, on a busy machine."""
    sign_of_life: float = 5.0
    """A worker that serves is asked as often for one; three in a row that it owes, and it is replaced. Not shorter: the
    machine may be short of time or memory, and every running stream ends with the worker."""
    drain: float = 10.0
    """What running requests get before a worker that is to leave ends them."""
    leaving: float = 2.0
    """What a worker gets on top of that to leave, before it is stopped."""
    retry: float = 30.0
    """How long the daemon answers 503 itself before it tries a worker again."""
