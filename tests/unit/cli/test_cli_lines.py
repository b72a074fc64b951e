r"""Lines end at ``\n`` alone: names, logs and errors with what Unicode calls line ends, on every screen."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from aigw_daemon.control.cache_schema import CacheAnswer
from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import (
    BackendStatus,
    CandidateInfo,
    HealthReport,
    Problem,
    PullEvent,
    RouteAnswer,
    Status,
    Why,
)
from aigw_daemon.home import Home
from tests.support.fake_daemon import FakeDaemon
from tests.support.statuses import DAEMON, GATEWAY, starter
from tests.unit.cli.conftest import Aigw

ENDS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""All that `str.splitlines` splits at beside ``\\n`` and ``\\r``."""
NASTY = "a" + "b".join(ENDS) + "c"
SHOWN = r"a\u2028b\u2029b\x85b\x0bb\x0cb\x1cb\x1db\x1ec"

BACKEND = BackendStatus(
    name="coder",
    engine="vllm",
    state="ready",
    models=[NASTY],
    why=NASTY,
    progress=NASTY,
    log_tail=[NASTY],
    warnings=[NASTY],
)
STATUS = Status(profile=NASTY, daemon=DAEMON, gateway=GATEWAY, backends=[BACKEND])
GOING = replace(STATUS, backends=[replace(BACKEND, state="stopping")])
RECORD = {"event": "finished", "id": "r", "status": 503, "model": NASTY, "backend": NASTY, "error": NASTY, "at": 1.0}
EVENT = {"at": 1.0, "backend": NASTY, "event": "crash", "text": NASTY}
PROBLEM = Problem(code="port_taken", message=NASTY, hint=NASTY, details=[NASTY])
ANSWER = CacheAnswer(
    key=NASTY, model=NASTY, backend=NASTY, upstream_model=NASTY, endpoint=NASTY, at=1.0, age_s=1.0, ttl_left_s=1.0,
    duration_s=1.0, stream=False, bytes=1, finish_reason=NASTY, text=NASTY,
)  # fmt: skip
ROUTE = RouteAnswer(model=NASTY, matched="listed", candidates=[
    CandidateInfo(backend=NASTY, model=NASTY, kept=True, reason=NASTY)
], warnings=[NASTY])  # fmt: skip
DONE = PullEvent(phase="done", model=NASTY, path=NASTY, message=NASTY)


def raw(value: Any) -> str:
    """As the daemon writes it: JSON leaves these characters as they are."""
    return json.dumps(plain(value), ensure_ascii=False)


SCREENS: dict[str, tuple[str, list[Any]]] = {
    "status": ("GET /v1/status", [STATUS]),
    "status --watch": ("GET /v1/watch", [STATUS, STATUS]),
    "health": ("GET /v1/health", [HealthReport(status="degraded", profile=NASTY, reasons=[NASTY])]),
    "why coder": ("GET /v1/why/coder", [Why(name=NASTY, state="failed", well=False, sentence=NASTY, lines=[NASTY])]),
    "events": ("GET /v1/events", [EVENT, EVENT]),
    "tail": ("GET /v1/tail", [RECORD, RECORD]),
    "test-routing m": ("POST /v1/route", [ROUTE]),
    "cache show 9f": ("GET /v1/cache/answers/9f", [ANSWER]),
    "pull m": ("POST /v1/pull", [PullEvent(phase="downloading", model=NASTY, total_bytes=9), DONE]),
    "profile list": ("GET /v1/profiles", [[{"name": NASTY, "path": NASTY, "description": NASTY}]]),
    "down": ("POST /v1/down", [STATUS, GOING]),
    "stop": ("POST /v1/backends/stop", [starter("stopped", why=NASTY)]),
}


@pytest.mark.parametrize("command", SCREENS)
def test_every_screen_shows_them_and_splits_nothing(aigw: Aigw, daemon: FakeDaemon, command: str) -> None:
    request, answers = SCREENS[command]
    daemon.answers("GET /v1/status", raw(STATUS))
    daemon.streams(request, [raw(answer) for answer in answers])
    plain, as_json = aigw(*command.split()), aigw(*command.split(), "--json")
    assert SHOWN in plain.out + plain.err
    assert not set(ENDS) & set(plain.out + plain.err)
    documents = as_json.out.splitlines() if len(answers) > 1 else [as_json.out]
    assert len([json.loads(document) for document in documents]) >= len(answers)
    assert "Traceback" not in plain.err + as_json.err


def test_the_way_to_ready_is_followed_through_them(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("POST /v1/up", raw(STATUS))
    daemon.streams("GET /v1/watch", [raw(STATUS)])
    ran = aigw("up")
    assert ran.code == 0
    assert f"Models   {SHOWN}\n" in ran.out


def test_errors_show_them(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.refuses("POST /v1/up", PROBLEM)
    assert aigw("up").err == f"aigw: {SHOWN}\n  {SHOWN}\n"


def test_a_logs_lines_are_its_own_and_a_progress_bar_shows_its_last_state(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/logs/coder", [NASTY, "10%\r50%\r100%\r", ""])
    assert aigw("logs", "coder").out == f"{SHOWN}\n100%\n\n"
    lines = [json.loads(line)["line"] for line in aigw("logs", "coder", "--json").out.splitlines()]
    assert lines == [NASTY, "10%\r50%\r100%\r", ""]


def test_the_daemons_own_log_is_read_alike(aigw: Aigw, home: Home) -> None:
    home.prepare()
    home.daemon_log.write_bytes(f"one\n{NASTY}\n10%\r90%\n".encode())
    assert aigw("logs", "daemon", "-n", "2").out == f"{SHOWN}\n90%\n"


def test_a_profiles_file_is_shown_line_by_line(aigw: Aigw, home: Home) -> None:
    home.prepare()
    (home.profiles / "mine.yaml").write_bytes(f"# {NASTY}\r\nversion: 1\n".encode())
    assert aigw("profile", "show", "mine").out.split("\n")[1:] == [f"# {SHOWN}", "version: 1", ""]
    assert aigw("profile", "validate", "mine").code == 5
