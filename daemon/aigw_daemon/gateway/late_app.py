"""The FastAPI application, imported aside: it takes longer to import than the rest of the worker together.

A worker that is started in place of a dead one serves completions at once; health and models follow as soon as the
import is done. It is begun at the start and not at the first use, because files may change under a running process.
"""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from aigw_daemon.gateway.cache.cache import CacheReport
from aigw_daemon.gateway.live import Live


class LateApp:
    """An ASGI application that waits for the real one. Needs a running loop. ``cache``: what that did so far."""

    def __init__(self, live: Live, cache: Callable[[], CacheReport]) -> None:
        self._live = live
        self._cache = cache
        self._made: asyncio.Future[ASGIApp] = asyncio.get_running_loop().create_future()

    async def make(self) -> None:
        """Import and build; what goes wrong there ends the worker."""
        self._made.set_result(await asyncio.to_thread(self._build))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, after the import at the latest."""
        app = await asyncio.shield(self._made)  # a client that leaves must not cancel it for the others
        await app(scope, receive, send)

    def _build(self) -> ASGIApp:
        from aigw_daemon.gateway.app import build_app  # noqa: PLC0415  # this is the import that takes so long

        return build_app(self._live, self._cache)
