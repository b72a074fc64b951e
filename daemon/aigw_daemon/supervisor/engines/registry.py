"""The engines that aigw can run: one line each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aigw_daemon.supervisor.engines.base import Engine
from aigw_daemon.supervisor.engines.command import CommandEngine
from aigw_daemon.supervisor.engines.llamacpp import LlamacppEngine
from aigw_daemon.supervisor.engines.ollama import OllamaEngine
from aigw_daemon.supervisor.engines.redis import RedisEngine
from aigw_daemon.supervisor.engines.vllm import VllmEngine
from aigw_daemon.words import EngineKind

ENGINES: Final[Mapping[EngineKind, Engine]] = MappingProxyType(
    {
        EngineKind.LLAMACPP: LlamacppEngine(),
        EngineKind.OLLAMA: OllamaEngine(),
        EngineKind.VLLM: VllmEngine(),
        EngineKind.COMMAND: CommandEngine(),
        EngineKind.REDIS: RedisEngine(),
    }
)
"""By kind; those of `openai` are URLs, which somebody else runs."""
