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
from aigw_daemon.supervisor.failures import FailureKind, unrunnable
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


def engine(kind: EngineKind, name: str) -> Engine:
    """The engine of a backend. Raises Unrunnable when this aigw can't run that kind."""
    found = ENGINES.get(kind)
    if found is None:
        known = ", ".join(kind for kind in ENGINES if kind is not EngineKind.REDIS)
        raise unrunnable(
            FailureKind.BAD_SETTING,
            f"this aigw can't run the engine {kind} of the backend {name} yet (it runs: {known}): start it yourself "
            "and give its address with attach:, or as engine: openai with url:",
        )
    return found
