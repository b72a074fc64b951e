"""What an engine must say of itself, so that it can be started, probed and understood.

A kind of engine is one file with one class of this shape, and one line in `registry.py`. It decides only; processes
and connections are the supervisor's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from aigw_daemon.home import Home
from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.models.resolve import Missing, ModelFile
from aigw_daemon.profile.backends import BackendSection, LlamacppBackend
from aigw_daemon.profile.model import Profile
from aigw_daemon.supervisor.engines.inheriting import inherited
from aigw_daemon.supervisor.failures import Sign
from aigw_daemon.supervisor.gpu import ANYWHERE, Placement
from aigw_daemon.supervisor.patience import Stage
from aigw_daemon.words import EngineKind

LOOPBACK: Final = "127.0.0.1"
"""Where engines listen, and nowhere else (rule S2)."""

Resolve = Callable[[Profile, LlamacppBackend, Home], ModelFile | Missing]


@dataclass(frozen=True)
class LaunchContext:
    """All that a command line is made of."""

    name: str
    section: BackendSection
    profile: Profile
    home: Home
    port: int
    api_key: Secret
    """Ours, for the engine to ask for: other users of this machine shall not walk around the gateway."""
    environ: Mapping[str, str]
    """The daemon's, from which ``${VARIABLE}`` is taken."""
    resolve: Resolve
    placement: Placement = ANYWHERE
    """Its GPUs. The variables that pin it there are added to what the engine says."""

    @property
    def inherited(self) -> Mapping[str, str]:
        """What of ``environ`` the engine gets unasked: not the keys of others."""
        return inherited(self.environ, self.profile, self.section)


@dataclass(frozen=True)
class Launch:
    """A command line. Secrets are in ``env``, never in ``argv`` (rule S12)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    files: tuple[Path, ...] = ()
    """What it reads: when one of them changes, a start that failed for good is worth another try."""
    varying: frozenset[str] = frozenset()
    """Flags whose value depends on the moment, such as on how much memory is free."""

    def fingerprint(self) -> tuple[object, ...]:
        """Changes when a start may end otherwise than before."""
        return (self._lasting(self.argv), *(file_stamp(path) for path in self.files))

    def is_like(self, argv: Sequence[str]) -> bool:
        """Whether that command line asks for the same, started at another moment."""
        return self._lasting(self.argv) == self._lasting(argv)

    def _lasting(self, argv: Sequence[str]) -> tuple[str, ...]:
        before = ("", *argv)
        return tuple(word for word, flag in zip(argv, before, strict=False) if flag not in self.varying)


@dataclass(frozen=True)
class Counters:
    """Where an engine says how much it has done: numbers of its Prometheus page that only grow while it works."""

    path: str
    names: frozenset[str]


class Engine(Protocol):
    """A kind of engine that aigw runs."""

    kind: EngineKind
    health_path: str
    """Answers 200 when up, and 503 while loading; a section that names a path of its own wins."""
    models_path: str
    props_path: str | None
    """Answers with what the engine made of its settings."""
    start_timeout: float
    """Seconds from the start to ready at most (rule A2); a section that names a time of its own wins."""
    stall_timeout: float | None
    """Seconds without a new byte in the log and without work, after which a start is given up; None: no such limit."""
    has_key: bool
    """Whether it asks for ``api_key``."""
    counters: Counters | None
    """By which a hung one shows; None where it has none: then the CPU time of its tree has to do."""

    @property
    def signs(self) -> Sequence[Sign]:
        """By what its log gives a failure away, the most telling first."""

    @property
    def stages(self) -> Sequence[Stage]:
        """By what its log tells how far a start is; with none of them, its last line is shown."""

    def launch(self, context: LaunchContext) -> Launch:
        """The command line. Raises Unrunnable when something is missing or makes no sense."""

    def models(self, section: BackendSection, listing: Any, props: Any) -> tuple[ModelView, ...]:
        """What it serves, from its JSON of ``models_path`` and of ``props_path`` (None where it was not asked)."""

    def concurrency(self, props: Any) -> int | None:
        """How many requests it works on at once, where it says so."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that an engine has in memory now; sizes are bytes."""

    name: str
    memory_bytes: int
    gpu_memory_bytes: int
    """The part of ``memory_bytes`` that is on GPUs."""
    context: int | None
    """Tokens."""


@runtime_checkable
class Library(Protocol):
    """What an engine offers besides, whose models come and go while it runs.

    It is asked for its models again and again, and a model that the profile names and it lacks is no reason to call
    it broken: it can be pulled.
    """

    def loaded(self, props: Any) -> tuple[LoadedModel, ...]:
        """What it has in memory, from its JSON of ``props_path``."""

    def unloading(self, model: LoadedModel) -> tuple[str, Mapping[str, Any]]:
        """The path and the JSON of a POST that has it give up the model's memory."""


def file_stamp(path: Path) -> tuple[str, int, int] | None:
    """Its name, size in bytes and time of change in nanoseconds; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  # follows links, as the engine will
    except OSError:
        return None
    return str(path), found.st_size, found.st_mtime_ns
