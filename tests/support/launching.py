"""Command lines as engines make them from a profile's words, without starting anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aigw_daemon.home import Home
from aigw_daemon.link.messages import Secret
from aigw_daemon.models.resolve import resolve
from aigw_daemon.supervisor.engines.base import Launch, LaunchContext
from aigw_daemon.supervisor.engines.registry import ENGINES
from aigw_daemon.supervisor.failures import Failure, classify
from aigw_daemon.supervisor.gpu import Gpu, Wanted, place
from aigw_daemon.words import EngineKind
from tests.support.supervision import profile

KEY = "the-key"
PORT = 4321


@dataclass
class Builder:
    """Builds for one kind of engine; ``said`` is what every backend of the test says."""

    home: Home
    kind: EngineKind
    said: str
    environ: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, more: str = "", gpus: Sequence[Gpu] | None = None, wanted: Wanted = None) -> Launch:
        made = profile(f"backends: {{a: {{engine: {self.kind}, {self.said}{more}}}}}")
        context = LaunchContext(
            *("a", made.backends["a"], made, self.home, PORT, Secret(KEY), self.environ, resolve), place(wanted, gpus)
        )
        return ENGINES[self.kind].launch(context)


def value(launch: Launch, flag: str) -> str:
    """What a command line says behind a flag."""
    return launch.argv[launch.argv.index(flag) + 1]


def install(folder: Path, name: str) -> Path:
    """A program that does nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def explained(kind: EngineKind, log: str) -> Failure:
    """What a log is taken for."""
    return classify(ENGINES[kind].signs, log.strip().splitlines(), "exited with code 1")
