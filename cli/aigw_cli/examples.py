"""Command lines that each command's help shows."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "up": ("aigw up", "aigw up --profile ./team.yaml", "aigw up coder --strict"),
        "down": ("aigw down",),
        "start": ("aigw start coder",),
        "stop": ("aigw stop coder", "aigw stop coder --now"),
        "restart": ("aigw restart coder",),
        "status": ("aigw status", "aigw status --models", "aigw status --watch"),
        "health": ("aigw health && echo healthy",),
        "why": ("aigw why coder",),
        "events": ("aigw events coder --follow", "aigw events --lines 10"),
        "logs": ("aigw logs coder --follow", "aigw logs daemon --lines 50"),
        "tail": ("aigw tail", "aigw tail --json"),
        "test-routing": ("aigw test-routing qwen-coder --explain", "aigw test-routing qwen-coder --assume-down ollama"),
        "pull": (
            "aigw pull smollm2-135m",
            "aigw pull https://example.org/tiny.gguf --sha256 b179c952… --name tiny",
            "aigw pull qwen2.5-coder:7b --backend ollama",
        ),
        "profile list": ("aigw profile list",),
        "profile use": ("aigw profile use workstation",),
        "profile validate": ("aigw profile validate ./team.yaml",),
        "profile show": ("aigw profile show starter",),
        "cache stats": ("aigw cache stats",),
        "cache clear": ("aigw cache clear", "aigw cache clear --model llama3.1:latest --older-than 10m"),
        "cache show": ("aigw cache show 9f86d081",),
        "daemon restart": ("aigw daemon restart",),
    }
)
