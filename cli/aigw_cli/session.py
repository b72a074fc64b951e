"""What every command that talks to the daemon begins with: the home, and a client for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from aigw_daemon.control.client import ControlClient
from aigw_daemon.home import Home


@contextmanager
def daemon() -> Iterator[ControlClient]:
    """A client of the running daemon. Its methods raise ControlError."""
    with ControlClient(Home.from_environment()) as client:
        yield client
