"""aigwd: the command line, the log, the lock, the signals and the exit code around one `Daemon`."""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from aigw_daemon import standard_streams
from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import Problem
from aigw_daemon.daemon_log import DaemonLog
from aigw_daemon.home import Home, HomeError
from aigw_daemon.lock import AlreadyLocked, acquire
from aigw_daemon.place import read, remembered
from aigw_daemon.state_file import StateError
from aigw_daemon.version import AIGW_VERSION

EXIT_FAILED = 1
LEAVING_SECONDS = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inherited:
    """What a restart in place hands to the program that replaces this one: open descriptors."""

    lock: int
    listeners: tuple[int, ...]

    def as_argument(self) -> str:
        """For ``--inherited``."""
        return json.dumps({"lock": self.lock, "listeners": self.listeners})

    @classmethod
    def from_argument(cls, text: str) -> "Inherited":
        """Read what `as_argument` wrote."""
        found = json.loads(text)
        return cls(lock=found["lock"], listeners=tuple(found["listeners"]))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run until stopped; exits the interpreter."""
    standard_streams.ensure_open()
    code: int | str | None
    try:
        code = _daemon(argv)
    except SystemExit as end:
        code = end.code
    if (trouble := standard_streams.flush()) is not None and not code:
        code = _unwritten(trouble)
    standard_streams.flush()
    sys.exit(code)


def _daemon(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    # Who asks to stop everything may ask while the last daemon is on its way out.
    patience = LEAVING_SECONDS if options.stop_all else 0.0
    try:
        home = remembered(Home.from_environment()).prepare()
        lock = options.inherited.lock if options.inherited else acquire(home.lock, patience=patience)
        _refuse_a_second(home)
        _log_to(home, foreground=options.foreground)
    except HomeError as error:
        _give_up(options.ready_fd, Problem(code="home", message=str(error)))
    except OSError as error:
        hint = "set AIGW_HOME to a folder of your own"
        _give_up(options.ready_fd, Problem(code="home", message=_in_words(error), hint=hint))
    except AlreadyLocked as error:
        hint = "'aigw status' shows it; 'aigw down' stops it, with --force if it doesn't answer"
        _give_up(options.ready_fd, Problem(code="already_running", message=str(error), hint=hint))
    for descriptor in (lock, *(options.inherited.listeners if options.inherited else ())):
        os.set_inheritable(descriptor, False)  # an exec in place made it inheritable; no engine may hold it
    # httpx brings its own command line along where it can, with click, rich and pygments: 6 MB that nobody here calls.
    # An empty module in its place is what httpx handles as "not installed".
    sys.modules.setdefault("httpx._main", ModuleType("httpx._main"))
    try:
        return asyncio.run(_run(home, options, lock))
    except Exception as error:
        log.exception("aigwd ends by an internal error")
        message = f"aigwd can't go on: {_in_words(error)}"
        hint = f"{home.daemon_log} has the details; 'aigw up' starts it again and finds its engines"
        _give_up(options.ready_fd, Problem(code="internal", message=message, hint=hint))


def _refuse_a_second(home: Home) -> None:
    """The lock's file may have been removed under a daemon that runs. Raises AlreadyLocked."""
    other = read(home.place_file)
    if other is not None and other.alive and other.pid != os.getpid():
        raise AlreadyLocked(other.pid)


def _in_words(error: BaseException) -> str:
    """One sentence of the first cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


async def _run(home: Home, options: argparse.Namespace, lock: int) -> int:
    # Imported here: the errors above are told without waiting for the whole daemon to load.
    from aigw_daemon.assembly import Daemon, Ending  # noqa: PLC0415
    from aigw_daemon.supervisor.process import become_subreaper  # noqa: PLC0415

    try:
        daemon = Daemon(home, inherited_listeners=options.inherited.listeners if options.inherited else ())
    except StateError as error:
        _give_up(options.ready_fd, Problem(code="state", message=str(error)))
    become_subreaper()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # a terminal that closes takes nothing with it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back since the exec, if there was one
    if options.stop_all:
        leftovers = await daemon.stop_leftovers()
        return EXIT_FAILED if not _say(str(leftovers)) or leftovers.unkillable else 0
    ending = await daemon.run(
        on_ready=lambda: _tell(options.ready_fd, {"ready": True}),
        serve=options.up,
        profile=options.profile,
        say=_announce if options.foreground else None,
    )
    if ending is Ending.RESTART:
        return _exec_in_place(options, lock, daemon.detach_listeners())
    return EXIT_FAILED if ending is Ending.FAILED else 0


def _exec_in_place(options: argparse.Namespace, lock: int, listeners: Sequence[int]) -> int:
    """Become the program that is installed now; PID, children, listeners and lock stay (execve(2)).

    Returns, with an exit code, only when that fails.
    """
    for descriptor in (lock, *listeners):
        os.set_inheritable(descriptor, True)
    inherited = Inherited(lock=lock, listeners=tuple(listeners))
    arguments = [sys.executable, "-P", "-m", "aigw_daemon.main", "--inherited", inherited.as_argument()]
    if options.foreground:
        arguments.append("--foreground")
    log.info("restarting in place")
    # The new program begins with no handlers: a signal that came now would end it and leave the engines running.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        os.execv(sys.executable, arguments)  # noqa: S606  # an argv list of our own, no shell
    except OSError as error:
        log.error("cannot restart: %s: %s; 'aigw up' finds gateway and engines again", sys.executable, error.strerror)
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aigwd", description="The aigw daemon. Usually started by 'aigw up'.")
    parser.add_argument("--version", action="version", version=f"aigwd {AIGW_VERSION}")
    parser.add_argument("--foreground", action="store_true", help="log to the terminal as well")
    parser.add_argument("--up", action="store_true", help="start serving at once, as 'aigw up' does")
    parser.add_argument("--profile", help="with --up: the profile to use (a name or a path)")
    parser.add_argument("--stop-all", action="store_true", help="stop whatever a dead daemon left running, then exit")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--inherited", type=Inherited.from_argument, help=argparse.SUPPRESS)
    return parser


def _log_to(home: Home, *, foreground: bool) -> None:
    handlers: list[logging.Handler] = [DaemonLog(home.daemon_log)]
    if foreground:
        handlers.append(logging.StreamHandler(sys.stderr))
    logging.raiseExceptions = False  # a terminal that is gone is no reason for a traceback on it
    logging.basicConfig(level=logging.INFO, handlers=handlers, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per probe says nothing


def _say(line: str) -> bool:
    """Print to whoever called us; returns whether that could be done."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError as error:
        _unwritten(error)
        return False
    return True


def _unwritten(trouble: OSError) -> int:
    with suppress(OSError):
        sys.stderr.write(f"aigwd: cannot write to standard output: {trouble.strerror}\n")
    return EXIT_FAILED


def _give_up(ready_fd: int | None, problem: Problem) -> NoReturn:
    _tell(ready_fd, {"error": plain(problem)})
    with suppress(OSError):
        sys.stderr.write(f"aigwd: {problem.message}\n" + (f"  {problem.hint}\n" if problem.hint else ""))
    sys.exit(EXIT_FAILED)


def _announce(text: str) -> None:
    """To whoever sits at this terminal. Model names are an engine's: none reaches it raw (rule S12)."""
    shown = "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
    with suppress(OSError):  # a terminal that has gone
        sys.stdout.write(f"\n{shown}\n\n")
        sys.stdout.flush()


def _tell(ready_fd: int | None, message: object) -> None:
    """One JSON line to whoever started us and waits on the pipe."""
    if ready_fd is None:
        return
    # Nobody may be left to hear it: that is no reason to end.
    with suppress(BrokenPipeError), os.fdopen(ready_fd, "w") as pipe:
        pipe.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
