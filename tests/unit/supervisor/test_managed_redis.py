"""The Redis of the cache as one more supervised process: a real one, killed, adopted, switched off, missing."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.supervisor.failures import FailureKind
from aigw_daemon.supervisor.happenings import Happening
from aigw_daemon.supervisor.supervisor import UnknownBackend
from aigw_daemon.words import State
from tests.support.supervision import Supervised, bearing, fresh_home, kill, profile, supervised
from tests.support.wait import eventually

MANAGED = profile("cache: {redis: managed, redis_memory: 16MiB}")
WITHOUT = profile("cache: {ttl: 1h}", "without.yaml")


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


def redis(made: Supervised) -> BackendReport:
    found = made.supervisor.redis()
    assert found is not None
    return found


async def reaches(made: Supervised, state: State, *, pid_not: int | None = -1) -> BackendReport:
    """Wait until Redis is there, with another process than ``pid_not``."""

    def there() -> BackendReport | None:
        report = redis(made)
        return report if report.state is state and report.pid != pid_not else None

    found = await eventually(there, seconds=20.0, what=f"redis becoming {state}")
    assert found is not None
    return found


async def asked(home: Home, *words: str) -> str:
    """What Redis answers to one command, as it stands on the wire."""
    reader, writer = await asyncio.open_unix_connection(str(home.redis_socket))
    writer.write(" ".join(words).encode() + b"\r\nQUIT\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    return answer


async def test_it_runs_beside_the_backends_without_a_port_and_without_a_file(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(MANAGED)
        report = await reaches(made, State.READY)
        assert made.supervisor.reports() == []
        assert report.address is None
        assert report.pid is not None
        assert psutil.Process(report.pid).net_connections("inet") == []
        assert home.redis_socket.stat().st_mode & 0o777 == 0o600
        assert "maxmemory\r\n$8\r\n16777216\r\n" in await asked(home, "CONFIG GET maxmemory")
        assert "allkeys-lru" in await asked(home, "CONFIG GET maxmemory-policy")
        assert "save\r\n$0\r\n" in await asked(home, "CONFIG GET save")
        assert "ready to accept connections" in (home.logs / "redis.log").read_text()
    assert not home.redis_socket.exists()
    assert bearing(made.state.document.instance) == set()


async def test_a_killed_one_is_started_again_on_the_same_socket(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(MANAGED)
        first = (await reaches(made, State.READY)).pid
        assert first is not None
        kill(first)
        again = await reaches(made, State.READY, pid_not=first)
        assert again.restarts == 1
        assert await asked(home, "PING") == "+PONG\r\n+OK\r\n"
        assert [word for name, word, _ in made.told if name == "redis"][-3:] == [
            Happening.CRASH,
            Happening.RESTART,
            Happening.READY,
        ]


async def test_the_next_daemon_adopts_it_with_what_it_holds(home: Home) -> None:
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(MANAGED)
        pid = (await reaches(first, State.READY)).pid
        await asked(home, "SET k v")
    async with supervised(home) as second:
        await second.supervisor.apply(MANAGED)
        report = await reaches(second, State.READY)
        assert (report.pid, report.restarts, report.stale) == (pid, 0, False)
        assert await asked(home, "GET k") == "$1\r\nv\r\n+OK\r\n"
    assert bearing(first.state.document.instance) == set()


async def test_a_profile_without_it_stops_it_also_after_the_daemon_has_died(home: Home) -> None:
    async with supervised(home, stop=False) as made:
        await made.supervisor.apply(MANAGED)
        await reaches(made, State.READY)
        await made.supervisor.apply(WITHOUT)
        assert made.supervisor.redis() is None
        assert made.processes() == set()
        await made.supervisor.apply(MANAGED)
        await reaches(made, State.READY)
    async with supervised(home) as later:
        await later.supervisor.apply(WITHOUT)
        assert later.processes() == set()
        assert "redis" not in later.state.document.backends


async def test_a_profile_that_gives_it_the_same_memory_spares_it(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(MANAGED)
        pid = (await reaches(made, State.READY)).pid
        await made.supervisor.apply(profile("cache: {redis: managed, redis_memory: 16MiB, ttl: 5m}", "other.yaml"))
        assert (await reaches(made, State.READY)).pid == pid
        await made.supervisor.apply(profile("cache: {redis: managed, redis_memory: 32MiB}", "third.yaml"))
        await reaches(made, State.READY, pid_not=pid)
        assert "33554432" in await asked(home, "CONFIG GET maxmemory")


async def test_only_its_name_means_it(home: Home) -> None:
    async with supervised(home) as made:
        await made.supervisor.apply(MANAGED)
        pid = (await reaches(made, State.READY)).pid
        assert await made.supervisor.settled() == {}
        await made.supervisor.stop()
        await made.supervisor.restart()
        assert redis(made).pid == pid
        assert made.supervisor.log_path("redis").name == "redis.log"
        await made.supervisor.stop(["redis"])
        assert made.processes() == set()
        await made.supervisor.start(["redis"])
        await reaches(made, State.READY, pid_not=pid)
        await made.supervisor.apply(WITHOUT)
        with pytest.raises(UnknownBackend):
            await made.supervisor.stop(["redis"])


async def test_one_that_hangs_is_replaced(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_daemon.supervisor.liveness.INTERVAL", 0.1)
    monkeypatch.setattr("aigw_daemon.supervisor.managed.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("aigw_daemon.supervisor.redis_probe.PING_SECONDS", 0.2)
    async with supervised(home) as made:
        await made.supervisor.apply(MANAGED)
        pid = (await reaches(made, State.READY)).pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await reaches(made, State.READY, pid_not=pid)
        assert Happening.LOST in [word for _, word, _ in made.told]


async def test_without_the_program_it_says_what_to_install_and_starts_once_it_is_there(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.which("redis-server")
    assert program is not None
    folder = home.state / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    async with supervised(home) as made:
        await made.supervisor.apply(MANAGED)
        report = await reaches(made, State.FAILED)
        assert report.failure is FailureKind.MISSING_BINARY
        assert "neither redis-server nor valkey-server is on the PATH: install one" in str(report.why)
        (folder / "valkey-server").symlink_to(Path(program).resolve())
        assert (await reaches(made, State.READY)).pid is not None
