"""The entry of `aigw`, and the one map from what went wrong to a message and an exit code."""

import sys
from collections.abc import Sequence
from types import ModuleType

from typer import Abort
from typer.exceptions import TyperException

from aigw_cli.app import app
from aigw_cli.failure import CommandError, ExitCode, Interrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; answer its exit code, as docs/cli.md lists them.

    A fault of aigw itself is raised: its traceback is what a report needs.
    """
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    _escape_what_cannot_be_encoded()
    # httpx imports a command line of its own where it can, with pygments: every command would wait for it. An empty
    # module in its place is what httpx handles as "not installed".
    sys.modules.setdefault("httpx._main", ModuleType("httpx._main"))
    try:
        return int(app(arguments, prog_name="aigw", standalone_mode=False) or ExitCode.OK)
    except TyperException as error:
        failure = _misused(error)
    except (Abort, KeyboardInterrupt):
        failure = Interrupted()
    except Exception as error:
        # Only now: it imports what --help must not wait for.
        from aigw_cli.explain import explain

        explained = explain(error)
        if explained is None:
            raise
        failure = explained
    _tell(failure, as_json=_wants_json(arguments))
    return failure.exit_code


def _misused(error: TyperException) -> CommandError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "aigw"
    # Where typer has pydantic check a value, the message says so in words that mean nothing to an operator.
    message = error.format_message().replace("Value error, ", "")
    return CommandError(message, code="usage", hint=f"'{command} --help' shows how", exit_code=ExitCode.USAGE)


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
