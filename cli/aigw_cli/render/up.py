"""`aigw up`, `start` and `restart`: each backend's way to ready, and the summary at its end."""

import json
import shlex
from collections.abc import Collection, Mapping

from rich.console import RenderableType
from rich.text import Text

from aigw_cli.render.look import LABEL, Look, hanging, labelled, packed, state_text
from aigw_cli.render.status import cache_sentence, edited_sentence, explanation
from aigw_cli.render.text import clean, duration
from aigw_cli.settle import Outcome, Wait, gateway_outcome, outcome
from aigw_daemon.control.schema import BackendStatus, Example, Status
from aigw_daemon.words import SERVING, State

_MODELS_SHOWN = 8
_BODIES: Mapping[str, Mapping[str, object]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"prompt": "Hi"},
    "embeddings": {"input": "Hi"},
    "rerank": {"query": "Hi", "documents": ["Hello", "Goodbye"]},
}
"""What a first request says at each endpoint, the most useful first."""
_STATE_WIDTH = max(len(state) for state in State) + 2
_SECONDS_WIDTH = 10


def progress_lines(status: Status, names: Collection[str], look: Look) -> list[Text]:
    """The live view: one line per awaited backend, with its seconds in the state and its last log line."""
    backends = [b for b in status.supervised if b.name in names]
    # However long a name is, its state stays on the screen.
    widest = max(len("gateway"), look.width - _STATE_WIDTH - _SECONDS_WIDTH)
    width = min(widest, max([len("gateway"), *(len(clean(b.name)) for b in backends)]))
    gateway = status.gateway
    lines = [_progress("gateway".ljust(width), state_text(gateway.state, look), "", gateway.why)]
    for backend in backends:
        said = _said(backend)
        name = _shortened(clean(backend.name), width)
        lines.append(_progress(name, state_text(backend.state, look), duration(backend.since_s), said))
    return lines


def _said(backend: BackendStatus) -> str | None:
    """Why it failed, or does so for now; else how far it is."""
    troubled = backend.state == State.STARTING and backend.why
    return backend.why if troubled or outcome(backend) is Outcome.FAILED else backend.progress or backend.why


def _shortened(name: str, width: int) -> str:
    return name.ljust(width) if len(name) <= width else f"{name[: width - 1]}…"


def _progress(name: str, state: Text, seconds: str, said: str | None) -> Text:
    state.pad_right(max(0, _STATE_WIDTH - state.cell_len))
    line = Text(f"{name}  ", no_wrap=True, overflow="ellipsis").append_text(state)
    line.append(f"  {seconds:>6}  ").append(clean(said or ""), style="dim")
    line.rstrip()
    return line


def change_line(backend: BackendStatus) -> Text:
    """One step of a backend's way, where nothing can be redrawn."""
    said = backend.why or (backend.progress if backend.state == State.STARTING else None)
    tail = f": {clean(said)}" if said else ""
    return Text(f"{clean(backend.name)}  {clean(str(backend.state))}{tail}")


def stopping(*, now: bool) -> str:
    """What is shown while backends are being stopped."""
    return "stopping" if now else "draining requests in flight (--now skips this)"


def interrupted_lines(status: Status, names: Collection[str], look: Look) -> list[Text]:
    """Where each awaited backend was when the waiting ended early; failures with what shows them."""
    lines = progress_lines(status, [], look)
    for backend in status.supervised:
        if backend.name in names:
            lines += progress_lines(status, [backend.name], look)[1:]
            if outcome(backend) is Outcome.FAILED:
                lines += explanation(backend, look)
    return lines


def summary(wait: Wait, seconds: float, look: Look) -> list[RenderableType]:
    """What came of it after ``seconds`` of waiting, and what to do next."""
    status = wait.last
    lines: list[RenderableType] = [*_results(wait, seconds, look)]
    if gateway_outcome(status) is Outcome.FAILED:
        lines += hanging(f"gateway failed: {status.gateway.why or 'see its log'}", look.width, indent="", style="red")
        return [*lines, Text(), *_next(["aigw logs gateway", "aigw logs daemon"], look)]
    serving = [b for b in status.backends if b.state in SERVING]
    if serving:
        lines += [Text(), *_invitation(status, serving, look)]
    if status.profile_edited:
        lines += [Text(), *hanging(edited_sentence(status), look.width, indent="", style="yellow")]
    return [*lines, Text(), *_next(_commands(wait, serving), look)]


def _commands(wait: Wait, serving: list[BackendStatus]) -> list[str]:
    if wait.failed:
        return _after_failure(wait.failed)
    return ["aigw status", "aigw up"] if wait.ended else _after_success(serving)


def _results(wait: Wait, seconds: float, look: Look) -> list[Text]:
    lines: list[Text] = []
    ended, failed = wait.ended, {backend.name for backend in wait.failed}
    for backend in wait.last.supervised:
        if backend.name not in wait.names:
            continue
        reached = outcome(backend)
        state = state_text(backend.state, look)
        if reached is Outcome.UNREACHABLE and backend.name not in failed:
            state.stylize("yellow")
        line = Text(f"{clean(backend.name)}  ").append_text(state)
        if backend.state in SERVING:
            line.append(f"  {_taken(backend, seconds)}", style="dim")
        lines.append(line)
        if backend.name in ended:
            continue
        if backend.parted:
            lines += hanging(f"{backend.why or 'stopped'}; a request starts it", look.width, indent="  ", style="dim")
        elif reached in {Outcome.FAILED, Outcome.UNREACHABLE} or backend.state == State.DEGRADED:
            lines += explanation(backend, look)
    for name, why in ended.items():
        lines += hanging(f"{name}: {why}", look.width, indent="", further="  ", style="yellow")
    return lines


def _taken(backend: BackendStatus, seconds: float) -> str:
    if backend.since_s > seconds:
        return f"since {duration(backend.since_s)}"
    return f"after {duration(seconds - backend.since_s)}"


def _invitation(status: Status, serving: list[BackendStatus], look: Look) -> list[RenderableType]:
    url = api_url(status)
    models = sorted({model for backend in serving for model in backend.models})
    lines: list[RenderableType] = [*labelled("Gateway", [Text(clean(url), style="bold")], look)]
    lines += _listed("Models", models, url, look)
    lines += _listed("Routes", status.routes, url, look)
    if status.cache is not None and status.cache.mode != "off":
        lines += _labelled_sentence("Cache", cache_sentence(status.cache), look)
    examples = [backend.example for backend in serving if backend.example is not None]
    if not examples:
        return lines
    return [*lines, Text(), *curl_lines(url, min(examples, key=_usefulness))]


def _usefulness(example: Example) -> tuple[int, str]:
    known = list(_BODIES)
    return known.index(example.endpoint) if example.endpoint in known else len(known), example.model


def _listed(label: str, names: list[str], url: str, look: Look) -> list[Text]:
    shown = [clean(name) for name in names[:_MODELS_SHOWN]]
    more = [f"and {len(names) - _MODELS_SHOWN} more: {clean(url)}/models"] if len(names) > _MODELS_SHOWN else []
    lines = packed([*shown, *more], look.width - LABEL, indent="", separator=", ", style="")
    return [
        Text((label if number == 0 else "").ljust(LABEL), style="dim").append(line.plain, style="not dim")
        for number, line in enumerate(lines)
    ]


def _labelled_sentence(label: str, sentence: str, look: Look) -> list[Text]:
    lines = hanging(sentence, look.width - LABEL, indent="")
    return [
        Text((label if number == 0 else "").ljust(LABEL), style="dim").append(line.plain, style="not dim")
        for number, line in enumerate(lines)
    ]


def api_url(status: Status) -> str:
    """What a client takes as its base URL."""
    base = (status.gateway.url or "").rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def curl_lines(url: str, example: Example) -> list[str]:
    """A request to paste into a shell; bare strings, so that no line break gets into them."""
    body = json.dumps({"model": example.model, **_BODIES.get(example.endpoint, {})})
    return [
        f"curl {shlex.quote(f'{clean(url)}/{clean(example.endpoint)}')} \\",
        "  -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(body)}",
    ]


def _after_success(serving: list[BackendStatus]) -> list[str]:
    log = [f"aigw logs {clean(backend.name)} -f" for backend in serving if backend.managed][:1]
    return ["aigw status", *log, "aigw tail", "aigw down"]


def _after_failure(failed: list[BackendStatus]) -> list[str]:
    """A URL that somebody else runs has no log here, and nothing to restart."""
    first = next((backend for backend in failed if backend.managed), failed[0])
    name = clean(first.name)
    if not first.managed:
        return [f"aigw why {name}", "aigw status"]
    return [f"aigw why {name}", f"aigw logs {name}", f"aigw restart {name}", "aigw status"]


def _next(commands: list[str], look: Look) -> list[Text]:
    first, *rest = packed(commands, look.width - LABEL, indent="", separator="   ", style="")
    head = Text("Next".ljust(LABEL), style="dim").append(first.plain, style="not dim")
    return [head, *(Text(" " * LABEL).append_text(line) for line in rest)]
