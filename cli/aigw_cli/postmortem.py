"""What a command that reads the files of a daemon that doesn't answer says about it."""

import sys

from aigw_cli.screen import Screen
from aigw_daemon.control.client import ControlError, DaemonNotRunning


def say_so(screen: Screen, reason: ControlError) -> None:
    """On standard error, so that the output stays what was asked for."""
    if screen.as_json:
        return
    gone = isinstance(reason, DaemonNotRunning)
    told = "aigwd is not running: this is what was written before it ended" if gone else f"{reason}; from its files:"
    Screen(out=sys.stderr).show([told])
