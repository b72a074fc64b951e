"""Backends for all that a model can be asked for, each a real llama-server with the small model."""

import json
from pathlib import Path
from typing import Any

from tests.support.aigw import llamacpp_section

EMBEDDER = "smollm2-embed"
RERANKER = "smollm2-rerank"

TOOLS_TEMPLATE = Path(__file__).with_name("tools.jinja")

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}},
            "required": ["city"],
        },
    },
}
"""A tool."""


def sections(context: int = 1024, *, tools: bool = True, embedder: str = EMBEDDER, reranker: str = RERANKER) -> str:
    """Three entries of ``backends``, the last two under these names of their models.

    With ``tools``, the one for chat is told how the small model may call them.
    """
    chat = llamacpp_section("binary", context=context)
    template = f'    args: ["--chat-template-file", "{TOOLS_TEMPLATE}"]\n' if tools else ""
    vectors = llamacpp_section("binary", "embedder", embedder, 512)
    ranks = llamacpp_section("binary", "reranker", reranker, 512)
    # A chat model has no pooling of its own, without which llama-server makes no vectors of texts.
    pooled = '    embeddings: true\n    args: ["--pooling", "mean"]\n'
    return f"{chat}{template}{vectors}{pooled}{ranks}    rerank: true\n"


def weather_in(city: str, *before: str) -> list[dict[str, Any]]:
    """A conversation that asks for the weather in a city, after some in which the tool was called.

    The small model calls a tool surely only when it has seen it done.
    """
    return [message for seen in before for message in _called(seen)] + [_asked(city)]


def _asked(city: str) -> dict[str, Any]:
    return {"role": "user", "content": f"Weather in {city}?"}


def _called(city: str) -> list[dict[str, Any]]:
    call = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return [
        _asked(city),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"call-{city}", "type": "function", "function": call}],
        },
    ]
