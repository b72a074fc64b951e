"""llama.cpp's server, both ways it comes: the ``llama-server`` binary, and embedded in a Python process of ours."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aigw_daemon.link.messages import ModelView
from aigw_daemon.models.resolve import Missing
from aigw_daemon.profile.backends import BackendSection, LlamacppBackend
from aigw_daemon.supervisor.engines.base import LOOPBACK, Counters, Launch, LaunchContext
from aigw_daemon.supervisor.engines.launching import own_environment, program
from aigw_daemon.supervisor.engines.listing import entries, model_view, positive
from aigw_daemon.supervisor.engines.native_signs import SIGNS as NATIVE_SIGNS
from aigw_daemon.supervisor.failures import FailureKind, more_than_there_is, sign, unrunnable
from aigw_daemon.supervisor.patience import Stage
from aigw_daemon.words import EngineKind

BINARY: Final = "llama-server"
EMBEDDED_MODULE: Final = "aigw_daemon.supervisor.engines.llamacpp_embedded"
EMBEDDED_PACKAGE: Final = "xllamacpp"
KEY_VARIABLE: Final = "LLAMA_API_KEY"
"""Read by llama-server, and by our embedded one."""
_FAILED: Final = r"failed to load model(?: from|,)? '?([^']+?)'?$"
"""The line that names a model that couldn't be read; what is wrong with it stands before."""
_ADVICE: Final = "install llama.cpp, set binary to its llama-server, or use runner: embedded"


class LlamacppEngine:
    """Starts and reads llama.cpp's server. See Engine."""

    kind = EngineKind.LLAMACPP
    health_path = "/health"
    models_path = "/v1/models"
    props_path: str | None = "/props"
    start_timeout = 600.0
    stall_timeout: float | None = None
    stages: tuple[Stage, ...] = ()
    has_key = True
    counters: Counters | None = Counters(
        "/metrics", frozenset({"llamacpp:n_decode_total", "llamacpp:prompt_tokens_total"})
    )
    signs = (
        # Memory first: it also ends in "failed to load model".
        sign(
            r"failed to allocate (?:\w+ )?buffer of size (\d+)",
            FailureKind.OUT_OF_MEMORY,
            "the model and its context don't fit into memory, {0:GiB} at once were refused: lower context or "
            "gpu_layers, or take a smaller model",
            more_than_there_is(1),
        ),
        sign(
            r"out of memory|unable to allocate|failed to allocate|cudaMalloc failed|bad_alloc",
            FailureKind.OUT_OF_MEMORY,
            "the model and its context don't fit into memory: lower context or gpu_layers, or take a smaller model",
        ),
        sign(
            r"couldn't bind HTTP server socket, .*port: (\d+)",
            FailureKind.PORT_TAKEN,
            "port {0} is taken: free it, or give the backend another port",
        ),
        sign(
            r"failed to open GGUF file '?([^']+?)'? \(No such file",
            FailureKind.MISSING_MODEL,
            "the model file {0} is not there: check model in the profile, or fetch it with 'aigw pull'",
        ),
        sign(
            r"failed to open GGUF file '?([^']+?)'? \(Permission denied",
            FailureKind.MODEL_UNREADABLE,
            "the model file {0} may not be read: give the user that runs aigw access to it",
        ),
        sign(
            r"unknown model architecture: '([^']+)'",
            FailureKind.MODEL_UNREADABLE,
            "llama.cpp can't read the model {1}: it doesn't know the architecture {0}; use a newer llama.cpp, or "
            "another model",
            about=_FAILED,
        ),
        sign(
            r"this GGUF file is version (\d+) but this software only supports up to version (\d+)",
            FailureKind.MODEL_UNREADABLE,
            "llama.cpp can't read the model {2}: it has version {0} of GGUF, and this llama.cpp knows {1} at most; "
            "use a newer llama.cpp",
            about=_FAILED,
        ),
        sign(
            r"data is not within the file bounds|failed to read (?:header|key-value pairs|tensor info|magic)",
            FailureKind.MODEL_UNREADABLE,
            "llama.cpp can't read the model {0}: it is cut off or broken; fetch it again",
            about=_FAILED,
        ),
        sign(
            r"invalid magic characters",
            FailureKind.MODEL_UNREADABLE,
            "llama.cpp can't read the model {0}: it is no GGUF file; check model in the profile",
            about=_FAILED,
        ),
        sign(
            _FAILED,
            FailureKind.MODEL_UNREADABLE,
            "llama.cpp can't read the model {0}: is it a whole GGUF file that this llama.cpp knows?",
        ),
        sign(
            r"error: (invalid argument: .*|unknown argument: .*|.*expected value for argument.*)",
            FailureKind.BAD_FLAG,
            "llama-server doesn't take its arguments ({0}): change args in the profile",
        ),
        sign(
            r"error while handling argument \"?([^\":]+)\"?: (.*)",
            FailureKind.BAD_FLAG,
            "llama-server doesn't take the value of {0} ({1}): change args in the profile",
        ),
        *NATIVE_SIGNS,
    )

    def launch(self, context: LaunchContext) -> Launch:
        """See Engine."""
        section = context.section
        if not isinstance(section, LlamacppBackend) or section.model is None:
            raise unrunnable(FailureKind.BAD_SETTING, f"the backend {context.name} names no model: add model: PATH")
        model = _model_file(context, section)
        env = _environment(context, section)
        runner = _runner(section, env.get("PATH", os.defpath))
        # Ours come last, and of a flag that is given twice llama-server takes the last: no args of the profile's can
        # move it off the loopback (rule S2).
        argv = (*runner, *section.args, *_arguments(context, section, model))
        return Launch(argv, env, (model, Path(runner[0])))

    def models(self, section: BackendSection, listing: Any, props: Any) -> tuple[ModelView, ...]:
        """See Engine: the one model, with the context that each of its slots has."""
        settings = props.get("default_generation_settings") if isinstance(props, dict) else None
        context = positive(settings.get("n_ctx")) if isinstance(settings, dict) else None
        can = _capabilities(section, props)
        return tuple(model_view(entry, context or _trained_context(entry), can) for entry in entries(listing))

    def concurrency(self, props: Any) -> int | None:
        """See Engine: its slots."""
        return positive(props.get("total_slots")) if isinstance(props, dict) else None


def _capabilities(section: BackendSection, props: Any) -> tuple[str, ...]:
    """Tools always: where a model's template has none, llama.cpp brings a form of its own."""
    if isinstance(section, LlamacppBackend) and section.purpose != "chat":
        return (section.purpose,)
    modalities = props.get("modalities") if isinstance(props, dict) else None
    sees = isinstance(modalities, dict) and modalities.get("vision") is True
    return ("chat", "completions", "tools", *(("vision",) if sees else ()))


def _trained_context(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    return positive(meta.get("n_ctx_train")) if isinstance(meta, dict) else None


def _model_file(context: LaunchContext, section: LlamacppBackend) -> Path:
    found = context.resolve(context.profile, section, context.home)
    if isinstance(found, Missing):
        raise unrunnable(FailureKind.MISSING_MODEL, found.advice)
    return found.path


def _environment(context: LaunchContext, section: LlamacppBackend) -> dict[str, str]:
    own = own_environment(context.name, section.env, context.environ)
    return {**context.inherited, **own, KEY_VARIABLE: context.api_key.value}


def _runner(section: LlamacppBackend, path: str) -> tuple[str, ...]:
    """The program and what comes before llama.cpp's own arguments."""
    if section.binary is not None:
        return (program(section.binary, path, _ADVICE),)
    if section.runner == "binary":
        return (program(BINARY, path, _ADVICE),)
    found = shutil.which(BINARY, path=path)
    return (found,) if found and section.runner == "auto" else _embedded(section)


def _embedded(section: LlamacppBackend) -> tuple[str, ...]:
    if section.args:
        raise unrunnable(
            FailureKind.BAD_SETTING,
            "args are for the llama-server binary, and runner: embedded has none: remove args, or use runner: binary",
        )
    if importlib.util.find_spec(EMBEDDED_PACKAGE) is None:
        raise unrunnable(
            FailureKind.MISSING_BINARY,
            f"there is neither a {BINARY} on the PATH nor the Python package {EMBEDDED_PACKAGE}: install llama.cpp, "
            "or aigw with its extra 'embedded'",
        )
    # -P: a file that happens to lie in the working folder must not be imported in place of a package.
    return (sys.executable, "-P", "-m", EMBEDDED_MODULE)


def _arguments(context: LaunchContext, section: LlamacppBackend, model: Path) -> tuple[str, ...]:
    """Flags that both runners take: the embedded one reads a small part of llama-server's."""
    served = section.served_models or ()
    flags: Mapping[str, object | None] = {
        "--model": model,
        "--alias": served[0] if served else None,
        "--host": LOOPBACK,
        "--port": context.port,
        "--ctx-size": section.context,
        "--parallel": section.parallel,
        "--gpu-layers": section.gpu_layers,
    }
    switches = {"--embeddings": section.embeddings, "--rerank": section.rerank}
    return (
        *(word for flag, value in flags.items() if value is not None for word in (flag, str(value))),
        *(switch for switch, on in switches.items() if on),
        "--metrics",
        "--slots",
        "--no-webui",
    )
