"""Ollama: one server that keeps a folder of models and loads them as they are asked for.

Its runners are children in its own session. They outlive a leader that was killed, which is why every start sweeps
first (rule A8). It asks for no key, and its models change while it runs: see `Library`.
"""

import math
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from aigw_daemon.link.messages import ModelView
from aigw_daemon.models.ollama_names import full_name
from aigw_daemon.profile.backends import BackendSection, OllamaBackend
from aigw_daemon.supervisor.engines.base import LOOPBACK, Counters, Launch, LaunchContext, LoadedModel
from aigw_daemon.supervisor.engines.launching import own_environment, program
from aigw_daemon.supervisor.engines.listing import positive
from aigw_daemon.supervisor.engines.native_signs import SIGNS as NATIVE_SIGNS
from aigw_daemon.supervisor.failures import FailureKind, sign, unrunnable
from aigw_daemon.words import EngineKind

BINARY: Final = "ollama"
ADDRESS_VARIABLE: Final = "OLLAMA_HOST"
_CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "completion": ("chat", "completions"),
    "embedding": ("embeddings",),
    "tools": ("tools",),
    "vision": ("vision",),
}


class OllamaEngine:
    """Starts and reads ``ollama serve``. See Engine and Library."""

    kind = EngineKind.OLLAMA
    health_path = "/api/version"
    models_path = "/api/tags"
    props_path: str | None = "/api/ps"
    start_timeout = 60.0
    """It is up in a tenth of a second, but a big folder of models is looked through first."""
    stall_timeout: float | None = None
    stages = ()
    has_key = False
    counters: Counters | None = None
    signs = (
        sign(
            r"listen tcp \S*?:(\d+): bind: address already in use",
            FailureKind.PORT_TAKEN,
            f"port {{0}} is taken, perhaps by an Ollama that runs as a system service: to use that one, give the "
            f"backend attach: http://{LOOPBACK}:{{0}}; else stop it, or give the backend another port",
        ),
        sign(
            r"llama-server binary not found",
            FailureKind.MISSING_BINARY,
            "this Ollama lacks its runner, the program lib/ollama/llama-server beside it: install Ollama anew",
        ),
        sign(
            r"Error: (?:could not create directory )?mkdir ([^:]+): ([^:]+)",
            FailureKind.BAD_SETTING,
            "Ollama can't make its folder {0} ({1}): change models_dir, or HOME in env",
        ),
        *NATIVE_SIGNS,
    )

    def launch(self, context: LaunchContext) -> Launch:
        """See Engine."""
        section = _section(context)
        own = own_environment(context.name, section.env, context.environ)
        if ADDRESS_VARIABLE in own:
            text = f"env of the backend {context.name} sets {ADDRESS_VARIABLE}, which aigw sets: give it port instead"
            raise unrunnable(FailureKind.BAD_SETTING, text)
        env = {**context.inherited, **dict(_settings(section)), **own, ADDRESS_VARIABLE: f"{LOOPBACK}:{context.port}"}
        advice = "install Ollama, set binary to it, or attach: to one that runs elsewhere"
        found = program(section.binary or BINARY, env.get("PATH", os.defpath), advice)
        return Launch((found, "serve", *section.args), env, (Path(found),))

    def models(self, section: BackendSection, listing: Any, props: Any) -> tuple[ModelView, ...]:
        """See Engine: what its folder holds; with a list in the profile, what of that list it holds."""
        named = _named(section)
        contexts = {model.name: model.context for model in self.loaded(props)}
        return tuple(
            _model_view(entry, section, contexts.get(entry["name"]))
            for entry in _entries(listing)
            if named is None or entry["name"] in named
        )

    def concurrency(self, props: Any) -> int | None:  # noqa: ARG002  # every engine is given it
        """See Engine: it doesn't say."""
        return None

    def loaded(self, props: Any) -> tuple[LoadedModel, ...]:
        """See Library."""
        return tuple(
            LoadedModel(
                entry["name"],
                positive(entry.get("size")) or 0,
                positive(entry.get("size_vram")) or 0,
                positive(entry.get("context_length")),
            )
            for entry in _entries(props)
        )

    def unloading(self, model: LoadedModel) -> tuple[str, Mapping[str, Any]]:
        """See Library."""
        return "/api/generate", {"model": model.name, "keep_alive": 0}


def _section(context: LaunchContext) -> OllamaBackend:
    if not isinstance(context.section, OllamaBackend):
        raise TypeError(f"the backend {context.name} is not an Ollama")
    return context.section


def _settings(section: OllamaBackend) -> Iterator[tuple[str, str]]:
    """The profile's words as Ollama's variables; what it doesn't say is left to Ollama and its environment."""
    if section.models_dir is not None:
        yield "OLLAMA_MODELS", str(Path(section.models_dir).expanduser())
    if section.max_concurrency is not None:
        yield "OLLAMA_NUM_PARALLEL", str(section.max_concurrency)
    if section.max_loaded_models is not None:
        yield "OLLAMA_MAX_LOADED_MODELS", str(section.max_loaded_models)
    if section.keep_alive is not None:
        yield "OLLAMA_KEEP_ALIVE", "-1" if math.isinf(section.keep_alive) else f"{section.keep_alive:.3f}s"
    if section.context is not None:
        yield "OLLAMA_CONTEXT_LENGTH", str(section.context)


def _named(section: BackendSection) -> set[str] | None:
    served = section.served_models
    return None if served is None else {full_name(name) for name in served}


def _entries(listing: Any) -> list[dict[str, Any]]:
    """The models of an answer of ``/api/tags`` or ``/api/ps`` that have a name; every field may be of another type."""
    found = listing.get("models") if isinstance(listing, dict) else None
    if not isinstance(found, list):
        return []
    return [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def _model_view(entry: dict[str, Any], section: BackendSection, loaded_context: int | None) -> ModelView:
    digest, said = entry.get("digest"), entry.get("capabilities")
    words = [word for word in said if isinstance(word, str)] if isinstance(said, list) else []
    return ModelView(
        id=entry["name"],
        created=_seconds(entry.get("modified_at")),
        context=loaded_context or _context(entry, section),
        capabilities=tuple(can for word in words for can in _CAPABILITIES.get(word, ())),
        digest=digest if isinstance(digest, str) else None,
    )


def _context(entry: dict[str, Any], section: BackendSection) -> int | None:
    """What a model that isn't loaded will have: Ollama cuts longer prompts silently, so nothing is promised on a guess.

    A model of the cloud runs with what it was trained for; a local one with the server's setting, if that is less.
    """
    details = entry.get("details")
    trained = positive(details.get("context_length")) if isinstance(details, dict) else None
    if entry.get("remote_model"):
        return trained
    setting = section.context if isinstance(section, OllamaBackend) else None
    return min(setting, trained or setting) if setting is not None else None


def _seconds(moment: Any) -> int:
    try:
        return int(datetime.fromisoformat(moment).timestamp())
    except (TypeError, ValueError, OverflowError):
        return 0
