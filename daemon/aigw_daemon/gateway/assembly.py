"""What a gateway worker is built of, and in which order: the composition root of the data plane."""

from collections.abc import Callable, Mapping
from typing import Final

from aigw_daemon.gateway.budget import RetryBudget
from aigw_daemon.gateway.cache.desk import CacheDesk
from aigw_daemon.gateway.cached import Cached
from aigw_daemon.gateway.chain import Chain
from aigw_daemon.gateway.completions import Completions, Desk
from aigw_daemon.gateway.dispatcher import Dispatcher
from aigw_daemon.gateway.late_app import LateApp
from aigw_daemon.gateway.live import Live
from aigw_daemon.gateway.reporter import Reporter
from aigw_daemon.gateway.server.ids import RequestIds
from aigw_daemon.gateway.server.server import Server
from aigw_daemon.gateway.upstream.base import Upstream
from aigw_daemon.gateway.walk import Means
from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, Snapshot, Up

HOT_PATHS: Final[Mapping[str, str]] = {
    "/v1/chat/completions": CHAT,
    "/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/embeddings": EMBEDDINGS,
    "/v1/rerank": RERANK,
    "/rerank": RERANK,
    "/v2/rerank": RERANK,
}
"""Paths, and the endpoint of the engine that each is for (rule S4). Cohere's clients say v2 where engines say v1."""


class Gateway:
    """Live snapshot, reporter, application and server, wired together. Needs a running loop."""

    def __init__(self, upstream: Upstream, send: Callable[[Up], None]) -> None:
        self.live = Live()
        self.reporter = Reporter(self.live.standings, send)
        ids = RequestIds()
        chain = Chain(Means(self.live, upstream, send, RetryBudget()))
        self.cached = Cached(self.live, chain)
        desk = Desk(self.live, chain, self.cached, self.reporter, ids)
        endpoints = {endpoint: Completions(endpoint, desk) for endpoint in dict.fromkeys(HOT_PATHS.values())}
        hot = {path: endpoints[endpoint] for path, endpoint in HOT_PATHS.items()}
        self.cache_desk = CacheDesk(self.live, self.cached.cache)
        self.app = LateApp(self.live, self.cached.cache.report)
        dispatcher = Dispatcher(hot, self.app, self.live, ids)
        self.server = Server(dispatcher, self.live.gateway, ids, dispatcher.at_once, dispatcher.cors)

    def apply(self, snapshot: Snapshot) -> None:
        """Route, limit and cache by this from now on."""
        self.live.replace(snapshot)
        self.server.limits = snapshot.gateway
        self.cached.update(snapshot.cache)
