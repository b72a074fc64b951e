"""The quickstart asks for the port first, and says who holds it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from scripts.setup import port as ports
from scripts.setup.port import Holder, check, find_process
from scripts.setup.steps import SetupError
from tests.support.wait import eventually_now


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_free_port_is_had(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()

    check(port)
    assert list(ports.holders(port)) == []


def test_a_port_whose_last_connections_linger_is_free(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = listener.accept()
        listener.close()
        accepted.close()  # this side closes first: the port's connection is in TIME_WAIT

    check(port)
    assert list(ports.holders(port)) == []


def test_the_holder_is_named_with_its_pid_and_program_and_another_port_is_proposed() -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; time.sleep(60)"], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        with pytest.raises(SetupError) as caught:
            check(port)
        holder.kill()

    assert f"cannot use port {port}: PID {holder.pid} ({sys.executable} -c" in str(caught.value)
    assert str(caught.value).endswith(f"take another port: scripts/quickstart --port {port + 1}")


@pytest.mark.parametrize("number", [0, 65_536, 10**30])
def test_a_number_that_is_no_port_is_refused(number: int) -> None:
    with pytest.raises(SetupError, match="a port is a number from 1 to 65535"):
        check(number)


def test_a_loopback_that_this_machine_lacks_is_in_nobodys_way() -> None:
    documentation_only = "192.0.2.1"

    assert ports.is_free(socket.AF_INET, documentation_only, 4000)


def test_a_holder_that_cannot_be_seen_is_named_by_its_user() -> None:
    assert str(find_process(uid=0, inode="no such socket")) == "a program of the user root"


def test_a_user_without_a_name_is_named_by_its_number() -> None:
    assert str(Holder(uid=4_000_000_000)) == "a program of the user with the number 4000000000"


@pytest.mark.parametrize(
    ("holder", "ours"),
    [
        (Holder(os.getuid(), 7, "/srv/.venv/bin/python /srv/.venv/bin/aigwd"), True),
        (Holder(os.getuid(), 7, "python -m aigw_daemon.gateway.worker"), True),
        (Holder(os.getuid(), 7, "python -m http.server"), False),
        (Holder(os.getuid() + 1, 7, "python -m aigw_daemon.main"), False),
        (Holder(os.getuid()), False),
    ],
)
def test_only_this_users_own_aigw_may_hold_the_port(holder: Holder, ours: bool) -> None:
    assert holder.is_our_aigw is ours


def test_our_own_aigw_on_the_port_is_fine() -> None:
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    arguments = [sys.executable, "-c", f"{program}; time.sleep(60)", "aigwd"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        eventually_now(lambda: list(ports.holders(port)), what=f"a listener on port {port}")
        check(port)
        holder.kill()

    assert holder.returncode is not None
