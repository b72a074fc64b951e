"""`aigw why`, by its whole output."""

import json

from aigw_daemon.control.codec import plain
from aigw_daemon.control.schema import Problem, Why
from tests.support.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Aigw

FAILED = Why(
    name="coder",
    state="failed",
    well=False,
    sentence="has failed: port 8001 is taken by nginx (PID 12, user www)",
    failure="port_taken",
    lines=["bind:\x1b[31m address in use"],
    next="free the port, then 'aigw start coder'",
)


def test_sentence_lines_and_next_step_are_told(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/why/coder", FAILED)
    ran = aigw("why", "coder")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "coder has failed: port 8001 is taken by nginx (PID 12, user www)\n"
        "  | bind: address in use\n"
        "  free the port, then 'aigw start coder'\n"
    )


def test_one_line_when_all_is_well(aigw: Aigw, daemon: FakeDaemon) -> None:
    well = Why(name="coder", state="ready", well=True, sentence="has been ready for 2 h, and was never restarted")
    daemon.answers("GET /v1/why/coder", well)
    assert aigw("why", "coder").out == "coder has been ready for 2 h, and was never restarted\n"


def test_json_is_the_answer(aigw: Aigw, daemon: FakeDaemon) -> None:
    daemon.answers("GET /v1/why/coder", FAILED)
    assert json.loads(aigw("why", "coder", "--json").out) == plain(FAILED)


def test_unknown_backend_is_exit_code_4(aigw: Aigw, daemon: FakeDaemon) -> None:
    problem = Problem(code="unknown_backend", message="there is no backend 'lama'", hint="choose from: coder")
    daemon.refuses("GET /v1/why/lama", problem, 404)
    ran = aigw("why", "lama")
    assert (ran.code, ran.err) == (4, "aigw: there is no backend 'lama'\n  choose from: coder\n")
