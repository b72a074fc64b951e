"""Asks the control API through the standard library alone: what a shell's completion waits for at every Tab.

Importing the typed client takes longer than asking, and what can't be answered at once is not worth an error.
"""

import http.client
import json
import socket
from typing import Any

from aigw_daemon.home import Home, HomeError
from aigw_daemon.place import located

_PATIENCE = 0.5
"""Seconds; a daemon that takes longer gives no names."""


def ask(path: str) -> Any:
    """The JSON that the daemon answers for ``path``, or None when it doesn't, for whatever reason."""
    try:
        connection = _UnixConnection(str(located(Home.from_environment()).control_socket))
    except HomeError:
        return None
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(self._path)
