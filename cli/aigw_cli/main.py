"""The entry of `aigw`, and the one map from what went wrong to a message and an exit code."""

import errno
import sys
from collections.abc import Sequence
from contextlib import suppress

from typer import Abort
from typer.exceptions import TyperException

from aigw_cli.app import app
from aigw_cli.failure import CommandError, ExitCode, Interrupted
from aigw_daemon import standard_streams

_OF_OUTPUT = frozenset({errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.ENXIO})
"""Errors of a write to a stream: those of files have a path, those of the daemon's socket are explained below."""
_OUTPUT = "output_lost"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; answer its exit code, as docs/cli.md lists them. No traceback reaches the operator."""
    standard_streams.ensure_open()
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    _escape_what_cannot_be_encoded()
    failure: CommandError | None = None
    code = ExitCode.OK
    try:
        code = ExitCode(app(arguments, prog_name="aigw", standalone_mode=False) or ExitCode.OK)
    except TyperException as error:
        failure = _misused(error)
    except (Abort, KeyboardInterrupt):
        failure = Interrupted()
    except BrokenPipeError:
        code = ExitCode.OUTPUT_GONE  # whoever read along has left: nobody is there to be told
    except SystemExit as end:
        # What click makes of a broken pipe; anything else is the shell's completion, which ends so.
        if not isinstance(end.__context__, OSError):
            raise
        code = ExitCode.OUTPUT_GONE
    except Exception as error:  # noqa: BLE001  # the last place where it can be told in a sentence
        failure = _explained(error)
    return _ended(code, failure, as_json=_wants_json(arguments))


def _ended(code: ExitCode, failure: CommandError | None, *, as_json: bool) -> ExitCode:
    """Tell what went wrong, last of all an output that could not be written, and answer the exit code."""
    trouble: OSError | None = None
    if failure is not None:
        code = failure.exit_code
        try:
            _tell(failure, as_json=as_json and failure.code != _OUTPUT)
        except OSError as error:
            trouble = error
    trouble = standard_streams.flush() or trouble
    if isinstance(trouble, BrokenPipeError):
        return code or ExitCode.OUTPUT_GONE
    if trouble is not None and (failure is None or failure.code != _OUTPUT):
        told = _unwritten(trouble)
        with suppress(OSError):
            _tell(told, as_json=False)
        standard_streams.flush()
        return code or told.exit_code
    return code


def _unwritten(trouble: OSError) -> CommandError:
    message = f"cannot write to standard output: {trouble.strerror}"
    return CommandError(message, code=_OUTPUT, hint="what the command has started goes on")


def _explained(error: Exception) -> CommandError:
    # Only now: it imports what --help must not wait for.
    from aigw_cli.explain import explain
    from aigw_cli.mishap import internal

    if isinstance(error, OSError) and error.filename is None and error.errno in _OF_OUTPUT:
        return _unwritten(error)
    return explain(error) or internal(error)


def _misused(error: TyperException) -> CommandError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "aigw"
    return CommandError(
        error.format_message(), code="usage", hint=f"'{command} --help' shows how", exit_code=ExitCode.USAGE
    )


def _tell(failure: CommandError, *, as_json: bool) -> None:
    from aigw_cli.render.failure import as_document, failure_lines
    from aigw_cli.screen import Screen

    if as_json:
        Screen(as_json=True).record(as_document(failure))
        return
    screen = Screen(out=sys.stderr)
    screen.show(failure_lines(failure, screen.look))


def _wants_json(arguments: Sequence[str]) -> bool:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _escape_what_cannot_be_encoded() -> None:
    """A terminal that can't show a character shows its escape: better than a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
