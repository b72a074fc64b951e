"""Pulls a file over https, going on from a partial one that an earlier pull left.

Redirects are followed by hand, because each hop must keep to https; plain http is for loopback addresses only.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from aigw_daemon.models.request import PullError
from aigw_daemon.models.store import BLOCK, Disk, Part, require_space
from aigw_daemon.network.clients import http_client
from aigw_daemon.network.egress import Egress, egress_for
from aigw_daemon.network.failures import connect_failure, refused_by_proxy
from aigw_daemon.network.hosts import is_loopback
from aigw_daemon.network.problems import BadEnvironment

MAX_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)
_PARTIAL = 206
_RANGE_REFUSED = 416

Report = Callable[[int, int | None], None]


async def fetch(url: str, part: Part, disk: Disk, report: Report, env: Mapping[str, str]) -> None:
    """Download into the part. ``report`` hears bytes done and bytes in all; ``env`` says how hosts are reached.

    Raises PullError; what has arrived by then is kept for the next try, unless the disk is full.
    """
    try:
        if not await _fetch(url, part, disk, report, env):
            # What was kept doesn't fit what is there now (HTTP 416): start anew, without asking for a range.
            part.discard()
            await _fetch(url, part, disk, report, env)
    except PullError:
        if not part.path.exists():
            _forget(part)
        raise
    _forget(part)


async def _fetch(url: str, part: Part, disk: Disk, report: Report, env: Mapping[str, str]) -> bool:
    """One try. False when the server refuses to go on from where the part ends."""
    offset = await _kept(url, part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "aigw"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": _validator(part)["validator"]}
    async with _opened(url, headers, part, env) as response:
        if response.status_code == _RANGE_REFUSED and offset:
            return False
        _accept(url, response)
        await _receive(url, response, part, disk, report)
    return True


async def _kept(url: str, part: Part) -> int:
    """How many bytes of this very download an earlier pull left."""
    if _validator(part).get("url") == url:
        return await part.resume()
    await part.begin()
    return 0


async def _receive(url: str, response: httpx.Response, part: Part, disk: Disk, report: Report) -> None:
    total = _total(response)
    if response.status_code == _PARTIAL and not response.headers.get("content-range", "").startswith(
        f"bytes {part.size}-"
    ):
        part.discard()
        raise PullError("network", f"{_shown(url)} answered with another range than was asked for: pull again")
    if response.status_code != _PARTIAL:
        await part.begin()
    _remember(url, response, part)
    part.expect(total)
    require_space(part.target.parent, (total or part.size) - part.size, disk)
    report(part.size, total)
    async for block in response.aiter_raw(BLOCK):
        await part.append(block)
        report(part.size, total)


@asynccontextmanager
async def _opened(
    url: str, headers: dict[str, str], part: Part, env: Mapping[str, str]
) -> AsyncIterator[httpx.Response]:
    """The answer behind at most five redirects. Raises PullError for what breaks on the way, then and later."""
    for _ in range(MAX_REDIRECTS + 1):
        egress = _egress(url, env)
        try:
            async with (
                http_client(egress, timeout=_TIMEOUT) as client,
                client.stream("GET", url, headers=headers) as response,
            ):
                if (refused := refused_by_proxy(response.status_code, egress.proxy)) is not None:
                    raise PullError("network", f"cannot reach {urlsplit(url).hostname}: {refused}")
                if not response.is_redirect:
                    yield response
                    return
                url = _next_hop(url, response)
        except httpx.TransportError as error:
            raise _network(url, part, error, egress) from error
    raise PullError("network", f"{_shown(url)}: more than {MAX_REDIRECTS} redirects; check the source")


def _egress(url: str, env: Mapping[str, str]) -> Egress:
    try:
        return egress_for(url, env)
    except BadEnvironment as error:
        raise PullError("network", f"cannot reach {urlsplit(url).hostname}: {error}") from error


def _next_hop(url: str, response: httpx.Response) -> str:
    try:
        target = response.url.join(response.headers["location"])
    except (httpx.InvalidURL, ValueError) as error:
        raise PullError("network", f"{_shown(url)} redirects to something that is no URL; check the source") from error
    from_loopback = urlsplit(url).scheme == "http"
    if target.scheme != "https" and not (from_loopback and target.scheme == "http" and is_loopback(target.host)):
        raise PullError(
            "invalid",
            f"{_shown(url)} redirects to {_shown(str(target))}: a redirect must keep to https; check the source",
        )
    return str(target)


def _accept(url: str, response: httpx.Response) -> None:
    if response.status_code in {404, 410}:
        raise PullError(
            "not_found", f"{_shown(url)}: no such file there (HTTP {response.status_code}); check the source"
        )
    if not response.is_success:
        raise PullError(
            "network", f"{_shown(url)} answered HTTP {response.status_code}; try again later, or check the source"
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise PullError(
            "network", f"{_shown(url)} sends the file compressed, although it was asked not to; use another source"
        )


def _total(response: httpx.Response) -> int | None:
    length = response.headers.get("content-range", "").rpartition("/")[2] or response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _network(url: str, part: Part, error: httpx.TransportError, egress: Egress) -> PullError:
    host = urlsplit(url).hostname or ""
    match error:
        case httpx.ConnectTimeout():
            why = f"{egress.proxy or 'it'} does not answer"
        case httpx.ProxyError():
            why = f"{egress.proxy} made no connection: {error}"
        case httpx.ConnectError():
            why = connect_failure(error, host, egress.proxy)
        case _:
            again = "it resumes there" if part.resumable else "it starts from the beginning"
            text = f"the download from {host} was cut off after {part.size} bytes: pull again, {again}"
            return PullError("network", text)
    return PullError("network", f"cannot reach {host}: {why}; check the network and the proxy settings")


def _remember(url: str, response: httpx.Response, part: Part) -> None:
    """Note what the partial file is a part of; without a strong validator it can't be continued."""
    tag = response.headers.get("etag", "")
    validator = tag if tag.startswith('"') else response.headers.get("last-modified")
    part.resumable = validator is not None
    if validator:
        _state(part).write_text(json.dumps({"url": url, "validator": validator}))
    else:
        _forget(part)


def _validator(part: Part) -> dict[str, str]:
    try:
        state = json.loads(_state(part).read_bytes())
    except (OSError, ValueError):
        return {}
    usable = isinstance(state, dict) and isinstance(state.get("validator"), str) and part.path.is_file()
    return state if usable else {}


def _forget(part: Part) -> None:
    with suppress(OSError):
        _state(part).unlink(missing_ok=True)


def _state(part: Part) -> Path:
    return part.path.with_name(f".{part.path.name}.json")


def _shown(url: str) -> str:
    """Without its query, which may hold a signature or a token (rule S12)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
