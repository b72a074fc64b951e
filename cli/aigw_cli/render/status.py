"""`aigw status`: the daemon, the gateway, and one row per backend with what there is to say about it."""

from rich.text import Text

from aigw_cli.render.look import LABEL, Column, Look, Row, fitted, hanging, labelled, state_style, state_text
from aigw_cli.render.text import clean, counted, duration, memory
from aigw_daemon.control.schema import BackendStatus, CacheStatus, DaemonStatus, GatewayStatus, LoadedModel, Status
from aigw_daemon.words import State

COLUMNS = (
    Column("NAME"),
    Column("ENGINE"),
    Column("STATE"),
    Column("PID", right=True),
    Column("ADDRESS"),
    Column("GPU"),
    Column("MEMORY", right=True),
    Column("MODELS"),
    Column("UPTIME", right=True),
    Column("RESTARTS", right=True),
    Column("IN-FLIGHT", right=True),
)
_GIVE_WAY = ("MODELS", "ADDRESS", "PID", "GPU", "ENGINE", "RESTARTS", "IN-FLIGHT", "MEMORY")
"""Columns that move to the line below their row, in this order, until the table fits."""

_MODELS_SHOWN = 3
_MODELS_IN_PLAIN_TEXT = 20
"""A cloud lists thousands; `status --json` has them all."""
_LOG_LINES = 4
_INDENT = "  "
_TROUBLED = frozenset({State.FAILED, State.BACKOFF, State.UNREACHABLE})


def status_lines(status: Status, look: Look, own_version: str) -> list[Text]:
    """The whole screen. ``own_version`` is the CLI's: a daemon of another version is pointed out."""
    lines = _header(status, look, own_version)
    if not status.backends:
        nothing = "the profile declares none" if status.profile else "no profile is active; 'aigw up' runs one"
        return [*lines, Text(), Text(f"no backends: {nothing}", style="dim")]
    return [*lines, Text(), *_backends(status.backends, look)]


def gone_lines(status: Status, look: Look, own_version: str) -> list[Text]:
    """The daemon went away: what it said last, under a line that says so."""
    said = "aigwd is not running; waiting for it ('aigw up' starts it, Ctrl-C quits). Last status:"
    return [*hanging(said, look.width, indent="", style="yellow"), Text(), *status_lines(status, look, own_version)]


def _header(status: Status, look: Look, own_version: str) -> list[Text]:
    lines = labelled("profile", [clean(status.profile or "none is active")], look)
    if status.profile_edited:
        lines += hanging(edited_sentence(status), look.width, indent=" " * LABEL, style="yellow")
    lines += [*_gateway(status.gateway, look), *labelled("daemon", _daemon(status.daemon), look)]
    if status.daemon.version != own_version:
        skew = f"this aigw is {own_version}: 'aigw daemon restart' updates the daemon"
        lines += hanging(skew, look.width, indent=" " * LABEL, style="yellow")
    for warning in status.daemon.warnings:
        lines += hanging(warning, look.width, indent=" " * LABEL, style="yellow")
    return [*lines, *(_cache(status.cache, look) if status.cache is not None else [])]


def _gateway(gateway: GatewayStatus, look: Look) -> list[Text]:
    facts = [clean(gateway.url or "")]
    if gateway.pid is not None:
        facts.append(f"PID {gateway.pid}")
    if gateway.restarts:
        facts.append(counted(gateway.restarts, "restart"))
    lines = labelled("gateway", [state_text(gateway.state, look), *filter(None, facts)], look)
    if gateway.why:
        lines += hanging(gateway.why, look.width, indent=" " * LABEL, style=state_style(gateway.state))
    return lines


def edited_sentence(status: Status) -> str:
    """What to do about a profile that was edited."""
    return f"{status.profile_file} has changed since it was loaded: 'aigw up' applies it"


def cache_sentence(cache: CacheStatus) -> str:
    """What the cache keeps, and what turns that off."""
    which = "answers, sampled ones too," if cache.mode == "on" else "deterministic answers"
    kept = f"{which} are kept for {duration(cache.ttl_s)} and given again to an identical request"
    return f"{kept}; 'x-aigw-cache: bypass' asks the engine, 'mode: off' keeps none"


def _cache(cache: CacheStatus, look: Look) -> list[Text]:
    """Which answers are kept, and the Redis that they are kept in as well."""
    facts: list[Text | str] = [clean(cache.mode), *_kept(cache)]
    redis = cache.redis
    if redis is None:
        return labelled("cache", facts, look)
    server = redis.server
    if server is None:
        where = clean(redis.where)
        lines = labelled("cache", [*facts, f"Redis {where}" if where else "no Redis"], look)
    else:
        facts += [Text("Redis ").append_text(state_text(server.state, look))]
        facts += [f"PID {server.pid}"] if server.pid is not None else []
        facts += [memory(server.memory_bytes)] if server.memory_bytes is not None else []
        facts += [counted(server.restarts, "restart")] if server.restarts else []
        lines = [*labelled("cache", facts, look), *explanation(server, look)]
    for warning in redis.warnings:
        lines += hanging(warning, look.width, indent=_INDENT, style="yellow")
    return lines


def _kept(cache: CacheStatus) -> list[str]:
    if cache.mode == "off":
        return []
    sampled = ["sampled answers too"] if cache.mode == "on" else []
    return [f"kept for {duration(cache.ttl_s)}", *sampled, "'mode: off' keeps none"]


def _daemon(daemon: DaemonStatus) -> list[str]:
    return [f"PID {daemon.pid}", f"version {clean(daemon.version)}", f"up {duration(daemon.uptime_s)}"]


def _backends(backends: list[BackendStatus], look: Look) -> list[Text]:
    rows = [_row(backend, look) for backend in backends]
    heading, body = fitted(COLUMNS, _GIVE_WAY, rows, look, _fact)
    lines = [heading]
    for backend, row in zip(backends, body, strict=True):
        lines += [*row, *_in_memory(backend, look), *explanation(backend, look)]
    return lines


def _row(backend: BackendStatus, look: Look) -> Row:
    cells = {
        "NAME": clean(backend.name),
        "ENGINE": clean(backend.engine),
        "PID": _number(backend.pid),
        "ADDRESS": clean((backend.address or "").removeprefix("http://")),
        "GPU": ",".join(clean(str(gpu)) for gpu in backend.gpus),
        "MEMORY": memory(backend.memory_bytes),
        "MODELS": _models(backend.models, look),
        "UPTIME": duration(backend.uptime_s),
        "RESTARTS": str(backend.restarts),
        "IN-FLIGHT": str(backend.in_flight),
    }
    # A dash keeps every field of a plain line in place for programs that split at blanks.
    row = {title: Text(value) if value else Text("-", style="dim") for title, value in cells.items()}
    return row | {"STATE": state_text(backend.state, look)}


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _models(models: list[str], look: Look) -> str:
    shown, separator, blank = (_MODELS_IN_PLAIN_TEXT, ",", ",") if look.plain else (_MODELS_SHOWN, ", ", " ")
    more = len(models) - shown
    # A program splits a plain line at its blanks.
    return separator.join(clean(model) for model in models[:shown]) + (f"{blank}+{more}" if more > 0 else "")


def _in_memory(backend: BackendStatus, look: Look) -> list[Text]:
    """What an engine with many models has loaded, and where: a line each."""
    return [
        line
        for model in backend.loaded
        for line in hanging(f"loaded {_loaded(model)}", look.width, indent=_INDENT, style="dim")
    ]


def _loaded(model: LoadedModel) -> str:
    where = f"{memory(model.gpu_memory_bytes)} on GPU" if model.gpu_memory_bytes else "on the CPU"
    context = f", context {model.context}" if model.context else ""
    return f"{clean(model.name)} {memory(model.memory_bytes)}, {where}{context}"


def _fact(title: str, value: str) -> str:
    if value in {"-", "0"}:
        return ""
    match title:
        case "PID" | "GPU":
            return f"{title} {value}"
        case "RESTARTS":
            return counted(int(value), "restart")
        case "IN-FLIGHT":
            return f"{value} in flight"
        case _:
            return value


def explanation(backend: BackendStatus, look: Look) -> list[Text]:
    """Why the backend is where it is, the log lines that show it, and what to do next."""
    lines: list[Text] = []
    if backend.why:
        lines += hanging(backend.why, look.width, indent=_INDENT, style=state_style(backend.state))
    if backend.state == State.STARTING and backend.progress:
        lines += [log_line(backend.progress)]
    if backend.state in _TROUBLED:
        lines += [log_line(line) for line in _evidence(backend)]
    if backend.stale:
        advice = (
            f"running with settings that differ from the profile's: 'aigw restart {clean(backend.name)}' applies them"
        )
        lines += hanging(advice, look.width, indent=_INDENT, style="yellow")
    for warning in backend.warnings:
        lines += hanging(warning, look.width, indent=_INDENT, style="yellow")
    return lines


def _evidence(backend: BackendStatus) -> list[str]:
    """The line that gives the failure away; where none is known to, the last ones."""
    return [backend.telling] if backend.telling else backend.log_tail[-_LOG_LINES:]


def log_line(line: str, *, indent: str = _INDENT) -> Text:
    """A line of somebody's log: set off, and cut at the edge of the screen."""
    return Text(f"{indent}| {clean(line)}", style="dim", no_wrap=True, overflow="ellipsis")
