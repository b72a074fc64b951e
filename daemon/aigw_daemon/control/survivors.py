"""What a daemon that is gone has left running, as far as it wrote down: for a command line that finds no daemon."""

from typing import NamedTuple

from aigw_daemon.home import Home
from aigw_daemon.identity import is_alive
from aigw_daemon.state_file import peek
from aigw_daemon.words import GATEWAY


class Survivor(NamedTuple):
    """One process."""

    name: str
    """Of its backend, or ``gateway``."""
    pid: int


def served(home: Home) -> bool:
    """Whether the last daemon had something to serve when it ended: the next one takes it up. Only looks."""
    document = peek(home.state_file)
    return document is not None and document.serving


def active_profile(home: Home) -> str | None:
    """The path of the active profile, as far as it was written down."""
    document = peek(home.state_file)
    return document.profile if document is not None else None


def survivors(home: Home) -> list[Survivor]:
    """Those that still run, the gateway first. Only looks: nothing is changed, signalled or raised."""
    document = peek(home.state_file)
    if document is None:
        return []
    known = {GATEWAY: document.gateway, **{name: record.identity for name, record in document.backends.items()}}
    return [Survivor(name, identity.pid) for name, identity in known.items() if identity and is_alive(identity)]
