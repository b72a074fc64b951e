"""What daemon and gateway worker say to each other, as msgpack over a Unix socket.

Down: `Snapshot` at every change, `Drain`, `Tail`, `CacheCommand`, `Ping`. Up: `Hello` once per connection (with the
listening descriptors beside it), `Load` while anything is in flight, `Records` in batches, `Demand`, `CacheReply`,
`Pong`, `Applied` for each snapshot. Every message is a tagged struct; an unknown field is ignored, so that a newer side
may say more.
"""

from typing import Final

import msgspec

from aigw_daemon.link.caching import CacheCommand, CacheReply
from aigw_daemon.network.egress import DIRECT, Egress
from aigw_daemon.words import EngineKind, State

CHAT: Final = "chat/completions"
COMPLETIONS: Final = "completions"
EMBEDDINGS: Final = "embeddings"
RERANK: Final = "rerank"
ENDPOINTS: Final = (CHAT, COMPLETIONS, EMBEDDINGS, RERANK)
"""What can be asked of an engine, as the path below its base path (rule S4)."""
STREAMED: Final = frozenset({CHAT, COMPLETIONS})
"""Those of them that are answered in a stream when a request says so."""


class Secret(msgspec.Struct, frozen=True):
    """A value that is sent and used but never printed (rule S12)."""

    value: str

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


class ModelView(msgspec.Struct, frozen=True):
    """One model that a backend serves."""

    id: str
    created: int
    """Seconds since the epoch."""
    context: int | None = None
    """Tokens, where the engine says it."""
    capabilities: tuple[str, ...] = ()
    """Of chat, completions, embeddings, rerank, vision, tools."""
    digest: str | None = None
    """Of its content, where the engine says it: the same name can come to mean another model."""
    listed: bool = True
    """Whether the backend's own list has it now; False where only the profile names it, or an earlier list did."""
    listed_at: float | None = None
    """When a backend that can't be asked now last listed it, seconds since the epoch; None for all others."""


class BackendView(msgspec.Struct, frozen=True):
    """What the worker knows of a backend."""

    name: str
    engine: EngineKind
    state: State
    since: float
    """When the state began, seconds since the epoch."""
    host: str
    port: int
    tls: bool = False
    base_path: str = "/v1"
    """What stands before ``/chat/completions`` on this engine."""
    models: tuple[ModelView, ...] = ()
    api_key: Secret | None = None
    why: str | None = None
    """The reason for a state that isn't ready, one sentence."""
    max_concurrency: int | None = None
    """Requests that it works on at once, as the profile or the engine says; None where neither does."""
    wanted: bool = True
    """Whether the operator or the profile wants it running."""
    max_queue: int = 100
    """Requests that may wait for one of these places."""
    endpoints: tuple[str, ...] = ENDPOINTS
    """What its engine speaks, of `ENDPOINTS`."""
    cloud: bool = False
    """A service on the internet: its models can also be asked for by the names that a local Ollama gives them."""
    first_token_timeout: float | None = None
    """Seconds that a stream may take to its first token; None: its hang detector watches instead."""
    gap_timeout: float | None = None
    """Seconds between two pieces of an answer; None: likewise."""
    cold_timeout: float = 600.0
    """Seconds that a request waits for it to start."""
    last_start_s: float | None = None
    """Seconds that its last start took until it was ready, where that is known."""
    pid: int | None = None
    """Of the process that aigw runs for it now; None where there is none, and for one that somebody else runs. Another
    one is another process: what the last one did says nothing about it."""
    returning: bool = False
    """Whether aigw is replacing its process: it drains, stops or is in backoff, and comes back without being asked."""
    revision: str = ""
    """Of what it runs or will run: its model's file, its arguments, its address. Another one may answer otherwise."""
    egress: Egress = DIRECT
    """The way to it, by the daemon's environment."""
    has_list: bool = True
    """Whether it can be asked for its models; else the profile alone names them."""


class TargetView(msgspec.Struct, frozen=True):
    """One hop of a route: a backend and the name that it knows the model by."""

    backend: str
    model: str
    weight: int = 1
    """Its share among the targets of its route, where the route is balanced by weight or load."""
    sole: bool = False
    """The profile names no model: while the backend has a single one, it comes before `model`."""


class ParamsView(msgspec.Struct, frozen=True):
    """What a route does to the fields of a request. Values are JSON, ready to be spliced in."""

    defaults: dict[str, bytes] = {}
    """Set where the request doesn't say."""
    override: dict[str, bytes] = {}
    """Set whatever the request says."""
    drop: tuple[str, ...] = ()
    """Left out."""


class RouteView(msgspec.Struct, frozen=True):
    """A public model name and its ordered targets, aliases already followed."""

    name: str
    targets: tuple[TargetView, ...]
    alias_of: str | None = None
    pattern: bool = False
    """The name is a glob; a target whose model is empty takes the name that was asked for."""
    fallback: tuple[TargetView, ...] = ()
    """What is tried after the route's own targets; empty where the route says off."""
    cold: str = "wait"
    """While a backend starts: wait, bridge or reject."""
    overflow: str = "queue"
    """While all places of a backend are taken: queue for one, or spill over to the next target."""
    balance: str = "order"
    """Among its targets that serve: order, least_busy or weighted."""
    params: ParamsView | None = None
    on_context_overflow: tuple[TargetView, ...] = ()
    """Who is asked when a prompt is too long for the targets."""
    first_token_timeout: float | None = None
    """Seconds, in place of the backend's; None: the backend's."""
    request_timeout: float | None = None
    """Seconds, in place of the gateway's; None: the gateway's."""
    cache: str | None = None
    """Which answers are kept: on, deterministic or off; None: as the cache's mode says."""
    cache_ttl: float | None = None
    """Seconds that they are kept; None: the cache's."""


class CapabilityView(msgspec.Struct, frozen=True):
    """A word for what a model is good at, and the models for it, the best first."""

    name: str
    models: tuple[str, ...]


class GatewayView(msgspec.Struct, frozen=True):
    """Limits and policies of the gateway; times in seconds, sizes in bytes."""

    provider: str = "workspace-backend"
    allowed_hosts: tuple[str, ...] = ()
    """Beside localhost and loopback addresses."""
    cors_origins: tuple[str, ...] = ()
    request_timeout: float = 600.0
    max_attempts: int = 3
    """Attempts of one request, over all candidates."""
    queue_timeout: float = 60.0
    """How long a request may wait for a place at a backend."""
    header_timeout: float = 10.0
    body_timeout: float = 60.0
    max_body: int = 64 * 1024 * 1024
    max_head: int = 64 * 1024


class CacheView(msgspec.Struct, frozen=True):
    """Which answers are kept, where and for how long; sizes in bytes, times in seconds."""

    mode: str = "on"
    """on, deterministic or off; a route may say otherwise."""
    ttl: float = 3600.0
    memory: int = 64 * 1024 * 1024
    """What answers may take in the worker's process."""
    max_answer: int = 1024 * 1024
    """The largest that is kept."""
    split_by: tuple[str, ...] = ()
    """Fields of a request that count although they don't change an answer."""
    fallback_answers: bool = False
    """Whether a fallback's answer may be kept as the first choice's."""
    redis: Secret | None = None
    """The URL (redis, rediss or unix) of the second tier; None: there is none, or it doesn't run now."""
    redis_wanted: bool = False
    """Whether the profile wants a second tier, be it there now or not."""
    secret: Secret | None = None
    """Of this installation, in hexadecimal digits, for making keys; None: one of the worker's own."""


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """All that the worker routes on. Immutable; a later revision replaces it whole."""

    revision: int
    profile: str
    gateway: GatewayView
    backends: tuple[BackendView, ...]
    routes: tuple[RouteView, ...]
    fallback: tuple[TargetView, ...] = ()
    """After a model that no route names but some backend serves."""
    capabilities: tuple[CapabilityView, ...] = ()
    cache: CacheView = CacheView()


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Stop accepting, finish what runs within ``grace`` seconds, then exit."""

    grace: float


class Tail(msgspec.Struct, frozen=True, tag="tail"):
    """Whether somebody watches requests live: only then are `Started` messages sent."""

    on: bool


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Whether the worker can still act: one that is frozen or caught in a loop holds its sockets and serves nobody."""


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """It can."""


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """The worker routes on the snapshot of this revision from now on."""

    revision: int


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The worker's first message; its listening sockets travel beside it (SCM_RIGHTS)."""

    link_version: int
    aigw_version: str
    pid: int
    start_ticks: int
    boot_id: str
    cookie: str
    in_flight: int
    listeners: int
    """How many descriptors come with this message."""


class Load(msgspec.Struct, frozen=True, tag="load"):
    """What backends have to do: sent when it changed, at most ten times a second; each second while not idle."""

    in_flight: dict[str, int]
    """Requests that it is answering."""
    relayed: dict[str, int] = {}
    """A number that grows with every piece of an answer that comes from it, and while a slow client holds it up."""
    waiting: dict[str, int] = {}
    """Requests that wait for a place at it."""
    broken: dict[str, str] = {}
    """Backends that get no requests for now because of what they answered, with the reason."""
    refused: tuple[str, ...] = ()
    """Those among them where nobody listens."""


class Demand(msgspec.Struct, frozen=True, tag="demand"):
    """A request wants a backend that isn't running."""

    backend: str
    model: str


class RequestRecord(msgspec.Struct, frozen=True):
    """What is kept of one request. Times in milliseconds; no prompt, no answer, no key."""

    id: str
    at: float
    """When it arrived, seconds since the epoch."""
    endpoint: str
    model: str
    """As the client asked."""
    status: int
    stream: bool
    duration_ms: float
    overhead_ms: float
    """Of ``duration_ms``, what aigw itself took."""
    backend: str | None = None
    upstream_model: str | None = None
    attempts: int = 0
    ttft_ms: float | None = None
    """To the upstream's first byte."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    """``code: message`` of what the client was told, or why its stream was cut."""
    client: str | None = None
    """Address of the client."""
    cache: str = "off"
    """What the cache had to do with it: hit, miss, coalesced, bypass or off."""


class Records(msgspec.Struct, frozen=True, tag="records"):
    """Finished requests, oldest first."""

    records: tuple[RequestRecord, ...]
    dropped: int = 0
    """How many more were finished but not kept, since the last batch."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A request began; only sent while somebody tails."""

    id: str
    at: float
    model: str
    backend: str | None
    endpoint: str


Down = Snapshot | Drain | Tail | CacheCommand | Ping
Up = Hello | Load | Demand | Records | Started | CacheReply | Pong | Applied

encode = msgspec.msgpack.Encoder().encode
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)


def decode_down(data: bytes) -> Down:
    """Read a message of the daemon. Raises msgspec.DecodeError."""
    return _down.decode(data)


def decode_up(data: bytes) -> Up:
    """Read a message of the worker. Raises msgspec.DecodeError."""
    return _up.decode(data)
