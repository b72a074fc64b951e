"""Standard input, output and error that may be closed, full or gone: told once, never a traceback."""

import contextlib
import os
import sys
from typing import Final

_MISSING: Final = ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY))
"""What stands in for a closed stream, so that no file or socket of ours gets its number: using it fails as before."""


def ensure_open() -> None:
    """Fill the gaps that a caller left with ``>&-``; the first thing that a program does."""
    for number, mode in _MISSING:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", errors="backslashreplace", closefd=False))  # noqa: SIM115


def flush() -> OSError | None:
    """Write out what is buffered; returns why standard output could not take it.

    A stream that fails is thrown away: the interpreter would complain about it in its own words at the end.
    """
    trouble: OSError | None = None
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError as error:
            trouble = trouble or (error if number == 1 else None)
            _discard(number)
        except ValueError:
            continue  # closed by whoever called us
    return trouble


def _discard(number: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
