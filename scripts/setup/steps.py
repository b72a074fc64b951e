"""Running the stages of a set-up: one line when a stage starts, one with its seconds when it ends, clear failures.

Only the standard library is imported: these scripts run before anything is installed.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.engines import CHECKOUT, environment_without_checkout

TAIL_LINES = 25
"""How much of a failed command's output is shown: enough for a compiler's or pip's last words."""
LOG = CHECKOUT / ".setup.log"
"""What the commands of set-ups said."""
LONGEST_LOG = 5_000_000
"""Bytes; a longer log is begun anew."""

NO_NETWORK = (
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Network is unreachable",
    "Failed to resolve",
    "Connection refused",
    "ConnectTimeoutError",
    "Cannot connect to proxy",
    "(from versions: none)",
)
"""What pip and npm say of an index that can't be reached. (The last: what is asked for has been published, so an index
that has no version of it at all wasn't asked.)"""


class SetupError(Exception):
    """A stage failed. The text says what, why as far as known, and the way out."""


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def stage(title: str) -> Iterator[None]:
    """Announces a stage and, when it is over, says how long it took."""
    say(f"{title} ...")
    started = time.monotonic()
    yield
    say(f"{title}: done in {time.monotonic() - started:.1f} s")


def run(argv: Sequence[str | Path], *, cwd: Path | None = None) -> None:
    """Runs a command, with its output in the log of the set-up; what it said is shown only if it fails.

    Raises SetupError when the command is missing or its exit status isn't 0.
    """
    with LOG.open("ab+") as log:
        if log.tell() > LONGEST_LOG:
            log.truncate(0)
        begun = log.seek(0, os.SEEK_END)
        try:
            done = subprocess.run(
                [str(part) for part in argv],
                cwd=cwd,
                env=environment_without_checkout(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise SetupError(f"cannot run {argv[0]}: {error.strerror}") from error
        if done.returncode != 0:
            log.seek(begun)
            raise SetupError(failure(argv, done.returncode, log.read().decode(errors="replace")))


def failure(argv: Sequence[str | Path], status: int, output: str) -> str:
    """What to tell of a failed command: one sentence where the cause is known, else its last lines."""
    if "No space left on device" in output:
        return no_space("the checkout, of the user's cache folder or of the folder for temporary files")
    if any(sign in output for sign in NO_NETWORK):
        return (
            "cannot reach the package index: check the network, or the index and proxy in pip's settings"
            " (python3 -m pip config list), and run this again."
        )
    tail = "\n".join(output.splitlines()[-TAIL_LINES:])
    command = " ".join(str(part) for part in argv)
    sentence = f"cannot go on: this command ended with status {status}; its whole output is in {LOG}:\n  {command}"
    return f"{tail}\n{sentence}".lstrip()


def no_space(where: str) -> str:
    return f"cannot go on: no space is left on the disk of {where}; free some (1 GB is enough) and run this again."


def works(argv: Sequence[str | Path], *, timeout: float = 120) -> bool:
    """Whether a command runs and ends with 0 within `timeout` seconds. Shows nothing."""
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            env=environment_without_checkout(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the right to change `folder`, so that two set-ups at the same time don't tear each other's work."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder.name}: waiting for another set-up that works on it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def remove(path: Path) -> None:
    """Removes a file or folder that may not be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_last(stamp: Path, text: str) -> None:
    """Writes a stamp so that it is either wholly there or not at all: it vouches for all that was done before it."""
    part = stamp.with_name(stamp.name + ".part")
    part.write_text(text)
    part.replace(stamp)


def is_stamped(stamp: Path, text: str) -> bool:
    """Whether `stamp` says exactly `text`: the work was finished, and by this recipe."""
    try:
        return stamp.read_text() == text
    except OSError:
        return False


def told(main: Callable[[], int]) -> int:
    """Runs a script's `main` and turns what may go wrong into one message and the exit status 1."""
    try:
        return main()
    except SetupError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        full = error.errno == errno.ENOSPC
        print(no_space(str(error.filename)) if full else f"cannot go on: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: what was half done is thrown away", file=sys.stderr)
        return 130
    return 1
