"""`aigw events`, by its whole output."""

import json

import pytest

from aigw_cli.render.events import event_lines
from aigw_cli.render.look import Look
from tests.support.fake_daemon import Asked, FakeDaemon
from tests.unit.cli.conftest import Aigw

READY = {"at": 1_000_000_000.0, "backend": "coder", "event": "ready", "text": None}
HUNG = {"at": 1_000_000_060.0, "backend": "coder", "event": "hung", "text": "hung: 2 requests\x1b[2J in flight"}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def test_events_are_lines_with_their_sentences(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/events", [READY, HUNG])
    ran = aigw("events", "coder", "-n", "7")
    assert (ran.code, ran.err) == (0, "")
    first, second = ran.out.splitlines()
    assert first.endswith("  coder             ready")
    assert second.endswith("  coder             hung          hung: 2 requests\\x1b[2J in flight")
    assert daemon.asked == [Asked("GET", "/v1/events", {"lines": "7", "follow": "false", "backend": "coder"})]


def test_on_a_screen_the_sentence_stands_below() -> None:
    lines = [line.plain for line in event_lines(HUNG, Look(width=60, plain=False))]
    assert lines[0].endswith("coder             hung")
    assert lines[1] == "    hung: 2 requests\\x1b[2J in flight"


def test_json_is_one_event_per_line(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/events", [READY, HUNG])
    assert [json.loads(line) for line in aigw("events", "--json").out.splitlines()] == [READY, HUNG]
    assert daemon.asked == [Asked("GET", "/v1/events", {"lines": "50", "follow": "false"})]


def test_following_ends_with_the_daemon(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.streams("GET /v1/events", [READY])
    ran = aigw("events", "-f")
    assert ran.code == 1
    assert "the connection to aigwd was lost" in ran.err
