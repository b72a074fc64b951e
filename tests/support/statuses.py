"""Statuses that tests of the CLI talk about: a workstation with everything on it, and the starter on its way up."""

from typing import Any

from aigw_daemon.control.schema import BackendStatus, DaemonStatus, Example, GatewayStatus, Status

GATEWAY = GatewayStatus(url="http://127.0.0.1:4000", state="ready", pid=4712)
DAEMON = DaemonStatus(pid=4711, version="0.1.0", uptime_s=93784.5)


def llamacpp(state: str, **changes: Any) -> BackendStatus:
    """The starter's one backend."""
    facts: dict[str, Any] = {"pid": 4713, "address": "127.0.0.1:8080", "memory_bytes": 222298112} | changes
    if state == "ready":
        example = Example(model="smollm2-135m", endpoint="chat/completions")
        facts = {"models": ["smollm2-135m"], "example": example, "uptime_s": 0.5} | facts
    return BackendStatus(name="llamacpp", engine="llamacpp", state=state, **facts)


def starter(state: str, *, gateway: GatewayStatus = GATEWAY, **changes: Any) -> Status:
    """The starter profile with its backend in this state."""
    return Status(profile="starter", daemon=DAEMON, gateway=gateway, backends=[llamacpp(state, **changes)])


def workstation() -> Status:
    """Several engines in several states."""
    return Status(
        profile="workstation",
        daemon=DAEMON,
        gateway=GATEWAY,
        backends=[
            BackendStatus(
                name="ollama",
                engine="ollama",
                state="ready",
                pid=20711,
                address="127.0.0.1:11434",
                memory_bytes=851443712,
                models=["llama3.1:latest", "qwen2.5-coder:7b", "nomic-embed-text:latest", "gpt-oss:20b"],
                uptime_s=7530,
                since_s=7530,
                in_flight=3,
            ),
            BackendStatus(
                name="coder",
                engine="vllm",
                state="starting",
                pid=20935,
                address="127.0.0.1:8001",
                gpus=[0],
                memory_bytes=5830423347,
                since_s=42,
                progress="Loading safetensors checkpoint shards: 50% Completed",
            ),
            BackendStatus(
                name="dolphin",
                engine="vllm",
                state="failed",
                gpus=[0],
                restarts=3,
                since_s=193,
                why="out of GPU memory: 18.2 GiB asked, 9.1 GiB free",
                log_tail=["torch.OutOfMemoryError: CUDA out of memory.\x1b[2J\x07"],
            ),
        ],
    )
