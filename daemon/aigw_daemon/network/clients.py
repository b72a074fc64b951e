"""httpx clients that take the way that was decided, and decide nothing by themselves."""

import ssl
from typing import Any, Final

import httpcore
import httpx

from aigw_daemon.network.egress import Egress
from aigw_daemon.network.proxies import SOCKS, Proxy
from aigw_daemon.network.socks_backend import SocksBackend
from aigw_daemon.network.trust import tls_context

_TRUSTS_NOBODY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Where no TLS is spoken: reading certificates takes a while. Verification is on and would fail."""


def http_client(egress: Egress, **options: Any) -> httpx.AsyncClient:
    """A client for URLs that are reached this way; ``options`` are those of httpx."""
    context = _TRUSTS_NOBODY if egress.trust is None else tls_context(egress.trust)
    proxy = egress.proxy
    if proxy is None:
        return httpx.AsyncClient(trust_env=False, verify=context, **options)
    if proxy.scheme == SOCKS:
        return httpx.AsyncClient(trust_env=False, transport=_SocksTransport(proxy, context), **options)
    return httpx.AsyncClient(trust_env=False, verify=context, proxy=_httpx_proxy(proxy, context), **options)


class _SocksTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport over connections of ours, the same that the gateway makes.

    What httpx brings for SOCKS fails with exceptions of a third library when a proxy's reply comes in pieces.
    """

    def __init__(self, proxy: Proxy, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, max_keepalive_connections=0, network_backend=SocksBackend(proxy)
        )


def _httpx_proxy(proxy: Proxy, context: ssl.SSLContext) -> httpx.Proxy:
    auth = (proxy.user, proxy.password) if proxy.user or proxy.password else None
    return httpx.Proxy(proxy.url, auth=auth, ssl_context=context if proxy.scheme == "https" else None)
