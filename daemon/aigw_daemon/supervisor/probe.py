"""Asking engines how they are: readiness, liveness, what they serve. httpx's exceptions end here."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import httpx

from aigw_daemon.link.messages import ModelView, Secret
from aigw_daemon.profile.backends import BackendSection
from aigw_daemon.profile.sources import is_loopback
from aigw_daemon.supervisor.engines.base import Counters, Engine, Library, LoadedModel
from aigw_daemon.supervisor.engines.listing import entries

TIMEOUT: Final = 5.0
"""Seconds for one answer."""
_OK: Final = 200
_REFUSED_KEY: Final = frozenset({401, 403})
_LOADING: Final = 503


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


@dataclass(frozen=True)
class Listing:
    """What an attached URL answered to the question for its models."""

    models: tuple[dict[str, Any], ...] = ()
    why: str | None = None
    """What is wrong with it, if anything."""


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
    """The real one. One client for this machine, which never goes through a proxy, and one for all others."""

    def __init__(self) -> None:
        self._local = _client(trust_env=False)
        self._remote: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._local.aclose()
        if self._remote is not None:
            await self._remote.aclose()

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
        content, why = await self._json(f"{base}/models", key)
        return Listing(why=why) if why is not None else Listing(tuple(entries(content)))

    async def _json(self, url: str, key: Secret | None) -> tuple[Any, str | None]:
        """The content and None, or None and what is wrong."""
        answer = await self._get(url, key)
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

    async def _get(self, url: str, key: Secret | None) -> httpx.Response | str:
        return await self._ask("GET", url, key)

    async def _ask(
        self, method: str, url: str, key: Secret | None, content: Mapping[str, Any] | None = None
    ) -> httpx.Response | str:
        """The answer, or what kept it from coming."""
        headers = {"authorization": f"Bearer {key.value}"} if key else {}
        try:
            return await self._client_for(url).request(method, url, headers=headers, json=content)
        except httpx.ConnectTimeout:
            return f"it can't be reached within {TIMEOUT:.0f} s"
        except httpx.TimeoutException:
            return f"it does not answer within {TIMEOUT:.0f} s"
        except httpx.ConnectError:
            return "it refuses connections"
        except httpx.HTTPError as error:
            return f"it breaks the connection ({type(error).__name__})"
        except (httpx.InvalidURL, ValueError) as error:
            return f"its address can't be used: {error}"

    def _client_for(self, url: str) -> httpx.AsyncClient:
        if is_loopback(urlsplit(url).hostname or ""):
            return self._local
        if self._remote is None:
            # Made when it is needed: reading the trusted certificates takes a while.
            self._remote = _client(trust_env=True)
        return self._remote


def _client(*, trust_env: bool) -> httpx.AsyncClient:
    # No connection is kept: engines close idle ones sooner than the next probe comes.
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(
        timeout=TIMEOUT, limits=limits, trust_env=trust_env, follow_redirects=False, verify=trust_env
    )


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
