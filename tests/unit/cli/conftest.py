"""Each test has a home of its own, a scripted daemon on its socket, and `aigw` as a function."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aigw_cli.main import main
from aigw_daemon.home import Home
from tests.support.fake_daemon import FakeDaemon


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str


Aigw = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    # pytest's folders are too deep for a Unix socket's path.
    runtime = tempfile.mkdtemp(prefix="aigw-t-")
    monkeypatch.setenv("AIGW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    yield Home.from_environment()
    shutil.rmtree(runtime)


@pytest.fixture
def daemon(home: Home) -> Iterator[FakeDaemon]:
    with FakeDaemon(home).running() as fake:
        yield fake


@pytest.fixture
def aigw(home: Home, capsys: pytest.CaptureFixture[str]) -> Aigw:
    def run(*arguments: str) -> Ran:
        with warnings.catch_warnings():
            # httpcore leaves a Unix socket that can't connect to the collector, which warns; a command ends there.
            warnings.filterwarnings("ignore", "unclosed <socket.socket", ResourceWarning)
            code = main(arguments)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
