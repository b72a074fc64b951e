"""The storm's clients: the openai library, half of them with its default retries, half of the requests streams."""

import asyncio
import random
import time
from typing import Final

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from scripts.bench.storm_engine import pieces
from scripts.bench.storm_tally import Asked

ROUTES: Final = ("alone", "pair")
KEPT_PROMPTS: Final = 20
"""Prompts that come again and again, so that the cache takes part; all others come once."""
SECONDS: Final = 120.0
AFTER_FAILURE_SECONDS: Final = 0.5
"""A client that is refused doesn't ask on in a tight loop."""


class Clients:
    """Keep asking until they are told to stop."""

    def __init__(self, url: str, seed: int) -> None:
        self.asked: list[Asked] = []
        self.over = False
        self._url = url
        self._seed = seed

    async def run(self, count: int) -> None:
        """Ask over so many connections, until all have their last answer."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                tasks.create_task(self._keep_asking(number, retries=number % 2 * 2))

    async def _keep_asking(self, number: int, retries: int) -> None:
        choose, turn = random.Random(self._seed * 1000 + number), 0
        async with AsyncOpenAI(
            base_url=self._url, api_key="not-needed", max_retries=retries, timeout=SECONDS
        ) as client:
            while not self.over:
                turn += 1
                once = choose.random() < 0.75
                prompt = f"{self._seed} {number} {turn}" if once else f"kept {choose.randrange(KEPT_PROMPTS)}"
                asked = await _ask(client, choose.choice(ROUTES), prompt, stream=choose.random() < 0.5)
                self.asked.append(asked)
                if asked.error is not None:
                    await asyncio.sleep(AFTER_FAILURE_SECONDS)


async def _ask(client: AsyncOpenAI, model: str, prompt: str, *, stream: bool) -> Asked:
    began, got, finish, error, told = time.monotonic(), "", None, None, False
    said: list[ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    create = client.chat.completions.create
    try:
        if stream:
            async for event in await create(model=model, messages=said, stream=True):
                for choice in event.choices:
                    got += choice.delta.content or ""
                    finish = choice.finish_reason or finish
        else:
            whole = (await create(model=model, messages=said)).choices[0]
            got, finish = whole.message.content or "", whole.finish_reason
    # The library lets errors of its transport in mid-stream through as they are.
    except Exception as failure:  # noqa: BLE001  # whatever it is, it is what the client saw
        error = f"{type(failure).__name__}: {failure}"
        told = isinstance(failure, openai.APIError) and not isinstance(failure, openai.APIConnectionError)
        if isinstance(failure, openai.APIStatusError):
            error += f" (x-should-retry: {failure.response.headers.get('x-should-retry', 'not said')})"
    expected = "".join(pieces(prompt))
    return Asked(client.max_retries, began, time.monotonic(), expected, got, finish == "stop", error, told)
