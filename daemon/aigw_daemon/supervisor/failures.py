"""What went wrong with a backend, in one sentence, with the log lines that show it.

A failure is classified by its own evidence: what was found before the start, or the log and the exit of the process.
Exit codes differ between engines (an unknown flag is 2 for vLLM, 1 for llama-server), so the log decides first.
"""

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FailureKind(StrEnum):
    """Classes of failure, as operators meet them."""

    MISSING_BINARY = "missing_binary"
    MISSING_MODEL = "missing_model"
    GATED_MODEL = "gated_model"
    MISSING_GPU = "missing_gpu"
    BAD_SETTING = "bad_setting"
    BAD_FLAG = "bad_flag"
    PORT_TAKEN = "port_taken"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_UNREADABLE = "model_unreadable"
    WRONG_MODEL = "wrong_model"
    START_TIMEOUT = "start_timeout"
    CRASH_LOOP = "crash_loop"
    UNRESPONSIVE = "unresponsive"
    HUNG = "hung"
    OOM_KILLED = "oom_killed"
    UNKILLABLE = "unkillable"
    EXITED = "exited"
    NO_RESOURCES = "no_resources"
    INTERNAL = "internal"


PERMANENT = frozenset(
    {
        FailureKind.MISSING_BINARY,
        FailureKind.MISSING_MODEL,
        FailureKind.GATED_MODEL,
        FailureKind.MISSING_GPU,
        FailureKind.BAD_SETTING,
        FailureKind.BAD_FLAG,
        FailureKind.PORT_TAKEN,
        FailureKind.MODEL_UNREADABLE,
        FailureKind.WRONG_MODEL,
        FailureKind.UNKILLABLE,
        FailureKind.INTERNAL,
    }
)
"""Trying again would end the same way, until the operator, the profile or a file changes (rule A6)."""


@dataclass(frozen=True)
class Failure:
    """One failure. ``sentence`` is for people; ``lines`` are of the log."""

    kind: FailureKind
    sentence: str
    lines: tuple[str, ...] = ()
    told: str | None = None
    """The line of the log that gives it away, where one does."""
    lasting: bool | None = None
    """Whether trying again would end the same way; None: as its kind does."""

    @property
    def permanent(self) -> bool:
        """Whether only a change of something can help."""
        return self.kind in PERMANENT if self.lasting is None else self.lasting


class Unrunnable(Exception):
    """It can't be started, and that shows before anything is started."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def unrunnable(kind: FailureKind, sentence: str) -> Unrunnable:
    """The exception of a preflight check."""
    return Unrunnable(Failure(kind, sentence))


Lasting = Callable[[re.Match[str], int], bool]
"""Whether what a line tells will be so again, by the line and the machine's memory in bytes."""


@dataclass(frozen=True)
class Sign:
    """A log line that gives a failure away. In ``sentence``, ``{0}`` is the pattern's first group that matched."""

    pattern: re.Pattern[str]
    kind: FailureKind
    sentence: str
    lasting: Lasting | None = None
    """None: as its kind is."""
    about: re.Pattern[str] | None = None
    """Another line names the file that this one is about: its first group is the last one of ``sentence``."""


def sign(
    pattern: str, kind: FailureKind, sentence: str, lasting: Lasting | None = None, *, about: str | None = None
) -> Sign:
    """A sign whose patterns match anywhere in a line, in any case."""
    named = None if about is None else re.compile(about, re.IGNORECASE)
    return Sign(re.compile(pattern, re.IGNORECASE), kind, sentence, lasting, named)


def always(_match: re.Match[str], _memory: int) -> bool:
    """It would be so again."""
    return True


def passing(_match: re.Match[str], _memory: int) -> bool:
    """It may be otherwise the next time."""
    return False


def more_than_there_is(group: int) -> Lasting:
    """It would be so again if the bytes in this group are more than the machine has."""
    return lambda match, memory: 0 < memory < int(match[group])


def more_than(group: int, limit: int) -> Lasting:
    """It would be so again if the number in one group exceeds the one in another, of the same unit."""
    return lambda match, _: float(match[group]) > float(match[limit])


_HARMLESS: Final = re.compile(r"(?:\([^)]*\) )?(?:DEBUG|INFO|WARNING)\b|\d+(?:\.\d+)+ [DIW] ")
"""How a log line of Python, or of llama.cpp, begins that tells of no failure, though it may hold the words of one."""
_LOGGED: Final = r"(?:\([^)]*\) (?:(?:ERROR|CRITICAL) [^\[]*\[[^\]]*\] ?)?)?"
_FRAME: Final = re.compile(
    _LOGGED + r"(?:\s+.*|Traceback \(most recent call last\):|During handling of the above exception.*|"
    r"The above exception was the direct cause.*)?"
)
"""A line of a traceback that is not its last: those are indented, and say nothing to an operator."""
_EXCEPTION: Final = re.compile(_LOGGED + r"(?:\w+\.)*(\w*(?:Error|Exception|Interrupt|Exit)(?:: .+)?)")


def classify(
    signs: Sequence[Sign], lines: Sequence[str], exit_text: str, *, shown: int = 20, memory: int = 0
) -> Failure:
    """Read the failure off the log: the first sign in the order of ``signs`` that any line shows, else the exit.

    ``shown``: how many lines are kept as evidence. ``memory``: bytes that this machine has; 0 when nobody knows.
    """
    candidates = [(number, line) for number, line in enumerate(lines) if not _HARMLESS.match(line)]
    for sign_ in signs:
        for number, line in candidates:
            if match := sign_.pattern.search(line):
                lasting = None if sign_.lasting is None else sign_.lasting(match, memory)
                evidence = (line, *without_frames(lines[number + 1 :]))[:shown]
                return Failure(
                    sign_.kind, sign_.sentence.format(*_groups(match), *_named(sign_, lines)), evidence, line, lasting
                )
    return _unclassified(lines, exit_text, shown)


def exited(lines: Sequence[str], exit_text: str, *, shown: int = 20) -> Failure:
    """An end of which nothing is known but how: its log may be as old as the process."""
    return Failure(FailureKind.EXITED, f"the engine {exit_text}", tuple(without_frames(lines)[-shown:]))


class _Group(str):
    """A group of a match; ``{0:GiB}`` in a sentence shows one that counts bytes in GiB."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return f"{int(self) / 2**30:.1f} GiB" if spec == "GiB" else super().__format__(spec)


def _groups(match: re.Match[str]) -> list[_Group]:
    """Those that matched: of alternatives that name the same thing only one does."""
    return [_Group(group) for group in match.groups() if group is not None]


def _named(sign_: Sign, lines: Sequence[str]) -> list[str]:
    if sign_.about is None:
        return []
    return [next((match[1] for line in lines if (match := sign_.about.search(line))), "file")]


def without_frames(lines: Sequence[str]) -> list[str]:
    """The lines without those of tracebacks that only lead to an exception; all of them where nothing else is."""
    traced = any("Traceback (most recent call last)" in line for line in lines)
    return [line for line in lines if not _FRAME.fullmatch(line)] if traced else list(lines)


_COMPLAINT: Final = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL|panic)\b|level=(?:ERROR|FATAL)|(?:Error|Exception)(?::|$)|\d+(?:\.\d+)+ E |\berror\b"
)
_ACCESS: Final = re.compile(r"\bHTTP/\d(?:\.\d)?\"? \d{3}\b|\[GIN\]|log_server_r: +(?:done )?request:")
"""A line that a server writes of each request."""


def complaints(lines: Sequence[str]) -> list[str]:
    """The lines in which a program says that something is wrong, as far as that can be told."""
    return [
        line
        for line in without_frames(lines)
        if _COMPLAINT.search(line) and not _HARMLESS.match(line) and not _ACCESS.search(line)
    ]


def _unclassified(lines: Sequence[str], exit_text: str, shown: int) -> Failure:
    told = next((match for line in lines if (match := _EXCEPTION.fullmatch(line))), None)
    if told is None:
        return exited(lines, exit_text, shown=shown)
    # Of exceptions that led to one another the first is the cause.
    last = tuple(without_frames(lines)[-shown:])
    return Failure(FailureKind.EXITED, f"the engine {exit_text}: {told[1]}", last, told.string)


OOM_KILLED = (
    "the kernel ran out of memory and killed it (SIGKILL): give it a smaller context, fewer parallel requests or a "
    "smaller model, or free memory"
)
"""What is said when the kernel's out-of-memory killer struck."""
FOREIGN_PROCESSOR = (
    "its program uses instructions that this processor doesn't have (SIGILL): install a build for this machine"
)
"""What is said of a program that was built for another processor."""


@dataclass(frozen=True)
class Exit:
    """How a process ended; ``code`` and ``signal`` are both None when only its parent could know."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was killed by {signal_name(self.signal)}"
        if self.code is not None:
            return f"exited with code {self.code}"
        return "exited (nobody knows with which code: an earlier daemon had started it)"


def signal_name(number: int) -> str:
    """SIGKILL for 9; the number itself when it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
