"""How a URL is reached from here: directly or through a proxy, and whose certificates count.

The one policy of probes, requests and pulls. The daemon decides it for each backend and tells the gateway worker,
whose environment may be an earlier daemon's.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from aigw_daemon.network.proxies import Proxy, proxy_for
from aigw_daemon.network.trust import Trust, tls_context, trust_store


class Egress(msgspec.Struct, frozen=True):
    """The way to one URL."""

    proxy: Proxy | None = None
    """None: directly."""
    trust: Trust | None = None
    """None where no TLS is spoken."""


DIRECT: Final = Egress()


def egress_for(url: str, env: Mapping[str, str]) -> Egress:
    """The way to ``url``. Raises BadEnvironment for a variable that this URL needs and that can't be used.

    Reads the certificates where TLS is spoken, so that the store is known to be usable.
    """
    proxy = proxy_for(url, env)
    if urlsplit(url).scheme != "https" and (proxy is None or proxy.scheme != "https"):
        return DIRECT if proxy is None else Egress(proxy)
    trust = trust_store(env)
    tls_context(trust)
    return Egress(proxy, trust)
