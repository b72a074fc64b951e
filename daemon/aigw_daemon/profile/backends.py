"""What a profile says of each kind of backend: one class per engine, told apart by the key ``engine``."""

import math
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from aigw_daemon.profile.commands import Command, PlaceholderWord, check_own_process
from aigw_daemon.profile.scalars import (
    Duration,
    Key,
    Limit,
    Locked,
    Memory,
    Secret,
    Url,
    Word,
    one_of_pattern,
    parse_duration,
    rule,
)
from aigw_daemon.profile.sources import MODEL_NAME
from aigw_daemon.words import EngineKind

Port = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, Field(min_length=1, max_length=500)]
ModelId = Annotated[
    str,
    Field(min_length=1, max_length=200),
    AfterValidator(one_of_pattern(r"[!-~]+", "model names are printable ASCII without spaces, at most 200 characters")),
]
_GPU_UUID = one_of_pattern(r"GPU-[0-9a-fA-F-]{8,60}", "must be a GPU's index or UUID (GPU-…)")
_FOLDER = one_of_pattern(r"~?/[^\x00-\x1f]+", "must be a folder's path that starts with / or ~/")
_LOCAL_MODEL = one_of_pattern(
    rf"(~?/[^\x00-\x1f]+|{MODEL_NAME}(/{MODEL_NAME})*)",
    "must be a path that starts with / or ~/, a name of the section models, or a file in the models folder",
)


def _gpus(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, tuple):
        raise rule("must be a list of GPU indices or UUIDs such as [0], or how many GPUs to use")
    for gpu in value:
        if isinstance(gpu, str):
            _GPU_UUID(gpu)
        elif not isinstance(gpu, int) or isinstance(gpu, bool) or gpu < 0:
            raise rule("must hold only GPU indices (0, 1, …) and UUIDs (GPU-…)")
    return value


def _keep_alive(value: object) -> float:
    if value == "forever":
        return math.inf
    try:
        return parse_duration(value)
    except PydanticCustomError:
        raise rule("must be a duration such as 30s or 10m, or forever") from None


def _models(value: object) -> object:
    if value != "auto" and not isinstance(value, tuple):
        raise rule('must be "auto" or a list of model names')
    return value


Gpus = Annotated[
    tuple[int | str, ...] | int,
    BeforeValidator(_gpus),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "array", "items": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}},
            ]
        }
    ),
]
KeepAlive = Annotated[
    float,
    BeforeValidator(_keep_alive),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number", "minimum": 0}]}),
]
"""Seconds; infinite for forever."""
ModelList = Annotated[
    Literal["auto"] | tuple[ModelId, ...],
    BeforeValidator(_models),
    Field(description="Models that it offers: auto asks it, and keeps asking; a list names them."),
]


class Section(BaseModel):
    """What every part of a profile has in common: nothing is converted, unknown keys are errors, nothing changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


class BackendSection(Section):
    """What every backend may say."""

    description: Text | None = Field(default=None, description="A sentence for people.")
    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Requests at once; absent: what the engine reports."
    )
    first_token_timeout: Duration | None = Field(
        default=None, description="How long a stream may wait for its first token; absent: the gateway's."
    )
    gap_timeout: Duration | None = Field(
        default=None, description="How long an answer may stand still; absent: the gateway's."
    )
    max_queue: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="How many requests may wait for a place; absent: the gateway's."
    )

    @property
    def base_url(self) -> str | None:
        """Where it answers when somebody else runs it; None when aigw runs it. May hold ``${VARIABLE}``."""
        return None

    @property
    def managed(self) -> bool:
        """Whether aigw runs the process."""
        return self.base_url is None

    @property
    def served_models(self) -> tuple[str, ...] | None:
        """The models that the profile itself names; None when only the engine knows."""
        return None

    @property
    def lists_models(self) -> bool:
        """Whether its list of models is asked for and must hold those that the profile names."""
        return True

    @property
    def health_path(self) -> str | None:
        """Where the profile says to probe it; None: where its kind of engine answers."""
        return None


class ProcessSection(BackendSection):
    """What a backend that is a process on this machine may say."""

    port: Port | None = Field(
        default=None, description="Its port on the loopback; absent: the daemon chooses a free one."
    )
    start: Literal["always", "on_demand"] = Field(
        default="always", description="always: with the profile; on_demand: when a request wants it."
    )
    idle_stop: Duration | None = Field(default=None, description="Stop it after this long without a request.")
    cold_timeout: Duration | None = Field(
        default=None, description="How long a request waits for a start; absent: the gateway's."
    )
    start_timeout: Duration | None = Field(
        default=None, description="How long a start may take until it is ready; absent: by the kind of engine."
    )
    drain: Duration = Field(
        default=30.0, description="How long running requests may take to finish when it is stopped or replaced."
    )
    hang_timeout: Limit = Field(
        default=60.0,
        description="How long requests in flight may make no progress before the backend is replaced; off: no limit.",
    )
    group: Annotated[str, Field(pattern=rf"^{MODEL_NAME}$")] | None = Field(
        default=None, description="Exclusive group: of the backends that name it, one runs at a time."
    )
    gpus: Gpus | None = Field(
        default=None, description="GPUs by index or UUID, or how many; absent: the engine's choice."
    )
    env: Locked[str, Secret] = Field(
        default={}, description="Added to its environment; ${VARIABLE} is expanded when it starts."
    )
    args: tuple[Word, ...] = Field(default=(), description="Further arguments, as they are.")

    @property
    def has_port(self) -> bool:
        """Whether it answers on a port of the loopback."""
        return True

    @property
    def always_on(self) -> bool:
        """Whether it runs as long as the profile is active."""
        return self.managed and self.start == "always"


class AttachableSection(ProcessSection):
    """What a backend may say that somebody else may run as well."""

    attach: Url | None = Field(
        default=None, description="Somebody else runs it at this URL: routed and probed, never started or stopped."
    )
    api_key: Key | None = Field(
        default=None, description="Sent to an attached one; ${VARIABLE} is taken from the daemon's environment."
    )

    @property
    def base_url(self) -> str | None:
        """See BackendSection."""
        return self.attach


class OllamaBackend(AttachableSection):
    """``ollama serve``."""

    engine: Literal[EngineKind.OLLAMA]
    models: ModelList = "auto"
    binary: Text | None = Field(default=None, description="The program; absent: ollama on the PATH.")
    models_dir: Annotated[str, AfterValidator(_FOLDER)] | None = Field(
        default=None, description="The folder of its models (OLLAMA_MODELS); absent: Ollama's own."
    )
    max_loaded_models: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Models in memory at once (OLLAMA_MAX_LOADED_MODELS); absent: Ollama's choice."
    )
    keep_alive: KeepAlive | None = Field(
        default=None,
        description="How long an idle model stays in memory, or forever (OLLAMA_KEEP_ALIVE); absent: Ollama's 5m.",
    )
    context: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens of context of each model (OLLAMA_CONTEXT_LENGTH); absent: Ollama's choice."
    )

    @property
    def served_models(self) -> tuple[str, ...] | None:
        """See BackendSection."""
        return None if self.models == "auto" else self.models


class VllmBackend(AttachableSection):
    """``vllm serve`` with one model."""

    engine: Literal[EngineKind.VLLM]
    model: ModelId | None = Field(default=None, description="A model of the Hugging Face hub, or a folder.")
    served_name: ModelId | None = Field(default=None, description="The name that requests use; absent: the model's.")
    command: Annotated[Command, AfterValidator(check_own_process)] | None = Field(
        default=None, min_length=1, description="What to run in place of `vllm serve`, as a list."
    )
    memory: Memory | None = Field(
        default=None,
        description="GPU memory that it may take: a fraction of each GPU such as 0.45, or a size such as 20GiB.",
    )

    @property
    def served_models(self) -> tuple[str, ...] | None:
        """See BackendSection."""
        name = self.served_name or self.model
        return (name,) if name else None


class LlamacppBackend(AttachableSection):
    """llama.cpp's server with one model: the binary, or embedded in a process of aigw's own."""

    engine: Literal[EngineKind.LLAMACPP]
    model: Annotated[str, AfterValidator(_LOCAL_MODEL)] | None = Field(
        default=None, description="A path to a GGUF file, a name of the section models, or a file in the models folder."
    )
    served_name: ModelId | None = Field(default=None, description="The name that requests use; absent: the model's.")
    runner: Literal["auto", "embedded", "binary"] = Field(
        default="auto", description="auto: llama-server if it is on the PATH, else the embedded one."
    )
    binary: Text | None = Field(default=None, description="The llama-server program; absent: the one on the PATH.")
    context: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens of context; absent: llama.cpp's."
    )
    parallel: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Requests that it works on at once; they share the context."
    )
    gpu_layers: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Layers on the GPU; absent: as many as fit."
    )
    embeddings: bool = Field(default=False, description="Serve embeddings.")
    rerank: bool = Field(default=False, description="Serve rerank.")

    @property
    def served_models(self) -> tuple[str, ...] | None:
        """See BackendSection. A path serves under the file's name without its ending."""
        if self.served_name:
            return (self.served_name,)
        return (PurePath(self.model).name.removesuffix(".gguf"),) if self.model else None

    @property
    def purpose(self) -> Literal["chat", "embeddings", "rerank"]:
        """What it is started for, by the profile's keys or its args. It is one of them: see its ``--embeddings``."""
        if self.rerank or not {"--rerank", "--reranking"}.isdisjoint(self.args):
            return "rerank"
        if self.embeddings or not {"--embedding", "--embeddings"}.isdisjoint(self.args):
            return "embeddings"
        return "chat"


class OpenaiBackend(BackendSection):
    """Any OpenAI-compatible URL, Ollama Cloud among them."""

    engine: Literal[EngineKind.OPENAI]
    url: Url = Field(description="Its base URL, up to and with /v1.")
    api_key: Key | None = Field(
        default=None, description="Its key; ${VARIABLE} is taken from the daemon's environment."
    )
    models: ModelList = "auto"
    cloud: bool | None = Field(
        default=None,
        description="Whether it is a service on the internet; absent: only ollama.com is. Its models can then also be "
        "asked for as NAME:cloud and NAME:TAG-cloud, and it gets 60s to the first token.",
    )

    @property
    def base_url(self) -> str | None:
        """See BackendSection."""
        return self.url

    @property
    def served_models(self) -> tuple[str, ...] | None:
        """See BackendSection."""
        return None if self.models == "auto" else self.models


class CommandBackend(ProcessSection):
    """Any other OpenAI-compatible server that a command starts."""

    engine: Literal[EngineKind.COMMAND]
    command: Annotated[tuple[PlaceholderWord, ...], AfterValidator(check_own_process)] = Field(
        min_length=1, description="The program and its arguments, as a list; {host}, {port} and {model} are filled in."
    )
    model: Text | None = Field(default=None, description="What {model} stands for.")
    probe: Annotated[str, Field(pattern=r"^/[!-~]*$")] = Field(
        default="/health", description="The path that answers with success (2xx) once it is ready."
    )
    models: ModelList = "auto"

    @property
    def served_models(self) -> tuple[str, ...] | None:
        """See BackendSection."""
        return None if self.models == "auto" else self.models

    @property
    def lists_models(self) -> bool:
        """See BackendSection. What the profile names is taken at its word: not every server has a list."""
        return self.models == "auto"

    @property
    def health_path(self) -> str | None:
        """See BackendSection."""
        return self.probe


Backend = Annotated[
    OllamaBackend | VllmBackend | LlamacppBackend | OpenaiBackend | CommandBackend, Field(discriminator="engine")
]

SECTIONS: dict[EngineKind, type[BackendSection]] = {
    EngineKind.OLLAMA: OllamaBackend,
    EngineKind.VLLM: VllmBackend,
    EngineKind.LLAMACPP: LlamacppBackend,
    EngineKind.OPENAI: OpenaiBackend,
    EngineKind.COMMAND: CommandBackend,
}
