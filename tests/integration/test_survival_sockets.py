"""The way to the daemon: sockets that vanish, another environment, a daemon that is suspended or can't be reached."""

import asyncio
import json
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from msgspec import structs

from aigw_cli.main import main
from aigw_daemon import place
from aigw_daemon.control import wire
from aigw_daemon.identity import start_ticks
from tests.support.aigw import PROGRAM, Aigw, alive
from tests.support.living import Living, is_gone, kill
from tests.support.load import CHAT, ask_once
from tests.support.wait import eventually

SECONDS = 10.0
"""In which a daemon makes its sockets anew, or a command tells why it can't reach one."""

DEAF = """
import fcntl, os, sys, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, b"%d" % os.getpid())
time.sleep(600)
"""
"""A daemon that holds the lock and listens nowhere."""

ASKING = [
    ["status"], ["health"], ["start"], ["stop"], ["restart"], ["up"], ["down"], ["why", "fast"], ["tail"],
    ["test-routing", "fast"], ["profile", "use", "starter"], ["profile", "list"],
    ["cache", "stats"], ["daemon", "restart"], ["pull", "nothing"], ["status", "--watch"], ["status", "--json"],
]  # fmt: skip
READING = [["events"], ["logs", "gateway"]]
"""What is written needs nobody to be read."""


async def told(whole: Aigw, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a changed environment; it must end soon, however it ends."""
    return await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, *arguments],
        env=whole.env | env,
        cwd=whole.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def deaf(living: Living) -> subprocess.Popen[bytes]:
    """A process that holds the lock of the home and listens nowhere."""
    return subprocess.Popen([*PROGRAM[:1], "-c", DEAF, str(living.home.lock)])


def connected(pid: int) -> bool:
    """Whether a command has reached the daemon."""
    return bool(psutil.Process(pid).net_connections("unix"))


def sweep(living: Living) -> None:
    shutil.rmtree(living.home.runtime)


def lose_control(living: Living) -> None:
    living.home.control_socket.unlink()


def lose_link(living: Living) -> None:
    living.home.link_socket.unlink()


def replace_both(living: Living) -> None:
    for path in (living.home.control_socket, living.home.link_socket):
        path.unlink()
        path.write_text("somebody else's")


@pytest.mark.parametrize("harm", [sweep, lose_control, lose_link, replace_both])
async def test_sockets_that_vanish_are_made_anew_and_a_worker_that_dies_comes_back(
    living: Living, harm: Callable[[Living], None]
) -> None:
    before = living.worker
    harm(living)
    assert (await told(living.aigw, "status")).returncode == 0
    kill(before)
    await eventually(lambda: is_gone(before), what="the worker's end")
    await asyncio.to_thread(living.ready, SECONDS)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    for path in (living.home.control_socket, living.home.link_socket):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(living.home.runtime.stat().st_mode) == 0o700


async def test_a_command_in_another_environment_finds_the_daemon(living: Living, tmp_path: Path) -> None:
    assert living.daemon is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(living.aigw.home)
    roundabout = str(living.aigw.home / ".." / living.aigw.home.name)
    for env in (
        {"XDG_RUNTIME_DIR": str(tmp_path / "other")},
        {"XDG_RUNTIME_DIR": ""},
        {"AIGW_HOME": str(tmp_path / "link")},
        {"AIGW_HOME": roundabout, "XDG_RUNTIME_DIR": str(tmp_path / "nowhere")},
    ):
        shown = await told(living.aigw, "status", "--json", **env)
        assert json.loads(shown.stdout)["daemon"]["pid"] == living.daemon.pid, env
    worker = living.worker
    done = await told(living.aigw, "down", XDG_RUNTIME_DIR=str(tmp_path / "other"))
    assert (done.returncode, await asyncio.to_thread(living.ended)) == (0, 0)
    assert is_gone(worker)
    assert not living.home.place_file.exists()


async def test_the_place_of_the_daemon_is_private_and_comes_back(living: Living) -> None:
    assert living.daemon is not None
    written = json.loads(living.home.place_file.read_bytes())
    assert (written["pid"], written["control"]) == (living.daemon.pid, str(living.home.control_socket))
    assert stat.S_IMODE(living.home.place_file.stat().st_mode) == 0o600
    living.home.place_file.write_text("{")
    await eventually(lambda: living.home.place_file.stat().st_size > 1, what="the place written anew")
    assert json.loads(living.home.place_file.read_bytes()) == written


async def test_a_home_that_was_copied_is_another_home(living: Living, tmp_path: Path) -> None:
    shutil.copytree(living.aigw.home, tmp_path / "copy", ignore=shutil.ignore_patterns("daemon.lock"))
    assert (await told(living.aigw, "status", AIGW_HOME=str(tmp_path / "copy"))).returncode == 3


async def test_the_next_daemon_finds_the_worker_from_another_environment(living: Living, tmp_path: Path) -> None:
    worker = living.worker
    await asyncio.to_thread(living.kill)
    (tmp_path / "other").mkdir()
    living.aigw.env["XDG_RUNTIME_DIR"] = str(tmp_path / "other")
    await asyncio.to_thread(living.start)
    await asyncio.to_thread(living.ready)
    assert living.worker == worker


async def test_sockets_move_when_their_folder_is_gone_for_good(living: Living) -> None:
    worker, run = living.worker, living.home.runtime.parent
    shutil.rmtree(run)
    run.touch()
    try:
        await eventually(lambda: "move to another" in living.aigw.log("aigwd"), seconds=SECONDS, what="the move")
        assert living.daemon is not None
        assert (await asyncio.to_thread(living.ready)).daemon.pid == living.daemon.pid
        assert living.worker == worker
        kill(worker)
        await eventually(lambda: is_gone(worker), what="the worker's end")
        await asyncio.to_thread(living.ready)
        assert (await ask_once(living.aigw.port, CHAT))[0] == 200
        assert (await told(living.aigw, "down")).returncode == 0
        await asyncio.to_thread(living.ended)
    finally:
        shutil.rmtree(living.home.other_runtimes[0], ignore_errors=True)


async def test_a_daemon_whose_lock_was_removed_is_not_joined_by_another(living: Living) -> None:
    assert living.daemon is not None
    living.home.lock.unlink()
    second = living.popen()
    _, said = await asyncio.to_thread(second.communicate, timeout=20)
    assert second.returncode == 1
    assert f"another aigwd (PID {living.daemon.pid}) is running".encode() in said


async def test_a_suspended_daemon_is_told_by_every_command_and_ended_by_force(
    living: Living, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert living.daemon is not None
    pid, worker = living.daemon.pid, living.worker
    kill(pid, signal.SIGSTOP)
    for name, value in living.aigw.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(wire, "LOOK_SECONDS", 0.05)
    for command in ASKING:
        assert main(command) == 1, command
        said = "".join(capsys.readouterr())
        assert f"aigwd (PID {pid}) is suspended" in said, command
        assert f"kill -CONT {pid}" in said, command
    for command in READING:
        assert main(command) == 0, command
        assert f"aigwd (PID {pid}) is suspended" in capsys.readouterr().err, command
    kill(pid, signal.SIGCONT)
    # Nothing of what was told to have failed is done afterwards.
    assert await asyncio.to_thread(living.ready)
    assert (living.status().daemon.pid, living.worker) == (pid, worker)
    assert (await ask_once(living.aigw.port, CHAT))[0] == 200
    kill(pid, signal.SIGSTOP)
    assert main(["logs", "daemon"]) == 0  # it needs nobody to be read
    began = time.monotonic()
    assert (await told(living.aigw, "up")).returncode == 1
    assert time.monotonic() - began < SECONDS
    forced = await told(living.aigw, "down", "--force")
    assert forced.returncode == 0
    assert forced.stdout == f"killed aigwd (PID {pid}); stopped what was left: gateway\n"
    assert is_gone(worker)
    assert await asyncio.to_thread(living.ended) == -signal.SIGKILL
    assert (await told(living.aigw, "status")).returncode == 3


async def test_a_daemon_that_is_suspended_while_a_command_waits_is_told(living: Living) -> None:
    assert living.daemon is not None
    with living.aigw.started("tail") as tail:
        await eventually(lambda: connected(tail.process.pid), what="the connection")
        kill(living.daemon.pid, signal.SIGSTOP)
        assert await asyncio.to_thread(tail.process.wait, SECONDS) == 1
    assert "is suspended" in tail.text()
    kill(living.daemon.pid, signal.SIGCONT)
    assert (await told(living.aigw, "status")).returncode == 0


async def test_a_daemon_that_was_stopped_for_a_moment_is_not_called_suspended(living: Living) -> None:
    assert living.daemon is not None
    kill(living.daemon.pid, signal.SIGSTOP)
    with living.aigw.started("status") as status:
        await eventually(lambda: connected(status.process.pid), what="the connection")
        kill(living.daemon.pid, signal.SIGCONT)
        assert await asyncio.to_thread(status.process.wait, SECONDS) == 0


async def test_a_daemon_out_of_reach_is_told_with_its_pid_and_the_way_out(aigw: Aigw) -> None:
    living = Living(aigw)
    living.home.prepare()
    holder = deaf(living)
    try:
        await eventually(lambda: living.home.lock.exists() and living.home.lock.read_bytes(), what="the lock")
        spot = structs.replace(place.here(living.home), pid=holder.pid, start_ticks=start_ticks(holder.pid))
        place.keep(living.home, spot)
        for done in await asyncio.gather(told(aigw, "up"), told(aigw, "status"), told(aigw, "down")):
            assert done.returncode == 1
            assert f"aigwd (PID {holder.pid}) is running, but can't be reached on its control socket" in done.stderr
            assert "aigw down --force" in done.stderr
        living.home.place_file.unlink()  # by the lock alone it is found as well
        assert (await told(aigw, "down", "--force")).returncode == 0
        assert not alive(holder.pid)
    finally:
        holder.kill()
        holder.wait()
