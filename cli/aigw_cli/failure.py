"""How a command ends when it doesn't succeed: the exit codes, and the one exception that commands raise.

Only the standard library is imported here: main.py needs this before anything else.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What each exit code of ``aigw`` means; documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    UNKNOWN_NAME = 4
    INVALID_PROFILE = 5
    INTERRUPTED = 130
    OUTPUT_GONE = 141


class CommandError(Exception):
    """A command could not do what was asked: what happened, what to do next, and the exit code."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "failed",
        hint: str | None = None,
        command: str | None = None,
        details: tuple[str, ...] = (),
        exit_code: ExitCode = ExitCode.FAILED,
    ) -> None:
        """``command`` is what the hint ends with: a command line to paste, which no line break gets into."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.command = command
        self.details = details
        self.exit_code = exit_code


class Interrupted(CommandError):
    """Ctrl-C: what goes on without us, and how to stop it."""

    def __init__(self, message: str = "interrupted", hint: str | None = None, *, command: str | None = None) -> None:
        super().__init__(message, code="interrupted", hint=hint, command=command, exit_code=ExitCode.INTERRUPTED)
