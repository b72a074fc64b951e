"""What a command that reads the files of a daemon that is gone says about it."""

import sys

from aigw_cli.screen import Screen


def say_so(screen: Screen) -> None:
    """On standard error, so that the output stays what was asked for."""
    if not screen.as_json:
        Screen(out=sys.stderr).show(["aigwd is not running: this is what was written before it ended"])
