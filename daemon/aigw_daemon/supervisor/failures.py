"""What went wrong with a backend, in one sentence, with the log lines that show it.

A failure is classified by its own evidence: what was found before the start, or the log and the exit of the process.
Exit codes differ between engines (an unknown flag is 2 for vLLM, 1 for llama-server), so the log decides first.
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


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

    @property
    def permanent(self) -> bool:
        """Whether only a change of something can help."""
        return self.kind in PERMANENT


class Unrunnable(Exception):
    """It can't be started, and that shows before anything is started."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def unrunnable(kind: FailureKind, sentence: str) -> Unrunnable:
    """The exception of a preflight check."""
    return Unrunnable(Failure(kind, sentence))


@dataclass(frozen=True)
class Sign:
    """A log line that gives a failure away. In ``sentence``, ``{0}`` is the pattern's first group."""

    pattern: re.Pattern[str]
    kind: FailureKind
    sentence: str


def sign(pattern: str, kind: FailureKind, sentence: str) -> Sign:
    """A sign whose pattern matches anywhere in a line, in any case."""
    return Sign(re.compile(pattern, re.IGNORECASE), kind, sentence)


def classify(signs: Sequence[Sign], lines: Sequence[str], exit_text: str, *, shown: int = 20) -> Failure:
    """Read the failure off the log: the first sign in the order of ``signs`` that any line shows, else the exit."""
    last = tuple(lines[-shown:])
    for candidate in signs:
        for number, line in enumerate(lines):
            if match := candidate.pattern.search(line):
                evidence = tuple(lines[number : number + shown])
                return Failure(candidate.kind, candidate.sentence.format(*match.groups()), evidence)
    return Failure(FailureKind.EXITED, f"the engine {exit_text}", last)


OOM_KILLED = (
    "the kernel ran out of memory and killed it (SIGKILL): give it a smaller context, fewer parallel requests or a "
    "smaller model, or free memory"
)
"""What is said when the kernel's out-of-memory killer struck."""


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
