"""What holds for a backend where the profile leaves it open: endpoints, places, how long it may be silent (pure)."""

from collections.abc import Sequence
from typing import Final

from aigw_daemon.link.messages import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, RERANK
from aigw_daemon.profile.backends import BackendSection, LlamacppBackend, OllamaBackend, OpenaiBackend, VllmBackend
from aigw_daemon.profile.model import Gateway

OLLAMA_CLOUD: Final = "ollama.com"
URL_FIRST_TOKEN_SECONDS: Final = 300.0
"""Where nobody sees whether an engine computes (the design's *Timeouts*)."""
CLOUD_FIRST_TOKEN_SECONDS: Final = 60.0
URL_GAP_SECONDS: Final = 60.0

_GENERATE: Final = (CHAT, COMPLETIONS)
_POOLING: Final = (EMBEDDINGS, RERANK)
_LLAMACPP: Final = {"chat": _GENERATE, "embeddings": (EMBEDDINGS,), "rerank": (RERANK,)}


def cloud(section: BackendSection, host: str) -> bool:
    """Whether it is a service on the internet: as the profile says, else whether ``host`` is Ollama Cloud's."""
    if isinstance(section, OpenaiBackend) and section.cloud is not None:
        return section.cloud
    return host == OLLAMA_CLOUD or host.endswith(f".{OLLAMA_CLOUD}")


def endpoints(section: BackendSection) -> tuple[str, ...]:
    """What its engine speaks as it is started; all where only the engine knows, so that it is asked."""
    match section:
        case OllamaBackend():
            return (*_GENERATE, EMBEDDINGS)
        case LlamacppBackend() if section.managed:
            return _LLAMACPP[section.purpose]
        case VllmBackend() if section.managed:
            return _vllm(section.args)
        case _:
            return ENDPOINTS


def concurrency(section: BackendSection) -> int | None:
    """How many requests it works on at once, where its arguments tell and its answers don't: vLLM's."""
    said = _value(section.args, "--max-num-seqs") if isinstance(section, VllmBackend) else None
    return int(said) if said is not None and said.isascii() and said.isdigit() and int(said) > 0 else None


def first_token_timeout(section: BackendSection, gateway: Gateway, *, is_cloud: bool) -> float | None:
    """Seconds; None for an engine of ours: its hang detector sees whether it computes (the design's *Timeouts*)."""
    if section.first_token_timeout is not None:
        return section.first_token_timeout
    if gateway.first_token_timeout is not None:
        return gateway.first_token_timeout
    if section.managed:
        return None
    return CLOUD_FIRST_TOKEN_SECONDS if is_cloud else URL_FIRST_TOKEN_SECONDS


def gap_timeout(section: BackendSection, gateway: Gateway) -> float | None:
    """Seconds; None likewise."""
    if section.gap_timeout is not None:
        return section.gap_timeout
    if gateway.gap_timeout is not None:
        return gateway.gap_timeout
    return None if section.managed else URL_GAP_SECONDS


def _vllm(args: Sequence[str]) -> tuple[str, ...]:
    """What kind of model it is, vLLM finds out by itself, unless it is told."""
    told = _value(args, "--runner") or _value(args, "--task")
    match told:
        case None | "auto":
            return ENDPOINTS
        case "generate":
            return _GENERATE
        case _:
            return _POOLING


def _value(args: Sequence[str], flag: str) -> str | None:
    """The last value that is given for a flag, in either form; vLLM takes underscores for dashes."""
    found: str | None = None
    for word, following in zip(args, (*args[1:], None), strict=False):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else following
    return found
