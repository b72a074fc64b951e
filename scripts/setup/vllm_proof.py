"""Shows that the vLLM of the tests works: it starts, answers one chat completion, and leaves no process behind."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from scripts.setup.steps import TAIL_LINES, SetupError, is_stamped, locked, remove, run, stage, write_last
from tests.support.engines import environment_without_checkout, tiny_llama, vllm_home, vllm_python

MODEL_SCRIPT = Path(__file__).with_name("tiny_llama.py")
SERVED_NAME = "tiny-llama"
READY_SECONDS = 300
"""vLLM is up after about 70 s on two idle cores; a busy machine may take several times that."""
ANSWER_SECONDS = 60
STOP_SECONDS = 30
POLL_SECONDS = 0.2


def make_model() -> None:
    """Makes the tiny model unless it is there, made by this very script. Raises SetupError."""
    folder = tiny_llama()
    recipe = hashlib.sha256(MODEL_SCRIPT.read_bytes()).hexdigest()
    with locked(folder):
        if is_stamped(folder / "aigw-recipe", recipe):
            return
        remove(folder)
        with stage("vllm: make the tiny model"):
            run([vllm_python(), MODEL_SCRIPT, folder])
        write_last(folder / "aigw-recipe", recipe)


def prove() -> None:
    """Starts vLLM, asks it once and stops it, unless this environment was proven before. Raises SetupError."""
    stamp = vllm_home() / "aigw-proof"
    with locked(vllm_home()):
        if stamp.exists():
            return
        with stage("vllm: start it, ask it once, stop it (about a minute)"), serving() as url:
            ask(url)
        write_last(stamp, "answered a chat completion and stopped without leaving a process\n")


def ask(url: str) -> None:
    """One chat completion; raises SetupError unless it says something and counts its tokens."""
    question = {"model": SERVED_NAME, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
        answer = json.load(response)
    if answer["usage"]["completion_tokens"] < 1:
        raise SetupError(f"cannot trust this vLLM: it answered without a token: {answer}")


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """A vLLM that serves the tiny model: its address. Afterwards its session is gone, or SetupError says who stayed."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        leader = subprocess.Popen(
            [
                *(vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", tiny_llama()),
                *("--served-model-name", SERVED_NAME, "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"),
            ],
            env=environment_without_checkout() | vllm_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_ready(leader, port)
            yield f"http://127.0.0.1:{port}"
        except (SetupError, OSError) as error:
            log.seek(0)
            tail = "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
            raise SetupError(f"{tail}\ncannot prove vLLM: {error}") from error
        finally:
            stop(leader)


def vllm_environment() -> dict[str, str]:
    """Offline, a small cache, and no pinning of threads: two engines on two cores would get the same core."""
    return {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_ready(leader: "subprocess.Popen[bytes]", port: int) -> None:
    """Waits until /health answers 200; raises SetupError when the process ends or the time is over."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if leader.poll() is not None:
            raise SetupError(f"it ended with status {leader.returncode} before it was ready")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(POLL_SECONDS)
    raise SetupError(f"it wasn't ready after {READY_SECONDS} s")


def stop(leader: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the leader, then the whole session must be gone. What stays is killed and told in a SetupError."""
    leader.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    while session_members(leader.pid) and time.monotonic() < deadline:
        leader.poll()
        time.sleep(POLL_SECONDS)
    left = session_members(leader.pid)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    leader.wait()
    if left:
        raise SetupError(f"it left processes behind {STOP_SECONDS} s after SIGTERM (killed now): {sorted(left)}")


def session_members(session: int) -> set[int]:
    """The living processes of a session. A zombie counts as gone: only its parent's attention is missing."""
    members = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # After the name in brackets: state, parent, process group, session.
            state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                members.add(int(entry.name))
    return members
