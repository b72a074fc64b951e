"""Which of a backend's models a first request should ask for, and at which endpoint (pure)."""

import re
from collections.abc import Iterable
from typing import Final

from aigw_daemon.control.schema import Example
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, ModelView

_ENDPOINTS: Final = {"chat": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS, "rerank": RERANK}
"""By what a model says it can do, the most useful first."""
_PREFERRED: Final = {endpoint: rank for rank, endpoint in enumerate(_ENDPOINTS.values())}
_NAMED_FOR: Final = (
    (RERANK, re.compile(r"rerank", re.IGNORECASE)),
    (EMBEDDINGS, re.compile(r"embed|(?:^|[/_-])(?:bge|e5|gte|minilm)(?:[_-]|$)", re.IGNORECASE)),
    (None, re.compile(r"whisper|transcri|tts|dall-e|image|moderation|speech|audio|sora", re.IGNORECASE)),
)
"""What the usual names of models that don't chat look like; None: the gateway has no endpoint for them."""


def example(models: Iterable[ModelView]) -> Example | None:
    """The model to try first: one that is known to chat, then one that may, then one of another endpoint."""
    found = [(_rank(model, endpoint), model.id, endpoint) for model in models if (endpoint := _endpoint(model))]
    if not found:
        return None
    _, model, endpoint = min(found)
    return Example(model=model, endpoint=endpoint)


def _endpoint(model: ModelView) -> str | None:
    """Where the model answers. One that doesn't say goes by its name."""
    said = [endpoint for word, endpoint in _ENDPOINTS.items() if word in model.capabilities]
    if said:
        return said[0]
    return next((endpoint for endpoint, pattern in _NAMED_FOR if pattern.search(model.id)), CHAT)


def _rank(model: ModelView, endpoint: str) -> tuple[int, bool]:
    return _PREFERRED[endpoint], not model.capabilities
