"""Whatever is wrong with the home, the streams or the working folder: one sentence and an exit code, no traceback."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aigw_cli import main
from aigw_daemon.home import Home
from tests.support.aigw import PROGRAM
from tests.support.fake_daemon import FakeDaemon
from tests.support.statuses import starter
from tests.unit.cli.conftest import Aigw

COMMANDS = [
    ["status"], ["health"], ["start"], ["stop"], ["restart"], ["up"], ["up", "--foreground"], ["down"],
    ["down", "--force"], ["why", "x"], ["events"], ["tail"], ["logs", "daemon"], ["logs", "x"], ["test-routing", "x"],
    ["profile", "list"], ["profile", "use", "x"], ["profile", "show", "x"], ["profile", "validate", "x"],
    ["cache", "stats"], ["cache", "clear"], ["daemon", "restart"], ["pull", "x"],
]  # fmt: skip
DAEMON = (sys.executable, "-m", "aigw_daemon.main")
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
"""Root without the right to read what its modes forbid."""


def unusable(home: Path, kind: str) -> None:
    match kind:
        case "a file":
            home.touch()
        case "a loop":
            home.symlink_to(home.name)
        case "below a file":
            home.parent.joinpath("file").touch()
            home.symlink_to("file/home")


@pytest.mark.parametrize("kind", ["a file", "a loop", "below a file"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_home_that_is_no_folder_is_one_sentence(aigw: Aigw, tmp_path: Path, command: list[str], kind: str) -> None:
    unusable(tmp_path / "home", kind)
    ran = aigw(*command)
    assert ran.code in {1, 4, 5}
    assert ran.err.startswith("aigw: ")
    assert "internal error" not in ran.err
    assert len(ran.err.splitlines()) <= 3


@pytest.mark.parametrize("command", ["status", "profile list", "up", "down", "logs daemon"])
def test_a_home_that_may_not_be_read_is_one_sentence(home: Home, command: str) -> None:
    home.prepare()
    root = home.state.parent
    root.chmod(0)
    try:
        done = finished([*powerless(), *PROGRAM, *command.split()])
    finally:
        root.chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.startswith("aigw: cannot ")
    assert "Permission denied" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("file", ["state.json", "daemon.lock", "instance"])
def test_a_file_of_the_daemon_that_it_cannot_use_is_named(home: Home, file: str) -> None:
    home.prepare()
    (home.state / file).mkdir()
    for arguments in ([], ["--stop-all"]):
        done = finished([*DAEMON, *arguments])
        assert done.returncode == 1
        assert done.stderr.startswith("aigwd: cannot ")
        assert str(home.state / file) in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["aigw", "aigwd"])
def test_a_working_folder_that_is_gone_is_one_sentence_or_no_matter(
    home: Home, tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"aigw": [*PROGRAM, "profile", "show", "./x.yaml"], "aigwd": [*DAEMON, "--stop-all"]}[program]
    told = {"aigw": "aigw: the working folder does not exist any more\n  change to another folder\n", "aigwd": ""}
    gone = in_a_folder_that_is_gone(words, tmp_path)
    assert (gone.returncode, gone.stderr) == ((1, told["aigw"]) if program == "aigw" else (0, ""))
    monkeypatch.setenv("AIGW_HOME", "relative")
    relative = in_a_folder_that_is_gone(words, tmp_path)
    assert relative.returncode == 1
    assert relative.stderr.startswith(f"{program}: AIGW_HOME is the relative path 'relative'")


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("command", ["--help", "--version", "status", "status --json", "up", "stop", "logs coder"])
def test_an_output_that_takes_nothing_is_one_sentence(daemon: FakeDaemon, command: str, redirection: str) -> None:
    script(daemon)
    done = in_a_shell(f"{command} {redirection}")
    assert done.returncode == 1
    reason = "No space left on device" if redirection == ">/dev/full" else "Bad file descriptor"
    assert done.stderr == f"aigw: cannot write to standard output: {reason}\n  what the command has started goes on\n"


def test_an_error_that_cannot_be_written_keeps_its_exit_code(home: Home) -> None:
    done = in_a_shell("status --json >/dev/full")
    assert done.returncode == 3
    assert done.stderr.startswith("aigw: cannot write to standard output")
    for silence in ("2>/dev/full", "2>&-", "<&- >&- 2>&-"):
        done = in_a_shell(f"status {silence}")
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


@pytest.mark.parametrize("command", ["--help", "status", "logs coder"])
def test_a_reader_that_leaves_is_no_error(daemon: FakeDaemon, command: str) -> None:
    script(daemon)
    done = in_a_shell(f"{command} | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_the_daemon_says_alike_that_its_output_takes_nothing(redirection: str) -> None:
    done = in_a_shell(f"--stop-all {redirection}", program=DAEMON)
    assert done.returncode == 1
    assert done.stderr.startswith("aigwd: cannot write to standard output: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_daemon_that_is_started_with_closed_streams_is_ready_all_the_same(home: Home) -> None:
    try:
        assert in_a_shell("pull nosuch <&- >&-").returncode in {1, 4}
        assert in_a_shell("status").returncode == 0
    finally:
        assert in_a_shell("down").returncode == 0


def test_a_fault_of_aigw_itself_is_a_sentence_and_its_traceback_is_kept(
    aigw: Aigw, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(main, "app", broken)
    ran = aigw("status")
    assert ran.code == 1
    assert ran.err == (
        f"aigw: internal error of aigw: division\n  the details are in {home.command_log}: please report them\n"
    )
    assert "ZeroDivisionError" in home.command_log.read_text()
    assert home.command_log.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(home.logs)
    home.logs.touch()
    ran = aigw("status")
    line = broken.__code__.co_firstlineno + 1
    assert ran.err.endswith(f"division\n  it happened in test_cli_mishaps.py, line {line}\n")


def script(daemon: FakeDaemon) -> None:
    """Answers that are longer than a pipe holds."""
    daemon.answers("GET /v1/status", starter("ready"))
    daemon.answers("POST /v1/up", starter("ready"))
    daemon.answers("POST /v1/backends/stop", starter("stopped"))
    daemon.streams("GET /v1/watch", [starter("ready")])
    daemon.streams("GET /v1/logs/coder", ["a line"] * 50_000)


def finished(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def in_a_shell(words: str, program: tuple[str, ...] = PROGRAM) -> subprocess.CompletedProcess[str]:
    return finished(["bash", "-c", f"{' '.join(program)} {words}"])


def in_a_folder_that_is_gone(command: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "gone"
    folder.mkdir()
    return finished(["sh", "-c", f'cd {folder} && rmdir {folder} && exec "$@"', "sh", *command])


def powerless() -> Iterator[str]:
    return iter(POWERLESS if os.getuid() == 0 else ())
