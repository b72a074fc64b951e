"""The quickstart, run as a newcomer runs it: in a checkout of its own, with what a machine may lack."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout_copy import CheckoutCopy, copy_checkout, write_script
from tests.support.engines import CHECKOUT


@pytest.fixture
def checkout(tmp_path: Path) -> CheckoutCopy:
    return copy_checkout(tmp_path)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def the_only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed quickstart says. More than one line would bury it."""
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done
    return lines[0]


def path_with(folder: Path, **programs: str) -> str:
    """A PATH with these scripts as programs and the few tools that the quickstart itself uses: no other Python."""
    for tool in ("sh", "dirname"):
        found = shutil.which(tool)
        assert found is not None
        folder.mkdir(exist_ok=True)
        (folder / tool).symlink_to(found)
    for name, text in programs.items():
        write_script(folder / name, text)
    return str(folder)


def test_an_old_python_is_told_with_its_version(checkout: CheckoutCopy, tmp_path: Path) -> None:
    old = 'case "$2" in *version_info\\[:3\\]*) echo 3.9.2 ;; *) exit 1 ;; esac'
    done = checkout.run("quickstart", PATH=path_with(tmp_path / "bin", python3=old), PYTHON="")

    assert the_only_sentence(done).startswith(
        "cannot find Python 3.11 or newer on PATH (python3 is 3.9.2): install one"
    )
    assert not checkout.venv.exists()


def test_no_python_at_all_is_told(checkout: CheckoutCopy, tmp_path: Path) -> None:
    done = checkout.run("quickstart", PATH=path_with(tmp_path / "bin"), PYTHON="")

    assert "(python3 is missing): install one" in the_only_sentence(done)


def test_a_wrong_python_that_was_asked_for_is_named(checkout: CheckoutCopy) -> None:
    done = checkout.run("quickstart", PYTHON="/no/such/python")

    assert the_only_sentence(done) == (
        "cannot use PYTHON=/no/such/python: aigw needs Python 3.11 or newer, and this is missing."
    )


def test_debians_bare_python_is_told_what_to_install(checkout: CheckoutCopy, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True, timeout=60)
    site_packages = next(bare.glob("lib/python3*/site-packages"))
    hidden = "import sys\nsys.modules['venv'] = sys.modules['ensurepip'] = None\n"
    (site_packages / "sitecustomize.py").write_text(hidden)
    done = checkout.run("quickstart", "--port", free_port(), PYTHON=str(bare / "bin" / "python"))

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"sudo apt install python{version}-venv" in the_only_sentence(done)
    assert not checkout.venv.exists()


def test_no_network_is_one_sentence_and_leaves_no_environment(checkout: CheckoutCopy) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/simple"
    done = checkout.run("quickstart", "--port", free_port(), PIP_INDEX_URL=nowhere, PIP_RETRIES="0")

    assert the_only_sentence(done).startswith("cannot reach the package index: check the network")
    assert not checkout.venv.exists()


def test_a_taken_port_is_told_before_the_long_work(checkout: CheckoutCopy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = checkout.run("quickstart", "--port", str(port))

    assert the_only_sentence(done).startswith(f"cannot use port {port}: PID ")
    assert done.stdout == ""
    assert not checkout.venv.exists()


@pytest.mark.parametrize("arguments", [("--port", "http"), ("--port",), ("--port", ""), ("--bogus",), ("4000",)])
def test_wrong_arguments_are_refused(checkout: CheckoutCopy, arguments: tuple[str, ...]) -> None:
    done = checkout.run("quickstart", *arguments)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_where_all_is_in_place_it_starts_asks_and_says_what_next(checkout: CheckoutCopy) -> None:
    checkout.pretend_ready(aigw='echo "aigw $*"')
    stamp = (checkout.venv / "aigw-lock").read_text()
    # The stand-in holds the port as a running aigw does, and is known for one by its name.
    stand_in = [sys.executable, "-m", "tests.support.fixed_gateway", "aigwd"]
    with subprocess.Popen(stand_in, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        port = gateway.stdout.readline().strip()
        done = checkout.run("quickstart", "--port", port)
        gateway.kill()

    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines if line[1:3] == "/3"] == ["1/3", "2/3", "3/3"]
    assert f"aigw pull smollm2-135m --profile starter-{port}\n" in done.stdout
    assert "aigw up" not in done.stdout
    assert "It speaks plainly.\n" in done.stdout
    assert [done.stdout.count(each) for each in ("curl ", "aigw status", "aigw down")] == [1, 1, 1]
    assert (checkout.venv / "aigw-lock").read_text() == stamp


def test_what_up_says_is_shown_when_it_fails(checkout: CheckoutCopy) -> None:
    checkout.pretend_ready(aigw='[ "$1" = pull ] || { echo "llamacpp  failed"; exit 1; }')
    done = checkout.run("quickstart", "--port", free_port())

    assert (done.returncode, done.stderr) == (1, "llamacpp  failed\n")


def test_a_start_that_fails_ends_it_with_the_words_and_status_of_aigw(checkout: CheckoutCopy) -> None:
    checkout.pretend_ready(aigw='echo "cannot start llamacpp: out of memory" >&2; exit 4')
    done = checkout.run("quickstart", "--port", free_port())

    assert done.returncode == 4
    assert done.stderr == "cannot start llamacpp: out of memory\n"
    assert "speaks" not in done.stdout
