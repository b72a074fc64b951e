"""Asking engines how they are: readiness, liveness, what they serve. httpx's exceptions end here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import httpx

from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.network.clients import http_client
from aigw_daemon.network.egress import Egress, egress_for
from aigw_daemon.network.failures import connect_failure, refused_by_proxy
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.supervisor.engines.base import Counters, Engine, Library, LoadedModel
from aigw_daemon.supervisor.engines.listing import entries

TIMEOUT: Final = 5.0
"""Seconds for one answer."""
_OK: Final = 200
_REFUSED_KEY: Final = frozenset({401, 403})
_LOADING: Final = 503
_NO_LIST: Final = frozenset({404, 405, 501})


@dataclass(frozen=True)
class Reading:
    """What a readiness probe found. Not up and not ``wrong``: still on its way."""

    up: bool = False
    models: tuple[ModelView, ...] = ()
    concurrency: int | None = None
    loaded: tuple[LoadedModel, ...] = ()
    """Of an engine with many models: what it has in memory."""
    wrong: str | None = None
    """It is up, but not what was asked for."""
    why: str | None = None
    has_list: bool = True
    """Whether it can be asked for its models."""


@dataclass(frozen=True)
class Listing:
    """What an attached URL answered to the question for its models."""

    models: tuple[dict[str, Any], ...] = ()
    why: str | None = None
    """What is wrong with it, if anything."""
    missing: int | None = None
    """The status of an answer that says that there is no such list."""


class Prober(Protocol):
    """How the supervisor asks engines; tests have their own."""

    async def ready(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> Reading:
        """Whether the engine at ``base`` serves what ``section`` names (rule A1)."""

    async def alive(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> str | None:
        """What is wrong with a running engine; None when nothing is (rule A3)."""

    async def counter(self, counters: Counters, base: str, key: Secret | None) -> float | None:
        """The sum of an engine's counters of progress; None when it doesn't tell."""

    async def loaded(self, engine: Engine, base: str, key: Secret | None) -> tuple[LoadedModel, ...] | None:
        """What an engine with many models has in memory; None when it doesn't tell, or is no such engine."""

    async def unload(self, engine: Engine, base: str, key: Secret | None) -> None:
        """Have such an engine give up the memory of its models; of any other nothing is asked."""

    async def listing(self, base: str, key: Secret | None) -> Listing:
        """The models of an OpenAI-compatible URL, asked for without calling one."""


class HttpProber:
    """The real one, with one client per way out of this machine."""

    def __init__(self, env: Mapping[str, str] = os.environ) -> None:
        self._env = env
        self._clients: dict[Egress, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def ready(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> Reading:
        """See Prober."""
        why = await self.alive(engine, section, base, key)
        if why is not None:
            return Reading(why=why)
        listing = props = None
        if section.lists_models:
            listing, why = await self._json(base + engine.models_path, key)
        if why is None and engine.props_path is not None:
            props, why = await self._json(base + engine.props_path, key)
        if why is not None:
            return Reading(why=why)
        if isinstance(engine, Library):
            return Reading(True, engine.models(section, listing, props), loaded=engine.loaded(props))
        if section.lists_models and (missing := _missing(section, listing)) is not None:
            return Reading(wrong=missing)
        return Reading(True, engine.models(section, listing, props), engine.concurrency(props))

    async def alive(self, engine: Engine, section: BackendSection, base: str, key: Secret | None) -> str | None:
        """See Prober."""
        path = section.health_path or engine.health_path
        answer = await self._get(base + path, key)
        if isinstance(answer, str):
            return answer
        if answer.status_code == _LOADING:
            return "it is loading its model"
        return None if answer.is_success else f"{path} answers {answer.status_code}"

    async def counter(self, counters: Counters, base: str, key: Secret | None) -> float | None:
        """See Prober."""
        answer = await self._get(base + counters.path, key)
        if isinstance(answer, str) or answer.status_code != _OK:
            return None
        found = [value for line in answer.text.split("\n") if (value := _value(line, counters)) is not None]
        return sum(found) if found else None

    async def loaded(self, engine: Engine, base: str, key: Secret | None) -> tuple[LoadedModel, ...] | None:
        """See Prober."""
        if not isinstance(engine, Library) or engine.props_path is None:
            return None
        props, why = await self._json(base + engine.props_path, key)
        return engine.loaded(props) if why is None else None

    async def unload(self, engine: Engine, base: str, key: Secret | None) -> None:
        """See Prober."""
        for model in await self.loaded(engine, base, key) or ():
            if isinstance(engine, Library):
                path, content = engine.unloading(model)
                await self._ask("POST", base + path, key, content)

    async def listing(self, base: str, key: Secret | None) -> Listing:
        """See Prober."""
        answer = await self._get(f"{base}/models", key)
        if isinstance(answer, httpx.Response) and answer.status_code in _NO_LIST:
            return Listing(missing=answer.status_code)
        content, why = _content(answer)
        return Listing(why=why) if why is not None else Listing(tuple(entries(content)))

    async def _json(self, url: str, key: Secret | None) -> tuple[Any, str | None]:
        """The content and None, or None and what is wrong."""
        return _content(await self._get(url, key))

    async def _get(self, url: str, key: Secret | None) -> httpx.Response | str:
        return await self._ask("GET", url, key)

    async def _ask(
        self, method: str, url: str, key: Secret | None, content: Mapping[str, Any] | None = None
    ) -> httpx.Response | str:
        """The answer, or what kept it from coming."""
        headers = {"authorization": f"Bearer {key.value}"} if key else {}
        try:
            egress = egress_for(url, self._env)
        except ValueError as error:  # a BadEnvironment, or a URL that is none
            return str(error)
        try:
            answer = await self._client_for(egress).request(method, url, headers=headers, json=content)
            return refused_by_proxy(answer.status_code, egress.proxy) or answer
        except httpx.HTTPError as error:
            return _trouble(error, url, egress)
        except (httpx.InvalidURL, ValueError) as error:
            return f"its address can't be used: {error}"

    def _client_for(self, egress: Egress) -> httpx.AsyncClient:
        if egress not in self._clients:
            # No connection is kept: engines close idle ones sooner than the next probe comes.
            limits = httpx.Limits(max_keepalive_connections=0)
            self._clients[egress] = http_client(egress, timeout=TIMEOUT, limits=limits, follow_redirects=False)
        return self._clients[egress]


def _content(answer: httpx.Response | str) -> tuple[Any, str | None]:
    """See `HttpProber._json`."""
    if isinstance(answer, str):
        return None, answer
    if answer.status_code in _REFUSED_KEY:
        return None, f"it refuses the API key ({answer.status_code}): check api_key"
    if answer.status_code != _OK:
        return None, f"{answer.request.url.path} answers {answer.status_code}"
    try:
        return answer.json(), None
    except ValueError:
        return None, f"{answer.request.url.path} does not answer JSON"


def _trouble(error: httpx.HTTPError, url: str, egress: Egress) -> str:
    proxy = egress.proxy
    match error:
        case httpx.ConnectTimeout():
            return f"{proxy or 'it'} can't be reached within {TIMEOUT:.0f} s"
        case httpx.TimeoutException():
            return f"it does not answer within {TIMEOUT:.0f} s"
        case httpx.ProxyError():
            return f"{proxy} made no connection: {error}"
        case httpx.ConnectError():
            return connect_failure(error, urlsplit(url).hostname or "", proxy)
        case _:
            return f"it breaks the connection ({type(error).__name__})"


def _missing(section: BackendSection, listing: Any) -> str | None:
    """What the profile says it serves, and it doesn't."""
    served = {entry["id"] for entry in entries(listing)}
    missing = [name for name in section.served_models or () if name not in served]
    return f"it serves {_names(served)}, not {', '.join(missing)}" if missing else None


def _value(line: str, counters: Counters) -> float | None:
    """The number of one line of a Prometheus page, if it is one of these: ``NAME{labels} VALUE``."""
    name, _, rest = line.partition(" ")
    if name.partition("{")[0] not in counters.names:
        return None
    try:
        return float(rest.rpartition(" ")[2])
    except ValueError:
        return None


def _names(served: set[str]) -> str:
    return ", ".join(sorted(served)[:5]) or "no model"
