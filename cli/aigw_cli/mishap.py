"""A fault of aigw itself: one sentence for the operator, the traceback for a report."""

import os
import time
import traceback
from pathlib import Path

from aigw_cli.failure import CommandError
from aigw_daemon.home import PRIVATE_FILE, Home, HomeError, private_folder

_CAP = 1024 * 1024
"""Bytes after which the log begins anew."""


def internal(error: BaseException) -> CommandError:
    """What the operator is told; the traceback goes into the home's log, where that can be written."""
    where = _logged(error)
    hint = f"the details are in {where}: please report them" if where else f"it happened in {_place(error)}"
    text = str(error).strip().split("\n")[0]
    return CommandError(f"internal error of aigw{f': {text}' if text else ''}", code="internal", hint=hint)


def _logged(error: BaseException) -> Path | None:
    text = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n{''.join(traceback.format_exception(error))}"
    try:
        path = Home.from_environment().command_log
        private_folder(path.parent)
        fresh = os.O_TRUNC if path.exists() and path.stat().st_size > _CAP else os.O_APPEND
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | fresh, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", errors="backslashreplace") as log:
            log.write(text)
    except (OSError, HomeError):
        return None
    return path


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "an unknown place"
