"""Starting the daemon in the background: what it says on its pipe, and what is said when it says nothing.

Small programs stand in for the daemon, each with one fault that a real one can't be asked for.
"""

import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aigw_daemon.control.codec import plain
from aigw_daemon.control.launch import LaunchError, ensure_daemon, is_listening, stop_all
from aigw_daemon.home import Home
from tests.support.wait import eventually_now

PRELUDE = """
import json, os, socket, sys, time
ready = int(sys.argv[sys.argv.index("--ready-fd") + 1])
def tell(message):
    os.write(ready, (json.dumps(message) + "\\n").encode())
    os.close(ready)
"""

READY = """
open("{notes}", "w").write(json.dumps(
    [os.getpid(), os.getsid(0), os.getcwd(), os.environ["AIGW_HOME"], sorted(map(int, os.listdir("/proc/self/fd"))),
     "AIGW_INSTANCE" in os.environ]
))
print("hello from the daemon", flush=True)
tell({{"ready": True}})
time.sleep(60)
"""


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    """Where a stand-in writes what it found; its process ends with the test."""
    file = tmp_path / "notes.json"
    yield file
    if file.exists():
        pid = int(file.read_text().strip("[]").split(",")[0])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def program(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", PRELUDE + body)


def problem_of(home: Home, body: str, timeout: float = 20.0) -> LaunchError:
    with pytest.raises(LaunchError) as raised:
        ensure_daemon(home, command=program(body), timeout=timeout)
    return raised.value


def test_a_daemon_that_is_ready_stays_behind_detached(
    home: Home, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIGW_HOME", "home")
    monkeypatch.setenv("AIGW_INSTANCE", "of another aigw's engine")
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    ensure_daemon(home, command=program(READY.format(notes=notes)))
    os.close(leaked)
    pid, session, folder, aigw_home, descriptors, marked = json.loads(notes.read_text())
    assert not marked
    assert pid == session != os.getsid(0)
    assert folder == "/"
    assert aigw_home == str(tmp_path / "home")
    # Standard streams, the pipe, the notes, and the listing itself: nothing of ours.
    assert len(descriptors) <= 6
    assert home.daemon_log.read_text() == "hello from the daemon\n"
    assert stat.S_IMODE(home.daemon_log.stat().st_mode) == 0o600


def test_its_own_problem_is_told(home: Home) -> None:
    problem = {"code": "port_taken", "message": "port 4000 is taken by nginx", "hint": "stop it"}
    error = problem_of(home, f"tell({{'error': {problem}}})")
    assert plain(error.problem).items() >= problem.items()


def test_a_death_without_a_word_shows_the_end_of_its_log(home: Home) -> None:
    home.prepare()
    home.daemon_log.write_text("from an earlier life\n")
    error = problem_of(home, "print('Traceback'); print('ImportError: no module'); sys.exit(1)")
    assert error.problem.code == "daemon_died"
    assert error.problem.message == "aigwd ended before it was ready"
    assert error.problem.details == ["Traceback", "ImportError: no module"]


@pytest.mark.parametrize("line", ["'nonsense'", "[1]", "{'error': 1}", "{}"])
def test_a_line_that_means_nothing_counts_as_a_death(home: Home, line: str) -> None:
    assert problem_of(home, f"tell({line})").problem.code == "daemon_died"


def test_a_daemon_that_says_nothing_is_given_up(home: Home, notes: Path) -> None:
    body = f"open('{notes}', 'w').write(str([os.getpid()])); time.sleep(60)"
    error = problem_of(home, body, timeout=1.0)
    assert error.problem.message == "aigwd did not say that it is ready within 1 s"
    eventually_now(notes.exists)


def test_a_missing_interpreter_is_said(home: Home) -> None:
    with pytest.raises(LaunchError, match="cannot start aigwd with /nowhere/python: No such file"):
        ensure_daemon(home, command=("/nowhere/python",))


def test_a_daemon_that_listens_is_used(home: Home) -> None:
    home.prepare()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.control_socket))
        listener.listen()
        ensure_daemon(home, command=("/nowhere/python",))
        assert is_listening(home)
    assert not is_listening(home)


def test_the_second_of_two_finds_the_daemon_of_the_first(home: Home) -> None:
    home.prepare()
    body = f"""
listener = socket.socket(socket.AF_UNIX)
if os.fork():
    tell({{"error": {{"code": "already_running", "message": "another daemon holds the lock"}}}})
    sys.exit(1)
os.close(ready)
time.sleep(0.3)
listener.bind("{home.control_socket}")
listener.listen()
listener.accept()  # the question whether it is there
sys.exit(0)
"""
    ensure_daemon(home, command=program(body))
    eventually_now(lambda: not is_listening(home))


def test_a_daemon_that_was_on_its_way_out_is_followed_by_a_new_one(home: Home) -> None:
    body = f"""
if not os.path.exists("{home.state}/second"):
    open("{home.state}/second", "w").close()
    tell({{"error": {{"code": "already_running", "message": "the last daemon is ending"}}}})
else:
    tell({{"ready": True}})
"""
    ensure_daemon(home, command=program(body))
    assert (home.state / "second").exists()


def test_a_lock_that_nobody_answers_for_is_told(home: Home) -> None:
    body = 'tell({"error": {"code": "already_running", "message": "PID 1 holds the lock"}})'
    assert problem_of(home, body, timeout=0.5).problem.message == "PID 1 holds the lock"


def test_stop_all_answers_what_was_said() -> None:
    assert stop_all(command=(sys.executable, "-c", "print('stopped 2 engines')")) == "stopped 2 engines"


def test_stop_all_that_fails_shows_why() -> None:
    with pytest.raises(LaunchError) as raised:
        stop_all(command=(sys.executable, "-c", "import sys; sys.exit('PID 7 would not die')"))
    assert raised.value.problem.details == ["PID 7 would not die"]
