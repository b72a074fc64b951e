"""Pulls a model through an Ollama, which fetches it itself and tells how far it is, a JSON object per line.

Its status is 200 whatever comes of it: a line ``{"error": …}`` is a failure, and so is an end without the line
``{"status": "success"}``. When its client leaves, it stops, keeps what it has, and goes on from there the next time.
httpx's exceptions end here.
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from aigw_daemon.models.ollama_names import check_name, full_name
from aigw_daemon.models.request import Phase, PullError, PullProgress
from aigw_daemon.network.clients import http_client
from aigw_daemon.network.egress import Egress, egress_for
from aigw_daemon.network.failures import connect_failure, refused_by_proxy
from aigw_daemon.network.problems import BadEnvironment

_TIMEOUT: Final = httpx.Timeout(900.0, connect=10.0)
"""Seconds. The reading one is long: while Ollama compares the checksum of a big model it says nothing for minutes."""
_OK: Final = 200
_LONGEST_TEXT: Final = 500
_REASONS: Final = (
    ("invalid model name", "invalid", "check the name"),
    ("file does not exist", "not_found", "its registry has no such model; check the name and the tag"),
    ("digest mismatch", "checksum", "what arrived was thrown away; pull again"),
    ("no space left", "no_space", "make room in its models folder, then pull again: it resumes where it stopped"),
    ("insecure protocol", "invalid", "its registry speaks plain HTTP; add --insecure if you trust the way there"),
    ("server gave HTTP response to HTTPS", "invalid", "the registry speaks plain HTTP; add --insecure if you trust it"),
    ("dial tcp", "network", "check the registry's address and the network"),
    ("no such host", "network", "check the registry's address and the network"),
)
"""What Ollama's words mean: a part of them, our reason, what to do."""


@dataclass(frozen=True)
class OllamaPull:
    """What to pull, and through which Ollama."""

    base: str
    """Its URL, without ``/api``."""
    model: str
    insecure: bool = False
    """Let it use a registry without TLS, or with a certificate that it can't check."""
    api_key: str | None = field(default=None, repr=False)
    """What stands before an Ollama of somebody else may ask for one."""


async def pull(wanted: OllamaPull, env: Mapping[str, str] = os.environ) -> AsyncGenerator[PullProgress, None]:
    """Pull one model; the last progress has the phase ``done``, and then it can be asked for.

    ``env`` says how the Ollama is reached.

    Raises PullError. Whoever stops iterating stops the pull, unless somebody else waits for the same one.
    """
    name = full_name(check_name(wanted.model))
    bar = _Bar(name)
    egress = _egress(wanted, env)
    async with _client(wanted, egress) as client:
        before = await _digest(client, name)
        with _translated(wanted, egress):
            # Closed at once when our caller leaves: that is how Ollama learns of it.
            async with aclosing(_lines(client, wanted, egress)) as lines:
                async for line in lines:
                    if (progress := bar.take(line, wanted.model)) is not None:
                        yield progress
        if not bar.succeeded:
            text = f"Ollama ended the pull of {name} without saying that it succeeded: pull again"
            raise PullError("tool", text)
        yield bar.done(already=before is not None and before == await _digest(client, name))


@dataclass
class _Bar:
    """One bar over all layers: sizes are summed up by digest, for each layer is reported again and again."""

    name: str
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes that are there and bytes in all."""
    phase: Phase = "resolving"
    succeeded: bool = False

    def take(self, line: dict[str, Any], asked: str) -> PullProgress | None:
        """One line of Ollama's; None for the one that says that all is done. Raises PullError for an error."""
        if (error := line.get("error")) is not None:
            raise _failure(asked, str(error))
        status, digest = str(line.get("status", ""))[:_LONGEST_TEXT], line.get("digest")
        if status == "success":
            self.succeeded = True
            return None
        if isinstance(digest, str):
            self.phase = "downloading"
            total = _size(line.get("total"))
            self.layers[digest] = (min(_size(line.get("completed")), total), total)
        elif status.startswith(("verifying", "writing", "removing")):
            self.phase = "verifying"
        return self._progress(self.phase, status)

    def done(self, *, already: bool) -> PullProgress:
        return self._progress("done", f"{self.name} is there", already=already)

    def _progress(self, phase: Phase, message: str, *, already: bool = False) -> PullProgress:
        there = sum(completed for completed, _ in self.layers.values())
        total = sum(total for _, total in self.layers.values())
        return PullProgress(phase, there, total or None, self.name, message, already, resumable=True)


def _size(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _egress(wanted: OllamaPull, env: Mapping[str, str]) -> Egress:
    try:
        return egress_for(wanted.base, env)
    except BadEnvironment as error:
        raise PullError("network", f"cannot reach the Ollama at {wanted.base}: {error}") from error


def _client(wanted: OllamaPull, egress: Egress) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {wanted.api_key}"} if wanted.api_key else {}
    return http_client(egress, base_url=wanted.base, headers=headers, timeout=_TIMEOUT)


async def _lines(client: httpx.AsyncClient, wanted: OllamaPull, egress: Egress) -> AsyncGenerator[dict[str, Any], None]:
    body = {"model": wanted.model, "insecure": wanted.insecure}
    async with client.stream("POST", "/api/pull", json=body) as response:
        if (refused := refused_by_proxy(response.status_code, egress.proxy)) is not None:
            raise PullError("network", f"cannot reach the Ollama at {wanted.base}: {refused}")
        if response.status_code != _OK:
            raise _refused(wanted.model, response.status_code, await response.aread())
        async for text in _split(response.aiter_bytes()):
            if text.strip():
                yield _object(text, wanted)


async def _split(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    r"""Lines end at ``\n`` alone: a name may hold what Unicode calls a line end, JSON leaves it as it is."""
    rest: list[bytes] = []
    async for piece in pieces:
        first, *more = piece.split(b"\n")
        rest.append(first)
        for line in more:
            yield b"".join(rest)
            rest = [line]
    yield b"".join(rest)


def _object(text: str | bytes, wanted: OllamaPull) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise PullError("tool", f"{wanted.base} does not answer as Ollama does: is there an Ollama at this address?")
    return line


def _refused(model: str, status: int, content: bytes) -> PullError:
    try:
        said = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        said = f"it answers {status}"
    return _failure(model, str(said))


def _failure(model: str, said: str) -> PullError:
    said = said[:_LONGEST_TEXT]
    for part, reason, advice in _REASONS:
        if part in said:
            return PullError(reason, f"Ollama cannot pull {model}: {said}; {advice}")
    return PullError("tool", f"Ollama cannot pull {model}: {said}")


async def _digest(client: httpx.AsyncClient, name: str) -> str | None:
    """Of the model that it has under this name; None when it has none, or doesn't say."""
    try:
        listing = (await client.get("/api/tags")).json()
        return next((model["digest"] for model in listing["models"] if model["name"] == name), None)
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _translated(wanted: OllamaPull, egress: Egress) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        why = connect_failure(error, urlsplit(wanted.base).hostname or "", egress.proxy)
        if isinstance(error, httpx.ProxyError):
            why = f"{egress.proxy} made no connection: {error}"
        text = f"cannot reach the Ollama at {wanted.base}: {why}; 'aigw status' shows how it is"
        raise PullError("network", text) from error
    except httpx.HTTPError as error:
        text = (
            f"the Ollama at {wanted.base} broke off the pull of {wanted.model} ({type(error).__name__}): pull again, "
            "it resumes where it stopped"
        )
        raise PullError("network", text) from error
