"""A supervisor as the daemon runs it, for tests: its own home, a real launcher, and nothing left behind."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from aigw_daemon.home import Home
from aigw_daemon.profile.load import parse
from aigw_daemon.profile.model import Profile
from aigw_daemon.state_file import StateFile
from aigw_daemon.supervisor import proctable
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.gpu import Inventory
from aigw_daemon.supervisor.gpu_turns import GpuTurns
from aigw_daemon.supervisor.happenings import Happening
from aigw_daemon.supervisor.process import LocalLauncher
from aigw_daemon.supervisor.supervisor import Supervisor
from aigw_daemon.supervisor.traffic import Traffic
from aigw_daemon.words import State
from tests.support.recorded_gpus import RecordedGpus
from tests.support.wait import eventually


@contextmanager
def fresh_home() -> Iterator[Home]:
    """A home of its own, prepared; afterwards its folders are removed."""
    folder = Path(mkdtemp(prefix="aigw-test-"))
    home = Home.from_environment({"AIGW_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)})
    home.prepare()
    try:
        yield home
    finally:
        shutil.rmtree(folder)


class Supervised:
    """A running supervisor and what it is made of."""

    def __init__(self, home: Home, *, log_cap: int = 1024 * 1024, inventory: Inventory | None = None) -> None:
        self.home = home
        self.state = StateFile(home)
        self.traffic = Traffic()
        self.told: list[tuple[str, Happening, str | None]] = []
        self.launcher = LocalLauncher(self.state.document.instance, log_cap=log_cap)
        self.supervisor = Supervisor(
            home,
            self.state,
            launcher=self.launcher,
            traffic=lambda _: self.traffic,
            on_change=lambda: None,
            gpus=GpuTurns(inventory or RecordedGpus(None)),
            tell=lambda *told: self.told.append(told),
        )

    def report(self, name: str) -> BackendReport:
        return next(report for report in self.supervisor.reports() if report.name == name)

    async def reaches(self, name: str, *states: State, seconds: float = 20.0) -> BackendReport:
        def there() -> BackendReport | None:
            report = self.report(name)
            return report if report.state in states else None

        found = await eventually(there, seconds=seconds, what=f"{name} becoming {' or '.join(states)}")
        assert found is not None
        return found

    def pid(self, name: str) -> int:
        pid = self.report(name).pid
        assert pid is not None
        return pid

    def processes(self) -> set[int]:
        """All that carries this home's cookie and runs."""
        return bearing(self.state.document.instance)


@asynccontextmanager
async def supervised(
    home: Home, *, stop: bool = True, log_cap: int = 1024 * 1024, inventory: Inventory | None = None
) -> AsyncIterator[Supervised]:
    """Run a supervisor; at the end it stops everything, or leaves it running as a killed daemon would.

    ``inventory``: the GPUs that this machine shall have; None: it has no NVML.
    """
    made = Supervised(home, log_cap=log_cap, inventory=inventory)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.supervisor.run())
        try:
            yield made
        finally:
            if stop:
                await made.supervisor.stop_all()
            else:
                running.cancel()
    await made.state.close()
    made.launcher.close()


def profile(text: str, file: str = "test.yaml") -> Profile:
    return parse(f"version: 1\n{text}", file)


def bearing(instance: str) -> set[int]:
    """The processes that carry a cookie; zombies don't."""
    found = set()
    for pid, process in proctable.table().items():
        mark = proctable.cookie(pid)
        if mark is not None and mark.instance == instance and not process.zombie:
            found.add(pid)
    return found


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
