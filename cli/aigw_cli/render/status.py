"""`aigw status`: the daemon, the gateway, and one row per backend with what there is to say about it."""

from rich.text import Text

from aigw_cli.render.look import Column, Look, Row, fit, hanging, packed, state_style, state_text, table
from aigw_cli.render.text import clean, duration, memory
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
    said = "aigwd is gone; this goes on when it is back ('aigw up' starts it, Ctrl-C ends this). What it said last:"
    return [*hanging(said, look.width, indent="", style="yellow"), Text(), *status_lines(status, look, own_version)]


def _header(status: Status, look: Look, own_version: str) -> list[Text]:
    lines = [
        _labelled("profile", Text(clean(status.profile or "none is active"))),
        _labelled("gateway", _gateway(status.gateway, look)),
        _labelled("daemon", Text(_daemon(status.daemon))),
    ]
    if status.gateway.why:
        lines[2:2] = hanging(status.gateway.why, look.width, indent=" " * 9, style=state_style(status.gateway.state))
    if status.daemon.version != own_version:
        skew = f"this aigw is {own_version}: 'aigw daemon restart' brings the daemon to it"
        lines += hanging(skew, look.width, indent=" " * 9, style="yellow")
    for warning in status.daemon.warnings:
        lines += hanging(warning, look.width, indent=" " * 9, style="yellow")
    return [*lines, *(_cache(status.cache, look) if status.cache is not None else [])]


def _labelled(label: str, value: Text) -> Text:
    return Text(no_wrap=True, overflow="ellipsis").append(f"{label:<9}", style="dim").append_text(value)


def _gateway(gateway: GatewayStatus, look: Look) -> Text:
    line = state_text(gateway.state, look)
    facts = [clean(gateway.url or "")]
    if gateway.pid is not None:
        facts.append(f"PID {gateway.pid}")
    if gateway.restarts:
        facts.append(_counted(gateway.restarts, "restart"))
    return line.append("  ", style="not dim").append("  ".join(fact for fact in facts if fact), style="default")


def _cache(cache: CacheStatus, look: Look) -> list[Text]:
    """Which answers are kept, and the Redis that they are kept in as well."""
    line = Text(clean(cache.mode) if cache.mode == "off" else f"{clean(cache.mode)}  kept for {duration(cache.ttl_s)}")
    redis = cache.redis
    if redis is None:
        return [_labelled("cache", line)]
    server = redis.server
    if server is None:
        where = clean(redis.where)
        lines = [_labelled("cache", line.append(f"  Redis {where}" if where else "  no Redis"))]
    else:
        facts = [f"PID {server.pid}" if server.pid is not None else "", memory(server.memory_bytes)]
        facts += [_counted(server.restarts, "restart")] if server.restarts else []
        state = state_text(server.state, look).append("  " + "  ".join(filter(None, facts)), style="default")
        state.rstrip()
        lines = [_labelled("cache", line.append("  Redis ").append_text(state)), *explanation(server, look)]
    for warning in redis.warnings:
        lines += hanging(warning, look.width, indent=_INDENT, style="yellow")
    return lines


def _daemon(daemon: DaemonStatus) -> str:
    return f"PID {daemon.pid}  version {clean(daemon.version)}  up {duration(daemon.uptime_s)}"


def _backends(backends: list[BackendStatus], look: Look) -> list[Text]:
    rows = [_row(backend, look) for backend in backends]
    columns, moved = fit(COLUMNS, _GIVE_WAY, rows, look.width)
    heading, *body = table(columns, rows)
    lines = [heading]
    for backend, row, line in zip(backends, rows, body, strict=True):
        lines += [line, *_below(backend, row, moved, look)]
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


def _below(backend: BackendStatus, row: Row, moved: list[Column], look: Look) -> list[Text]:
    facts = [
        _fact(column.title, row[column.title].plain) for column in moved if row[column.title].plain not in {"-", "0"}
    ]
    return [*packed(facts, look.width, indent=_INDENT), *_in_memory(backend, look), *explanation(backend, look)]


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
    match title:
        case "PID" | "GPU":
            return f"{title} {value}"
        case "RESTARTS":
            return _counted(int(value), "restart")
        case "IN-FLIGHT":
            return f"{value} in flight"
        case _:
            return value


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
        advice = f"runs with older settings than the profile's: 'aigw restart {clean(backend.name)}' applies them"
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
