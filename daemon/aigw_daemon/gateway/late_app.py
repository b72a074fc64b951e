"""The FastAPI application, imported aside: it takes longer to import than the rest of the worker together.

A worker that is started in place of a dead one serves completions at once; health and models follow as soon as the
import is done. It is begun at the start and not at the first use, because files may change under a running process.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from aigw_daemon.gateway.cache.cache import CacheReport
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.wire import ApiError

if TYPE_CHECKING:
    from fastapi import FastAPI


class LateApp:
    """An ASGI application that waits for the real one. Needs a running loop. ``cache``: what that did so far."""

    def __init__(self, live: Live, cache: Callable[[], CacheReport]) -> None:
        self._live = live
        self._cache = cache
        self._made: asyncio.Future[FastAPI] = asyncio.get_running_loop().create_future()

    async def make(self) -> None:
        """Import and build; what goes wrong there ends the worker."""
        self._made.set_result(await asyncio.to_thread(self._build))

    def refusal(self, method: str, path: str) -> ApiError | None:
        """Why this request is answered with 404 or 405, whatever its body; None where only the answer will tell."""
        if not self._made.done():
            return None
        from aigw_daemon.gateway.app import refusal  # noqa: PLC0415  # as in `_build`, and it is there by now

        return refusal(self._made.result(), method, path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, after the import at the latest."""
        app = await asyncio.shield(self._made)  # a client that leaves must not cancel it for the others
        await app(scope, receive, send)

    def _build(self) -> "FastAPI":
        from aigw_daemon.gateway.app import build_app  # noqa: PLC0415  # this is the import that takes so long

        return build_app(self._live, self._cache)
