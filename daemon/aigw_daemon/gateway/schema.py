"""The shapes of the cold routes' answers, for the OpenAPI description only: answers are built without pydantic."""

from typing import Any, Literal

from pydantic import BaseModel


class ErrorContent(BaseModel):
    """What went wrong. An engine's own simple fields, such as llama.cpp's n_ctx, come beside these."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """The one envelope of every error."""

    error: ErrorContent


class Model(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"]
    created: int
    """Seconds since the epoch; where the engine hasn't said it, since when its backend is in its state."""
    owned_by: str
    """The engine."""
    provider: str
    state: str
    backend: str
    context_length: int | None
    capabilities: list[str]
    listed: bool
    """Whether a backend lists it now."""
    last_listed: int | None
    """When a backend that can't be asked now last listed it, seconds since the epoch."""


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class About(BaseModel):
    """What a server says of itself at its root: the other fields are paths on it."""

    name: Literal["aigw"]
    version: str
    about: str
    base_path: str
    models: str
    health: str
    docs: str
    openapi: str


class Provider(BaseModel):
    """A backend, as health shows it."""

    engine: str
    state: str
    models: list[str]
    since: float
    why: str | None


class Health(BaseModel):
    """Whether the gateway can serve, and why not."""

    status: Literal["ok", "degraded", "unavailable"]
    profile: str | None
    providers: dict[str, Provider]
    reasons: list[str]


class Probe(BaseModel):
    """Of the process itself."""

    status: Literal["ok", "unavailable"]
    reasons: list[str] = []


ERROR: dict[str, Any] = {"model": Error}
