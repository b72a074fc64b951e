"""What a running llama.cpp says of its own work: the tests' view past the gateway."""

from typing import Any

import httpx

from tests.support.aigw import MODEL, Aigw
from tests.support.wait import eventually_now

ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": 1500}
"""llama.cpp's own parameter beside OpenAI's: an answer that takes far longer than any test waits."""

STOP_SECONDS = 3.0
"""A second by the rule (B12); on a busy machine one step of the engine, after which it looks, can take longer alone."""


def chat(prompt: str = "Say hi.", **options: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, **options}


def processing(engine: httpx.Client) -> int:
    """How many requests the engine works on now, by its own metrics."""
    lines = engine.get("/metrics").raise_for_status().text.splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("llamacpp:requests_processing "))


def works(engine: httpx.Client, count: int = 1, *, seconds: float = 10.0) -> None:
    """Wait until the engine works on so many requests."""
    eventually_now(lambda: processing(engine) == count, seconds=seconds, what=f"{count} requests in the engine")


def stops(whole: Aigw, engine: httpx.Client) -> None:
    """Whoever read the stream has just gone: the engine must rest at once, and aigw must know it."""
    eventually_now(lambda: processing(engine) == 0, seconds=STOP_SECONDS, what="the end of the generation")
    forgotten(whole)


def forgotten(whole: Aigw) -> None:
    """Whoever asked has just gone: aigw must have let go of the engine."""
    eventually_now(lambda: whole.backend()["in_flight"] == 0, what="nothing in flight")
