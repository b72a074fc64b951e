"""By what the log of any engine written in Python gives a failure away, whichever engine it is."""

from typing import Final

from aigw_daemon.supervisor.failures import FailureKind, sign

SIGNS: Final = (
    sign(
        r"ModuleNotFoundError: No module named '([^']+)'|: No module named ([\w.]+)$",
        FailureKind.MISSING_BINARY,
        "its Python lacks the module {0}: install it there, or start the engine with the Python that has it",
    ),
    sign(
        r"(?:ImportError: |error while loading shared libraries: )(lib[^:]+|[^:]+\.so[^:]*): cannot open shared object",
        FailureKind.MISSING_BINARY,
        "it lacks the library {0}: install it",
    ),
    sign(
        r"ImportError: (.+)",
        FailureKind.MISSING_BINARY,
        "its Python packages don't fit together ({0}): install the engine again",
    ),
    sign(
        r"PermissionError: \[Errno 13\] Permission denied: '([^']+)'",
        FailureKind.BAD_SETTING,
        "it may not open {0}: give the user that runs aigw access to it",
    ),
    sign(
        r"No space left on device",
        FailureKind.NO_RESOURCES,
        "a disk is full: make room where it keeps its models and its cache",
    ),
)
"""Each gets what it names as its first group, whichever of its forms a line has."""
