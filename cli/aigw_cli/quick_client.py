"""Ask the control API for plain JSON: what a shell's completion waits for at every Tab.

What can't be answered at once is not worth an error.
"""

import json
from typing import Any

from aigw_daemon.control.transport import Broken, NobodyListens, asking, connected
from aigw_daemon.home import Home, HomeError
from aigw_daemon.place import located

_PATIENCE = 0.5
"""Seconds; a daemon that takes longer gives no names."""


def ask(path: str) -> Any:
    """The JSON that the daemon answers for ``path``, or None when it doesn't, for whatever reason."""
    try:
        socket = located(Home.from_environment()).control_socket
    except HomeError:
        return None
    try:
        with asking(connected(socket, _PATIENCE), "GET", path, timeout=_PATIENCE) as answer:
            return json.loads(answer.read())
    except (NobodyListens, TimeoutError, Broken):
        return None
