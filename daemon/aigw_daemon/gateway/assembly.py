"""What a gateway worker is built of, and in which order: the composition root of the data plane."""

from collections.abc import Callable

from aigw_daemon.gateway.attempt import Chain
from aigw_daemon.gateway.completions import Completions
from aigw_daemon.gateway.dispatcher import Dispatcher
from aigw_daemon.gateway.late_app import LateApp
from aigw_daemon.gateway.live import CHAT, COMPLETIONS, Live
from aigw_daemon.gateway.reporter import Reporter
from aigw_daemon.gateway.server.ids import RequestIds
from aigw_daemon.gateway.server.server import Server
from aigw_daemon.gateway.upstream.base import Upstream
from aigw_daemon.link.messages import Up


class Gateway:
    """Live snapshot, reporter, application and server, wired together. Needs a running loop."""

    def __init__(self, upstream: Upstream, send: Callable[[Up], None]) -> None:
        self.reporter = Reporter(send)
        self.live = Live(self.reporter.flow)
        ids = RequestIds()
        chain = Chain(self.live, upstream, self.reporter, send)
        chat = Completions(CHAT, self.live, chain, self.reporter, ids)
        completions = Completions(COMPLETIONS, self.live, chain, self.reporter, ids)
        hot = {
            "/v1/chat/completions": chat,
            "/chat/completions": chat,
            "/v1/completions": completions,
            "/completions": completions,
        }
        self.app = LateApp(self.live)
        self.server = Server(Dispatcher(hot, self.app, self.live, ids), self.live.gateway, ids)
