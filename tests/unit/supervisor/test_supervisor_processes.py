"""The launcher over real processes: started, recognised, reaped, swept; and nobody else's touched."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from aigw_daemon.identity import Identity, boot_id
from aigw_daemon.state_file import Member
from aigw_daemon.supervisor import ports, proctable
from aigw_daemon.supervisor.failures import Exit
from aigw_daemon.supervisor.process import INSIST_SECONDS, LaunchError, LocalLauncher, NotAdopted, ProcessSpec
from aigw_daemon.supervisor.watch import LocalProcess
from tests.support.supervision import bearing, kill
from tests.support.wait import eventually

INSTANCE = f"test{os.getpid()}"
FOREVER = "import time; time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {FOREVER}"


@pytest.fixture
async def launcher() -> AsyncIterator[LocalLauncher]:
    made = LocalLauncher(INSTANCE)
    yield made
    for pid in bearing(INSTANCE):
        kill(pid)
    await eventually(lambda: not bearing(INSTANCE))
    made.close()


def python(folder: Path, code: str, name: str = "a", **more: object) -> ProcessSpec:
    spec = {"name": name, "argv": (sys.executable, "-S", "-c", code), "env": dict(os.environ), "log": folder / "a.log"}
    return ProcessSpec(**{**spec, **more})  # type: ignore[arg-type]


def start(argv: list[str], *, start_new_session: bool = False) -> subprocess.Popen[bytes]:
    """A process that no launcher knows."""
    return subprocess.Popen(argv, start_new_session=start_new_session)


async def says(folder: Path, text: str) -> None:
    await eventually(lambda: text in (folder / "a.log").read_text())


async def test_a_sweep_spares_what_is_started_under_its_name_meanwhile(launcher: LocalLauncher, tmp_path: Path) -> None:
    async def sweep_on_and_on() -> None:
        while True:
            await launcher.sweep("a")

    async with asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(sweep_on_and_on())
        started = []
        for _ in range(50):
            started.append(await launcher.spawn(python(tmp_path, FOREVER)))
            await asyncio.sleep(0)
        sweeping.cancel()
    await launcher.sweep("a")
    assert [process.exit for process in started if not process.running] == []


async def test_exit_code_and_signal_are_told_to_everybody_who_waits(launcher: LocalLauncher, tmp_path: Path) -> None:
    process = await launcher.spawn(python(tmp_path, "raise SystemExit(7)"))
    assert set(await asyncio.gather(process.wait(), process.wait())) == {Exit(code=7)}
    process = await launcher.spawn(python(tmp_path, FOREVER))
    kill(process.identity.pid)
    assert await process.wait() == Exit(signal=9)
    assert proctable.read(process.identity.pid) is None


async def test_cancelled_wait_harms_no_other(launcher: LocalLauncher, tmp_path: Path) -> None:
    process = await launcher.spawn(python(tmp_path, FOREVER))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.01)
    launcher.signal(process, signal.SIGTERM)
    assert await process.wait() == Exit(signal=15)


async def test_engine_inherits_no_descriptor_and_reads_nothing(launcher: LocalLauncher, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        process = await launcher.spawn(python(tmp_path, FOREVER))
        targets = [str(fd.readlink()) for fd in Path(f"/proc/{process.identity.pid}/fd").iterdir()]
    assert not [target for target in targets if target.startswith("socket:")]
    assert targets.count(str(tmp_path / "a.log")) == 2
    assert "/dev/null" in targets


async def test_worker_gets_the_descriptors_that_it_is_to_get(launcher: LocalLauncher, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        process = await launcher.spawn(python(tmp_path, FOREVER, pass_fds=(number,)))
        passed = Path(f"/proc/{process.identity.pid}/fd/{number}").readlink()
    assert str(passed).startswith("socket:")


async def test_environment_carries_the_cookie_and_nothing_of_systemd(launcher: LocalLauncher, tmp_path: Path) -> None:
    env = {**os.environ, "NOTIFY_SOCKET": "/run/n", "LISTEN_FDS": "1", "KEPT": "yes"}
    process = await launcher.spawn(python(tmp_path, FOREVER, env=env))
    # The kernel lets the parent go on a moment before the new environment can be read.
    await eventually(lambda: proctable.cookie(process.identity.pid), what="the environment")
    content = Path(f"/proc/{process.identity.pid}/environ").read_bytes().split(b"\0")
    for line in (f"AIGW_INSTANCE={INSTANCE}", "AIGW_BACKEND=a", "SPT_NOENV=1", "KEPT=yes"):
        assert line.encode() in content
    assert not [line for line in content if line.startswith((b"NOTIFY_SOCKET", b"LISTEN_"))]
    assert os.getsid(process.identity.pid) == process.identity.pid


async def test_program_that_is_not_there_or_not_executable_is_permanent(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    for program in (tmp_path / "nothing", plain):
        with pytest.raises(LaunchError, match=f"cannot run {program}: ") as refused:
            await launcher.spawn(python(tmp_path, "", argv=(str(program),)))
        assert refused.value.missing
        assert not refused.value.transient


def use_up_descriptors() -> list[int]:
    spare = []
    with suppress(OSError):
        while True:
            spare.append(os.open("/dev/null", os.O_RDONLY))
    return spare


async def test_lack_of_descriptors_may_pass(launcher: LocalLauncher, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, before[1]))
    try:
        spare = use_up_descriptors()
        with pytest.raises(LaunchError) as refused:
            await launcher.spawn(python(tmp_path, FOREVER))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in spare:
            os.close(descriptor)
    assert refused.value.transient


async def test_stop_of_a_deaf_process_kills_it_after_the_grace(launcher: LocalLauncher, tmp_path: Path) -> None:
    process = await launcher.spawn(python(tmp_path, DEAF))
    await says(tmp_path, "deaf")
    stopped = await launcher.stop(process, grace=0.1)
    assert (stopped.killed, stopped.exit, stopped.unkillable) == (True, Exit(signal=9), ())


async def test_sweep_spares_a_running_leader_of_the_same_name(launcher: LocalLauncher, tmp_path: Path) -> None:
    first = await launcher.spawn(python(tmp_path, FOREVER, name="gateway"))
    second = await launcher.spawn(python(tmp_path, FOREVER, name="gateway"))
    stopped = await launcher.stop(first)
    assert stopped.swept == 0
    assert (await launcher.sweep("gateway")).swept == 0
    assert second.running


async def test_sweep_ends_what_another_launcher_left_and_nothing_of_another_name_or_instance(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    earlier, stranger = LocalLauncher(INSTANCE), LocalLauncher(f"{INSTANCE}x")
    mine = await earlier.spawn(python(tmp_path, FOREVER))
    other = await earlier.spawn(python(tmp_path, FOREVER, name="b"))
    foreign = await stranger.spawn(python(tmp_path, FOREVER))
    # The kernel shows an environment only some time after the program was started.
    await eventually(lambda: {mine.identity.pid, other.identity.pid} <= bearing(INSTANCE))
    assert await launcher.strays() == {"a", "b"}
    assert (await launcher.sweep("a")).swept == 1
    await mine.wait()
    assert other.running
    assert foreign.running
    await stranger.stop(foreign)
    earlier.close()
    stranger.close()


async def test_recorded_descendant_is_swept_although_it_erased_its_environment(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    plain = start([sys.executable, "-c", FOREVER], start_new_session=True)
    entry = proctable.read(plain.pid)
    assert entry is not None
    stopped = await launcher.sweep("a", [Member(plain.pid, entry.start_ticks), Member(os.getppid(), 1)])
    assert stopped.swept == 1
    assert proctable.read(plain.pid) is None
    plain.wait()


async def test_adopted_process_is_watched_and_stopped(launcher: LocalLauncher, tmp_path: Path) -> None:
    earlier = LocalLauncher(INSTANCE)
    process = await earlier.spawn(python(tmp_path, FOREVER))
    await eventually(lambda: proctable.cookie(process.identity.pid), what="the environment")
    earlier.close()
    adopted = await launcher.adopt(process.identity)
    assert await launcher.adopt(process.identity) is adopted
    stopped = await launcher.stop(adopted)
    # It is our child all the same, as after an exec in place: its status is known.
    assert stopped.exit == Exit(signal=15)


@pytest.mark.parametrize("then", ["kept", "removed", "renamed", "moved elsewhere", "replaced"])
async def test_log_of_an_adopted_process_is_found_whatever_became_of_its_name(
    launcher: LocalLauncher, tmp_path: Path, then: str
) -> None:
    earlier, path = LocalLauncher(INSTANCE), tmp_path / "logs" / "a.log"
    process = await earlier.spawn(python(tmp_path, f"print('words', flush=True); {FOREVER}", log=path))
    earlier.close()
    await eventually(lambda: path.read_text() == "words\n")
    if then == "removed":
        path.unlink()
    elif then != "kept":
        path.rename(tmp_path / "a.old" if then == "moved elsewhere" else path.with_suffix(".old"))
    if then == "replaced":
        path.write_text("another\n")
    assert process.log_start is not None
    await launcher.adopt(process.identity, log_path=path, log_file=process.log_start.file)
    assert await launcher.tail(path, 5) == ["words"]
    assert launcher.log_size(path) == len("words\n")


async def test_file_that_a_program_chose_itself_is_not_taken_for_its_log(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    earlier, path, own = LocalLauncher(INSTANCE), tmp_path / "logs" / "a.log", tmp_path / "own.txt"
    redirect = f"import os; [os.dup2(os.open({str(own)!r}, os.O_WRONLY | os.O_CREAT), number) for number in (1, 2)]"
    process = await earlier.spawn(python(tmp_path, f"{redirect}; print('mine', flush=True); {FOREVER}", log=path))
    earlier.close()
    await eventually(lambda: own.exists() and own.read_text() == "mine\n")
    path.unlink()
    await launcher.adopt(process.identity, log_path=path)
    assert launcher.log_reader(path) is None


@pytest.mark.parametrize("field", ["start_ticks", "boot_id", "pgid", "instance"])
async def test_what_differs_in_anything_is_not_adopted_and_not_touched(
    launcher: LocalLauncher, tmp_path: Path, field: str
) -> None:
    earlier = LocalLauncher(f"{INSTANCE}y" if field == "instance" else INSTANCE)
    process = await earlier.spawn(python(tmp_path, FOREVER))
    known = process.identity
    identity = Identity(
        pid=known.pid,
        start_ticks=known.start_ticks + (field == "start_ticks"),
        boot_id="another" if field == "boot_id" else boot_id(),
        pgid=known.pgid + (field == "pgid"),
        cookie=INSTANCE,
    )
    with pytest.raises(NotAdopted):
        await launcher.adopt(identity)
    assert process.running
    await earlier.stop(process)
    earlier.close()


async def test_child_that_ended_during_an_exec_in_place_is_reaped_by_the_attempt(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    earlier = LocalLauncher(INSTANCE)
    process = await earlier.spawn(python(tmp_path, FOREVER))
    earlier.close()
    kill(process.identity.pid)
    await eventually(lambda: (entry := proctable.read(process.identity.pid)) is None or entry.zombie)
    with pytest.raises(NotAdopted, match="is gone"):
        await launcher.adopt(process.identity)
    assert proctable.read(process.identity.pid) is None


async def test_children_of_other_parts_of_the_daemon_keep_their_status(launcher: LocalLauncher, tmp_path: Path) -> None:
    child = start([sys.executable, "-c", "raise SystemExit(5)"])
    await eventually(lambda: (entry := proctable.read(child.pid)) is not None and entry.zombie)
    await launcher.sweep("a")
    assert child.wait() == 5


ONCE_DEAF = f"""
import signal
def first(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("swallowed", flush=True)
signal.signal(signal.SIGTERM, first)
print("up", flush=True)
while True:
    {FOREVER}
"""


async def test_process_that_swallows_the_first_sigterm_ends_at_the_next(
    launcher: LocalLauncher, tmp_path: Path
) -> None:
    process = await launcher.spawn(python(tmp_path, ONCE_DEAF))
    await says(tmp_path, "up")
    began = asyncio.get_running_loop().time()
    stopped = await launcher.stop(process, grace=15, insist=True)
    assert asyncio.get_running_loop().time() - began < INSIST_SECONDS + 2
    assert (stopped.exit, stopped.killed) == (Exit(signal=signal.SIGTERM), False)
    again = await launcher.spawn(python(tmp_path, ONCE_DEAF, log=tmp_path / "b.log"))
    await eventually(lambda: "up" in (tmp_path / "b.log").read_text())
    stopped = await launcher.stop(again, grace=2 * INSIST_SECONDS)
    assert (stopped.exit, stopped.killed) == (Exit(signal=signal.SIGKILL), True)


async def test_port_owner_is_named(launcher: LocalLauncher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        owner = launcher.port_owner(port)
        assert owner is not None
        assert (owner.pid, owner.ours) == (os.getpid(), False)
        assert f"(PID {os.getpid()}, user " in str(owner)
        assert ports.held_by(port, [1, os.getpid()])
        assert not ports.held_by(port, [1])
    assert launcher.port_owner(port) is None


async def test_module_that_an_interpreter_runs_is_named_behind_a_port(launcher: LocalLauncher) -> None:
    port = launcher.free_port()
    with start([sys.executable, "-P", "-m", "http.server", "--bind", "127.0.0.1", str(port)]) as process:
        await eventually(lambda: bool(ports.listeners(port)), what="the server")
        assert f" -m http.server (PID {process.pid}, user " in str(launcher.port_owner(port))
        process.kill()


async def test_port_of_an_engine_of_ours_is_known_by_its_backend(launcher: LocalLauncher, tmp_path: Path) -> None:
    port = launcher.free_port()
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); {FOREVER}"
    process = await launcher.spawn(python(tmp_path, code))
    await says(tmp_path, "up")
    owner = launcher.port_owner(port)
    assert owner is not None
    assert (owner.ours, owner.backend) == (True, "a")
    assert launcher.listens(process, port)
    await launcher.stop(process)


def test_port_that_two_listen_on_is_not_held_by_one_of_them() -> None:
    code = (
        "import socket, sys, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('up', flush=True); time.sleep(600)"
    )
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            assert not ports.held_by(port, [os.getpid()])
            assert ports.held_by(port, [os.getpid(), other.pid])
            other.kill()


ORPHANAGE = f"""
import asyncio, os, sys
from pathlib import Path
from aigw_daemon.supervisor import proctable
from aigw_daemon.supervisor.process import LocalLauncher, ProcessSpec, become_subreaper

PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', 'pass']); {FOREVER}"

async def main():
    become_subreaper()
    launcher = LocalLauncher(sys.argv[1])
    spec = ProcessSpec("a", (sys.executable, "-S", "-c", PARENT), dict(os.environ), Path(sys.argv[2]))
    process = await launcher.spawn(spec)
    while not proctable.descendants(proctable.table(), [process.identity.pid]):
        await asyncio.sleep(0.01)
    await launcher.stop(process)
    left = [entry for entry in proctable.table().values() if entry.ppid == os.getpid()]
    print("left:", left)
    launcher.close()

asyncio.run(main())
"""


def test_orphans_are_reaped(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", ORPHANAGE, INSTANCE, str(tmp_path / "a.log")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("left: []\n", "")


STRANGERS = """
import asyncio, os, subprocess, sys, time
from aigw_daemon.supervisor import proctable
from aigw_daemon.supervisor.process import LocalLauncher, become_subreaper

async def main():
    become_subreaper()
    # A stranger leads a session of its own, another one shares ours; their parent is gone before they end.
    leave = "import os, time; os.fork() and os._exit(0); {session}; time.sleep(0.2)"
    for session in ("os.setsid()", "pass"):
        subprocess.run([sys.executable, "-S", "-c", leave.format(session=session)], check=True)
    ours = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"])
    tending = asyncio.get_running_loop().create_task(LocalLauncher(sys.argv[1]).tend())
    inherited = lambda: [entry for entry in proctable.table().values() if entry.ppid == os.getpid()]
    ours.wait()
    while not any(entry.zombie for entry in inherited()):
        await asyncio.sleep(0.01)
    ended = time.monotonic()
    while any(entry.zombie for entry in inherited()):
        await asyncio.sleep(0.01)
    print(ours.returncode, round(time.monotonic() - ended, 1) <= float(sys.argv[2]))
    tending.cancel()

asyncio.run(main())
"""


def test_zombies_of_strangers_are_reaped_within_a_second_or_so() -> None:
    done = finished([sys.executable, "-c", STRANGERS, INSTANCE, "3"])
    assert (done.stdout, done.stderr) == ("7 True\n", "")


CARRIER = """
import asyncio, os, sys
from aigw_daemon.supervisor.process import LocalLauncher

async def main():
    launcher = LocalLauncher(sys.argv[1])
    print(sorted(await launcher.strays()), (await launcher.sweep("a")).swept)

asyncio.run(main())
"""


def test_a_sweep_spares_the_shell_that_carries_our_cookie_and_waits_for_us() -> None:
    stray = subprocess.Popen([sys.executable, "-S", "-c", FOREVER], env=marked())
    command = 'sleep 0; "$@"; echo alive'
    argv = ["sh", "-c", command, "sh", sys.executable, "-c", CARRIER, INSTANCE]
    done = subprocess.run(argv, env=marked(), capture_output=True, text=True, check=False, timeout=60)
    stray.wait(5)
    assert (done.stdout, done.stderr) == ("['a'] 1\nalive\n", "")


def marked() -> dict[str, str]:
    """The environment of an engine."""
    return {**os.environ, "AIGW_INSTANCE": INSTANCE, "AIGW_BACKEND": "a"}


def finished(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


async def test_usage_counts_the_whole_tree(launcher: LocalLauncher, tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {FOREVER!r}]); print('up', flush=True); "
    process: LocalProcess = await launcher.spawn(python(tmp_path, code + FOREVER))
    await says(tmp_path, "up")
    alone = launcher.usage(process).memory_bytes
    tending = asyncio.get_running_loop().create_task(launcher.tend())
    await eventually(lambda: launcher.members(process))
    tending.cancel()
    assert launcher.usage(process).memory_bytes > alone > 1_000_000
    await launcher.stop(process)
