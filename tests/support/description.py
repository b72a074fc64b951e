"""The gateway's OpenAPI description, without a gateway."""

from typing import Any

from aigw_daemon.gateway.app import build_app
from aigw_daemon.gateway.cache.cache import Cache
from aigw_daemon.gateway.cache.memory import MemoryTier
from aigw_daemon.gateway.live import Live


def description() -> dict[str, Any]:
    """As ``/openapi.json`` has it."""
    return build_app(Live(), Cache(MemoryTier()).report).openapi()
