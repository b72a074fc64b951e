"""From what the layers below raise to a `CommandError`: the one table of problem codes and exit codes."""

from collections.abc import Iterable

from aigw_cli.failure import CommandError, ExitCode
from aigw_daemon.control.client import (
    ConnectionLost,
    ControlError,
    DaemonNotRunning,
    DaemonSuspended,
    DaemonUnreachable,
    Refused,
)
from aigw_daemon.control.launch import LaunchError
from aigw_daemon.control.presence import Unkillable
from aigw_daemon.control.problems import Refusal
from aigw_daemon.control.schema import Problem
from aigw_daemon.home import Home, HomeError
from aigw_daemon.profile.errors import ProfileError

EXIT_CODES = {
    "ambiguous_key": ExitCode.UNKNOWN_NAME,
    "unknown_backend": ExitCode.UNKNOWN_NAME,
    "unknown_key": ExitCode.UNKNOWN_NAME,
    "unknown_model": ExitCode.UNKNOWN_NAME,
    "unknown_profile": ExitCode.UNKNOWN_NAME,
    "invalid_profile": ExitCode.INVALID_PROFILE,
    "invalid_request": ExitCode.USAGE,
}
"""Codes of the control API that mean more than "it failed"."""


def explain(error: Exception) -> CommandError | None:
    """What an operator is told about ``error``; None for a fault of aigw itself."""
    match error:
        case CommandError():
            return error
        case Refused(problem=problem) | LaunchError(problem=problem) | Refusal(problem=problem):
            return from_problem(problem)
        case ProfileError(problems=problems):
            return invalid_profile(str(problem) for problem in problems)
        case HomeError() | ControlError() | Unkillable():
            return _about_the_daemon(error)
        case OSError():
            return _about_a_file(error)
        case _:
            return None


def _about_the_daemon(error: Exception) -> CommandError:
    force = "'aigw down --force' ends it and everything that it runs"
    match error:
        case DaemonNotRunning():
            return daemon_missing()
        case DaemonSuspended(pid=pid):
            hint = f"'kill -CONT {pid}' continues it, or 'fg' in its terminal; {force}"
            return CommandError(str(error), code="daemon_suspended", hint=hint)
        case DaemonUnreachable():
            hint = f"'aigw logs daemon' may say why; {force}"
            return CommandError(str(error), code="daemon_unreachable", hint=hint)
        case ConnectionLost():
            return CommandError(str(error), code="connection_lost", hint="'aigw logs daemon' shows its last messages")
        case _:
            return CommandError(str(error), code="failed")


def _about_a_file(error: OSError) -> CommandError:
    """A file, a folder or a stream that can't be used, wherever that was met."""
    why = error.strerror or str(error)
    if error.filename is not None:
        return CommandError(f"cannot use {error.filename}: {why}", hint="check the path and its permissions")
    if isinstance(error, FileNotFoundError):
        # The one call without a path that finds nothing: getcwd(2).
        return CommandError("the working folder does not exist any more", hint="change to another folder")
    return CommandError(f"the operating system refuses: {why}")


def from_problem(problem: Problem) -> CommandError:
    """A problem that the daemon told, with the exit code that belongs to its code."""
    return CommandError(
        problem.message,
        code=problem.code,
        hint=problem.hint,
        details=tuple(problem.details),
        exit_code=EXIT_CODES.get(problem.code, ExitCode.FAILED),
    )


def invalid_profile(problems: Iterable[str]) -> CommandError:
    """A profile can't be used: everything that is wrong with it, one line each."""
    return CommandError(
        "the profile is invalid",
        code="invalid_profile",
        details=tuple(problems),
        hint="fix the file, then check it with 'aigw profile validate FILE'",
        exit_code=ExitCode.INVALID_PROFILE,
    )


def went_away() -> CommandError:
    """A stream that only the daemon's end can end has ended."""
    return CommandError(
        "the connection to aigwd was lost",
        code="connection_lost",
        hint="'aigw status' shows whether it runs, 'aigw logs daemon' its last messages",
    )


def daemon_missing() -> CommandError:
    """Nobody listens on the control socket of this home; what an earlier daemon left may run and serve all the same."""
    # It reads the state file, which no command needs that finds its daemon.
    from aigw_daemon.control.survivors import survivors  # noqa: PLC0415

    left = [f"{survivor.name} (PID {survivor.pid})" for survivor in survivors(Home.from_environment())]
    return CommandError(
        "aigwd is not running",
        code="daemon_not_running",
        hint="'aigw up' starts it and adopts them; 'aigw down' stops them" if left else "'aigw up' starts it",
        details=(f"still running without it: {', '.join(left)}",) if left else (),
        exit_code=ExitCode.NO_DAEMON,
    )
