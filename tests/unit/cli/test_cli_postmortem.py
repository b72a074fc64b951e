"""`aigw logs` and `aigw events` without a daemon: what it left can be read."""

import json

import pytest

from aigw_daemon.control import wire
from aigw_daemon.control.client import ControlError, DaemonSuspended, DaemonUnreachable
from aigw_daemon.home import Home
from tests.unit.cli.conftest import Aigw

NOTE = "aigwd is not running: this is what was written before it ended\n"


@pytest.fixture
def left(home: Home) -> None:
    """A home whose daemon is gone."""
    home.prepare()
    (home.logs / "coder.log").write_text("one\ntwo\u2028still two\nthree\x1b[2J\n")
    (home.logs / "aigwd.log").write_text("the daemon's\n")
    events = [
        {"at": 0, "backend": "coder", "event": "ready"},
        {"at": 1, "backend": "ollama", "event": "crash", "text": "killed by SIGKILL"},
    ]
    home.events_file.write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.mark.usefixtures("left")
def test_a_log_is_read_from_its_file(aigw: Aigw) -> None:
    ran = aigw("logs", "coder", "-n", "2")
    assert (ran.code, ran.err) == (0, NOTE)
    assert ran.out == "two\\u2028still two\nthree\\x1b[2J\n"
    assert json.loads(aigw("logs", "coder", "-n", "1", "--json").out) == {"line": "three\x1b[2J"}


@pytest.mark.usefixtures("left")
def test_events_are_read_from_their_file(aigw: Aigw) -> None:
    ran = aigw("events")
    assert (ran.code, ran.err) == (0, NOTE)
    assert [line.split()[2:4] for line in ran.out.splitlines()] == [["coder", "ready"], ["ollama", "crash"]]
    assert "killed by SIGKILL" in aigw("events", "ollama").out
    assert aigw("events", "ollama", "-n", "0").out == ""


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["logs", "nope"], "there is no log of 'nope'\n  choose from: coder, daemon\n"),
        (["logs", "../coder"], "there is no log of '../coder'\n  choose from: coder, daemon\n"),
        (["events", "nope"], "there are no events of 'nope'\n  choose from: coder, ollama\n"),
    ],
)
def test_a_name_that_left_nothing_is_told_with_those_that_did(aigw: Aigw, command: list[str], said: str) -> None:
    ran = aigw(*command)
    assert (ran.code, ran.out, ran.err) == (4, "", f"aigw: {said}")


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize("command", [["logs", "coder", "-f"], ["events", "-f"]])
def test_following_ends_with_the_daemon_that_is_not_there(aigw: Aigw, command: list[str]) -> None:
    ran = aigw(*command)
    assert ran.code == 3
    assert ran.out
    assert ran.err == f"{NOTE}aigw: aigwd is not running\n  'aigw up' starts it\n"


@pytest.mark.parametrize("command", [["logs", "coder"], ["events"]])
def test_a_home_without_a_past_has_nothing_to_read(aigw: Aigw, command: list[str]) -> None:
    assert aigw(*command).code == 3


@pytest.mark.usefixtures("left")
@pytest.mark.parametrize("reason", [DaemonSuspended(7), DaemonUnreachable(7, "/run/control.sock")])
@pytest.mark.parametrize("command", [["logs", "coder"], ["events"]])
def test_a_daemon_that_does_not_answer_is_not_called_gone(
    aigw: Aigw, monkeypatch: pytest.MonkeyPatch, command: list[str], reason: ControlError
) -> None:
    def unanswered(*_: object, **__: object) -> None:
        raise reason

    monkeypatch.setattr(wire, "lines", unanswered)
    ran = aigw(*command)
    assert (ran.code, ran.err) == (0, f"{reason}; from its files:\n")
    assert "coder" in ran.out or "three" in ran.out
