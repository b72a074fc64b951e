"""A real llama-server of the test's own, beside any aigw: the engine behind a gateway under test."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

from tests.support.aigw import free_port
from tests.support.engines import llama_server, smollm2

SERVED = "smollm2-135m"
START_SECONDS = 60.0


@dataclass
class LlamaServer:
    """One that runs."""

    process: subprocess.Popen[bytes]
    port: int

    async def metric(self, name: str) -> float:
        """One of its own counters, such as ``requests_processing``."""
        async with httpx.AsyncClient(timeout=10) as client:
            text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).raise_for_status().text
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"llamacpp:{name} "))

    def freeze(self) -> None:
        """Stop it as a debugger would; it is still there, and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """No word of farewell."""
        self.process.kill()


@contextlib.asynccontextmanager
async def llama_server_running(context: int = 2048, places: int = 1) -> AsyncIterator[LlamaServer]:
    """One with the small model, ready; gone at the end of the block, frozen or not."""
    port = free_port()
    process = _start(port, context, places)
    try:
        await _ready(port)
        yield LlamaServer(process, port)
    finally:
        process.kill()
        process.wait()


def _start(port: int, context: int, places: int) -> subprocess.Popen[bytes]:
    argv = [
        str(llama_server()), "-m", str(smollm2()), "--alias", SERVED, "--host", "127.0.0.1", "--port", str(port),
        "-c", str(context), "-np", str(places), "-t", "2", "--no-webui", "--offline", "--metrics",
    ]  # fmt: skip
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet)


async def _ready(port: int) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(START_SECONDS):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"http://127.0.0.1:{port}/health")).status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(0.1)  # nothing tells when it listens
