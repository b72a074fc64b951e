"""What a daemon that is gone has left running, as far as it wrote down: for a command line that finds no daemon."""

from typing import NamedTuple

from aigw_daemon.gatekeeper.worker import NAME as GATEWAY
from aigw_daemon.home import Home
from aigw_daemon.identity import is_alive
from aigw_daemon.state_file import peek


class Survivor(NamedTuple):
    """One process."""

    name: str
    """Of its backend, or ``gateway``."""
    pid: int


def survivors(home: Home) -> list[Survivor]:
    """Those that still run, the gateway first. Only looks: nothing is changed, signalled or raised."""
    document = peek(home.state_file)
    if document is None:
        return []
    known = {GATEWAY: document.gateway, **{name: record.identity for name, record in document.backends.items()}}
    return [Survivor(name, identity.pid) for name, identity in known.items() if identity and is_alive(identity)]
