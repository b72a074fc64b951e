"""Every screen on terminals of 40, 80 and 160 columns: nothing is cut, and nothing that matters is missing."""

import io
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console, RenderableType

from aigw_cli.failure import CommandError
from aigw_cli.render.cache import answer_lines, stats_lines
from aigw_cli.render.events import event_lines
from aigw_cli.render.failure import failure_lines
from aigw_cli.render.health import health_lines
from aigw_cli.render.look import Look
from aigw_cli.render.names import name_lines
from aigw_cli.render.profiles import profile_lines
from aigw_cli.render.routing import routing_lines
from aigw_cli.render.status import status_lines
from aigw_cli.render.tail import heading, record_lines
from aigw_cli.render.up import summary
from aigw_cli.render.why import why_lines
from aigw_cli.settle import Wait
from aigw_daemon.control.cache_schema import (
    CacheAnswer,
    CacheCounters,
    CacheMemory,
    CacheModel,
    CacheRedis,
    CacheStatistics,
)
from aigw_daemon.control.schema import (
    CandidateInfo,
    HealthReport,
    HopLimits,
    NameInfo,
    ProfileInfo,
    RouteAnswer,
    Why,
)
from tests.support.statuses import starter, workstation

Screen = Callable[[Look], Sequence[RenderableType]]
MODEL = "Qwen/Qwen2.5-Coder-32B-Instruct-AWQ"
REASON = "stopped: a request starts it, and waits up to ten minutes for its answer"
COUNTS = CacheCounters(hits=70, misses=25, coalesced=5, stored=24, stored_bytes=48000, saved_tokens=15000)
STATS = CacheStatistics(
    mode="on",
    ttl_s=3600,
    since=0.0,
    total=COUNTS,
    models=(CacheModel(model=MODEL, hits=70, misses=25, coalesced=5, saved_seconds=192.0, hit_rate=0.75),),
    memory=CacheMemory(entries=24, bytes=73000, limit_bytes=67108864),
    redis=CacheRedis(where="/run/user/1000/aigw-1a2b3c4d5e/redis.sock", managed=True, connected=True, entries=1204),
)
ANSWER = CacheAnswer(
    key="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    model=MODEL,
    backend="coder",
    upstream_model=MODEL,
    endpoint="chat/completions",
    at=0.0,
    age_s=720,
    ttl_left_s=2880,
    duration_s=3.2,
    stream=True,
    bytes=1200,
    prompt_tokens=12,
    completion_tokens=240,
    finish_reason="stop",
    text="Paris.",
)
RECORD = {
    "at": 0,
    "status": 503,
    "model": MODEL,
    "backend": "a-backend-with-a-name",
    "ttft_ms": 42.0,
    "duration_ms": 1800.0,
    "prompt_tokens": 12,
    "completion_tokens": 210,
    "attempts": 2,
    "error": f"service_unavailable: no backend can serve {MODEL} now",
}
CANDIDATES = [
    CandidateInfo(backend="coder", model=MODEL, kept=True, cold=True, reason=REASON, limits=HopLimits(last_start_s=72)),
    CandidateInfo(backend="ollama", model="llama3.1:latest", kept=False, reason="does not serve it"),
]
SCREENS: dict[str, tuple[Screen, list[str]]] = {
    "status": (
        lambda look: status_lines(workstation(), look, "0.1.0"),
        ["PID 4712", "version 0.1.0", "up 1d02h", "● ready", "◐ starting", "✗ failed", "812MiB", "vllm"],
    ),
    "events": (
        lambda look: event_lines({"at": 0, "backend": "a-backend-with-a-long-name", "event": "start failed"}, look),
        ["1970-01-01", ":00:00", "a-backend-with-a-long-name", "start failed"],
    ),
    "events, a short name": (
        lambda look: event_lines({"at": 0, "backend": "coder", "event": "hung", "text": "no progress"}, look),
        ["1970-01-01", ":00:00", "coder", "hung", "no progress"],
    ),
    "test-routing": (
        lambda look: routing_lines(
            RouteAnswer(model=MODEL, matched="route", candidates=CANDIDATES), look, explain=True
        ),
        [MODEL, REASON, "does not serve it", "coder", "ollama", "last start took 1m12s"],
    ),
    "status --models": (
        lambda look: name_lines(
            [NameInfo(name=MODEL, kind="alias", backends=["coder"], state="ready", alias_of=MODEL)], look
        ),
        [MODEL, f"alias of {MODEL}", "● ready", "coder"],
    ),
    "health": (
        lambda look: health_lines(
            HealthReport(
                status="degraded",
                reasons=["coder has failed: out of GPU memory"],
                providers={"a-backend-with-a-long-name": {"engine": "llamacpp", "state": "failed", "models": [1, 2]}},
            ),
            look,
        ),
        ["degraded", "out of GPU memory", "a-backend-with-a-long-name", "✗ failed", "llamacpp", "2"],
    ),
    "profile list": (
        lambda look: profile_lines(
            [ProfileInfo(name="starter", path="/home/me/.config/aigw/profiles/starter.yaml", active=True)], look
        ),
        ["starter", "active", "ok", "/home/me/.config/aigw/profiles/starter.yaml"],
    ),
    "cache stats": (
        lambda look: stats_lines(STATS, look, 7530.0),
        [MODEL, "75%", "3m12s", "redis.sock", "1204 answers", "15000 tokens"],
    ),
    "cache show": (
        lambda look: answer_lines(ANSWER, look),
        [ANSWER.key, f"coder/{MODEL}", "48m00s left", "240 completion tokens", "took 3.2s"],
    ),
    "tail": (
        lambda look: [heading(look), *record_lines(RECORD, look)],
        ["503", MODEL, "a-backend-with-a-name (2)", "1.8s", "12+210", "no backend can serve"],
    ),
    "why": (
        lambda look: why_lines(
            Why(name="coder", state="failed", well=False, sentence="has failed", lines=[f"error: {REASON}"], next="do"),
            look,
        ),
        ["coder has failed", REASON, "do"],
    ),
    "failure": (
        lambda look: failure_lines(CommandError("it failed: " + REASON, hint="aigw up", details=("a detail",)), look),
        [REASON, "a detail", "aigw up"],
    ),
    "up": (
        lambda look: summary(Wait(["llamacpp"], starter("ready")), 2.0, look),
        ["llamacpp", "● ready", "http://127.0.0.1:4000/v1", "smollm2-135m", "aigw down"],
    ),
}


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("name", SCREENS)
def test_every_screen_shows_everything_at_every_width(name: str, width: int) -> None:
    screen, words = SCREENS[name]
    drawn = _drawn(screen(Look(width=width, plain=False)), width)
    assert max(map(len, drawn)) <= width
    # A log line may be cut at the edge, 'aigw why' has it whole; what `tail` cuts is below its line, in full.
    shown = [line for line in drawn if not line.startswith("  | ") and name != "tail"]
    assert [line for line in shown if "…" in line] == []
    squeezed = "".join("".join(drawn).replace("| ", "").split())
    assert [word for word in words if "".join(word.split()) not in squeezed] == []


def _drawn(lines: Sequence[RenderableType], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)
    for line in lines:
        if isinstance(line, str):
            continue  # a command to paste, which the terminal itself wraps
        console.print(line, no_wrap=getattr(line, "no_wrap", None), overflow=getattr(line, "overflow", None))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()
