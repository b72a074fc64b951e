"""Asks a model one question through an OpenAI-compatible endpoint and prints the answer as it comes.

`python scripts/ask.py http://127.0.0.1:4000/v1 MODEL QUESTION`: what any OpenAI client does, in the open.
"""

import json
import sys
from collections.abc import Iterator

import httpx

CONNECT_SECONDS = 5
DATA = "data: "


def answer(url: str, model: str, question: str) -> Iterator[str]:
    """The pieces of the answer. Raises httpx.HTTPError, with the gateway's own words where it said any."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 120, "stream": True}
    timeout = httpx.Timeout(CONNECT_SECONDS, read=None)  # a model may take its time: the gateway has the deadline
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=timeout, trust_env=False) as response:
        if response.is_error:
            response.read()
            raise httpx.HTTPError(f"status {response.status_code}: {response.text}")
        for line in response.iter_lines():
            if line.startswith(DATA) and line != f"{DATA}[DONE]":
                yield from said(json.loads(line.removeprefix(DATA)))


def said(event: dict[str, object]) -> Iterator[str]:
    """The text in one event of the stream. Raises httpx.HTTPError when the event is an error."""
    if "error" in event:
        raise httpx.HTTPError(json.dumps(event["error"]))
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        yield choice["delta"].get("content") or ""


def main(url: str, model: str, question: str) -> int:
    try:
        for piece in answer(url, model, question):
            print(piece, end="", flush=True)
    except httpx.HTTPError as error:
        print(f"cannot get an answer from {url}: {error}", file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
