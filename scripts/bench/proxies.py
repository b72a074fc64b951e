"""The proxies that are measured, in the order of the report."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from scripts.bench import packages
from scripts.bench.answers import MODEL
from scripts.bench.machine import BenchError, free_port, pinned, tree
from scripts.bench.proxy import HERE, Direct, ProcessProxy, Proxy, nginx_command

_COMMAND_SECONDS = 120


class Nginx(ProcessProxy):
    """nginx `proxy_pass` with connections kept."""

    name = "nginx"

    def command(self, upstream_port: int) -> list[str]:
        return nginx_command(
            self.folder, HERE / "nginx.conf", {"PORT": str(self.port), "UPSTREAM_PORT": str(upstream_port)}
        )


class BareRelay(ProcessProxy):
    """The yardstick: server, dispatcher and upstream client of the gateway, without its features."""

    name = "bare relay"
    program = "bare_server.py"

    def command(self, upstream_port: int) -> list[str]:
        options = ["--port", str(self.port), "--upstream-port", str(upstream_port)]
        return [sys.executable, str(HERE / self.program), *options]


class BareOnUvicorn(BareRelay):
    """The same dispatcher and client as an ASGI application on uvicorn as it comes."""

    name = "bare relay on uvicorn"
    program = "bare_uvicorn.py"


class VllmRouter(ProcessProxy):
    """The Rust router of the vLLM project, from its wheel."""

    name = "vllm-router"

    def command(self, upstream_port: int) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--policy", "round_robin", "--log-level", "error"]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        return [str(packages.vllm_router()), *options, *metrics, "--worker-urls", f"http://127.0.0.1:{upstream_port}"]


class LiteLlm(ProcessProxy):
    """LiteLLM's proxy with one worker, as its pages advise for production: quiet, no debugging, no telemetry."""

    name = "litellm"
    slow = True
    environment: ClassVar[Mapping[str, str]] = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Without keys, as the others run.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }

    def command(self, upstream_port: int) -> list[str]:
        target = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
        config = self.folder / "litellm.json"
        # JSON is YAML, which is what LiteLLM reads.
        models = [{"model_name": MODEL, "litellm_params": target}]
        config.write_text(json.dumps({"model_list": models, **self.settings()}))
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1", "--telemetry", "False"]
        return [str(packages.litellm()), "--config", str(config), *options]

    def settings(self) -> dict[str, object]:
        """What its configuration has beside the models."""
        return {}


class Portkey(ProcessProxy):
    """Portkey's gateway on Node; each request names its upstream in headers."""

    name = "portkey"
    slow = True
    environment: ClassVar[Mapping[str, str]] = {"NODE_ENV": "production"}

    def command(self, upstream_port: int) -> list[str]:
        self.headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
        }
        return [*packages.portkey(), f"--port={self.port}", "--headless"]


class Aigw(Proxy):
    """aigw as an operator runs it: daemon and worker, all features on, the upstream as an `openai` backend.

    The daemon counts as well: it takes in the records of the requests.
    """

    name = "aigw"
    _began = False
    _daemon = 0

    def start(self, upstream_port: int) -> None:
        profile = self.folder / "bench.yaml"
        profile.write_text(self.profile(upstream_port))
        self._began = True
        try:
            self.run_command("up", "--profile", str(profile))
            status = json.loads(self.run_command("status", "--json"))
            self._daemon = status["daemon"]["pid"]
            self.port = urlsplit(status["gateway"]["url"]).port or 0
            self.wait_until_ready()
        except BenchError:
            self.stop()
            raise

    def profile(self, upstream_port: int) -> str:
        """What it serves."""
        return (
            "version: 1\n"
            "gateway: {port: 0}\n"
            f"backends: {{upstream: {{engine: openai, url: 'http://127.0.0.1:{upstream_port}/v1'}}}}\n"
            f"routes: {{{MODEL}: {{targets: [upstream]}}}}\n"
            f"cache: {self.cache()}\n"
        )

    def cache(self) -> str:
        """The profile's section: no answer is kept, so each request is relayed."""
        return "{mode: off}"

    def stop(self) -> None:
        # An `up` that failed may have left a daemon, too.
        if self._began:
            self._began = False
            self._daemon = 0
            self.run_command("down")

    def pids(self) -> list[int]:
        return tree(self._daemon) if self._daemon else []

    def run_command(self, *arguments: str) -> str:
        """What the command line says. Raises BenchError."""
        program = str(Path(sys.executable).with_name("aigw"))
        environment = {**os.environ, "AIGW_HOME": str(self.folder / "home")}
        command = pinned(self.core, program, *arguments)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        if done.returncode:
            with contextlib.suppress(OSError):
                (self.folder / "log").write_text(done.stdout + done.stderr)
            raise BenchError(f"aigw {arguments[0]} failed with exit code {done.returncode}: {self.log_tail()}")
        return done.stdout


ALL: tuple[type[Proxy], ...] = (
    Direct,
    Nginx,
    BareRelay,
    BareOnUvicorn,
    VllmRouter,
    Portkey,
    LiteLlm,
    Aigw,
)
