"""By what a compiled program gives away that it can't run on this machine, whichever engine it is."""

from typing import Final

from aigw_daemon.supervisor.failures import FailureKind, sign

SIGNS: Final = (
    sign(
        r"error while loading shared libraries: ([^:]+)",
        FailureKind.MISSING_BINARY,
        "its program lacks the library {0}: install it, or another build of the program",
    ),
    sign(
        r"version `([^']+)' not found \(required by",
        FailureKind.MISSING_BINARY,
        "its program was built for a newer system ({0} is missing): install a build for this one",
    ),
    sign(
        r"cannot execute binary file|Exec format error",
        FailureKind.MISSING_BINARY,
        "its program was built for another processor or system: install a build for this one",
    ),
)
