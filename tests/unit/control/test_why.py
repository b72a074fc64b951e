"""`aigw why`: every class of failure, read off the engines' own output where they have one, down to the next step."""

from dataclasses import replace
from typing import Any

import pytest

from aigw_daemon.control.schema import Why
from aigw_daemon.control.why import NEXT, duration, explain
from aigw_daemon.link.messages import ModelView
from aigw_daemon.supervisor.backend import BackendReport, Past
from aigw_daemon.supervisor.engines.base import Engine
from aigw_daemon.supervisor.engines.llamacpp import LlamacppEngine
from aigw_daemon.supervisor.engines.vllm import VllmEngine
from aigw_daemon.supervisor.failures import Failure, FailureKind, classify
from aigw_daemon.words import EngineKind, State

NOW = 1_000_000.0
READY = BackendReport(
    name="coder",
    engine=EngineKind.LLAMACPP,
    state=State.READY,
    since=NOW - 600,
    since_s=600.0,
    wanted=True,
    attached=False,
    uptime_s=600.0,
)
LISTED = tuple(ModelView(id=name, created=0, listed=False, listed_at=NOW - 600) for name in ("x", "y"))

LLAMACPP, VLLM = LlamacppEngine(), VllmEngine()

CAPTURED = [
    (
        LLAMACPP,
        FailureKind.MODEL_UNREADABLE,
        "0.00.006.574 E cmn  common_init_: failed to load model 'bad.gguf'",
        "0.00.006.576 E srv    load_model: failed to load model, 'bad.gguf'",
        "0.00.007.115 E srv  llama_server: exiting due to model loading error",
    ),
    (LLAMACPP, FailureKind.BAD_FLAG, "error: invalid argument: --nope"),
    (
        LLAMACPP,
        FailureKind.PORT_TAKEN,
        "0.00.005.491 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8087",
        "0.00.005.645 E srv  llama_server: exiting due to HTTP server error",
    ),
    (
        VLLM,
        FailureKind.BAD_FLAG,
        "                     [model_tag]",
        "api_server.py: error: unrecognized arguments: --nope",
    ),
    (VLLM, FailureKind.PORT_TAKEN, "    sock.bind(addr)", "OSError: [Errno 98] Address already in use"),
    (
        VLLM,
        FailureKind.MISSING_MODEL,
        "    raise HFValidationError(",
        (
            "huggingface_hub.errors.HFValidationError: Repo id must use alphanumeric chars, '-', '_' or '.'. The name "
            "cannot start or end with '-' or '.' and the maximum length is 96: './no-such-model'."
        ),
    ),
]
"""The last lines of real engines that failed, as they were captured."""


def failed(failure: Failure, state: State = State.FAILED) -> BackendReport:
    return replace(
        READY, state=state, uptime_s=None, failure=failure.kind, why=failure.sentence, log_tail=failure.lines
    )


def told(report: BackendReport, in_flight: int = 0, *, held: bool = False) -> Why:
    return explain(report, in_flight, held=held, now=NOW)


@pytest.mark.parametrize(("engine", "kind", "lines"), [(engine, kind, lines) for engine, kind, *lines in CAPTURED])
def test_class_is_read_off_the_engines_own_output(engine: Engine, kind: FailureKind, lines: list[str]) -> None:
    failure = classify(engine.signs, lines, "exited with code 1")
    why = told(failed(failure))
    assert (why.failure, why.well) == (kind, False)
    assert why.sentence == f"has failed: {failure.sentence}"
    assert set(why.lines) & set(lines)
    assert why.next == NEXT[kind].format(name="coder")


def test_every_class_has_a_next_step() -> None:
    assert set(NEXT) == set(FailureKind)
    assert all(step.format(name="coder") for step in NEXT.values())


def test_all_of_it_for_a_bad_flag() -> None:
    failure = classify(LLAMACPP.signs, ["error: invalid argument: --nope"], "exited with code 1")
    assert told(failed(failure)) == Why(
        name="coder",
        state=State.FAILED,
        well=False,
        sentence=(
            "has failed: llama-server doesn't take its arguments (invalid argument: --nope): change args in the profile"
        ),
        failure="bad_flag",
        lines=["error: invalid argument: --nope"],
        next="change the profile, then 'aigw up'",
    )


def test_backend_that_waits_for_its_next_try_says_what_it_waits_after() -> None:
    failure = Failure(FailureKind.HUNG, "hung: 2 requests in flight and no progress for 60 s; trying again in 0.5 s")
    why = told(failed(failure, State.BACKOFF))
    assert why.sentence == ("is in backoff: hung: 2 requests in flight and no progress for 60 s; trying again in 0.5 s")
    assert why.next == "aigw replaces it; if its requests are merely slow, raise hang_timeout in the profile"


@pytest.mark.parametrize(
    ("changes", "sentence", "next_step"),
    [
        ({}, "has been ready for 10 min, and was never restarted", None),
        ({"restarts": 2}, "has been ready for 10 min, and was restarted 2 times", None),
        ({"attached": True}, "has been ready for 10 min, and aigw does not run it", None),
        (
            {"state": State.STARTING, "since_s": 5.0, "progress": "loading weights"},
            "has been starting for 5 s: loading weights",
            "'aigw logs coder -f' follows the start",
        ),
        (
            {"state": State.DRAINING, "since_s": 3.0},
            "has been draining for 3 s: 1 request may finish before it stops",
            "'aigw stop coder --now' skips the wait",
        ),
        (
            {"state": State.STOPPED},
            "has been stopped for 10 min: no pending requests",
            "'aigw start coder' starts it, and so does a request for its model",
        ),
        (
            {"state": State.STOPPED, "why": "stopped after 30 min without a request; a request starts it"},
            "has been stopped for 10 min, after 30 min without a request; a request starts it",
            "'aigw start coder' starts it, and so does a request for its model",
        ),
        (
            {"state": State.DEGRADED, "why": "/health answers 500 (1 failed liveness probes)"},
            "has been degraded for 10 min: /health answers 500 (1 failed liveness probes)",
            "aigw replaces it if that lasts; 'aigw logs coder' has more",
        ),
        (
            {"state": State.UNREACHABLE, "attached": True, "why": "it refuses connections"},
            "has been unreachable for 10 min: it refuses connections",
            "check that server; aigw only probes it",
        ),
        (
            {"state": State.UNREACHABLE, "attached": True, "why": "it refuses connections", "models": LISTED},
            "has been unreachable for 10 min: it refuses connections; it listed 2 models 10 min ago",
            "check that server; aigw only probes it",
        ),
    ],
)
def test_state_without_a_failure_is_told_with_what_to_do(
    changes: dict[str, Any], sentence: str, next_step: str | None
) -> None:
    why = told(replace(READY, **changes), in_flight=1)
    assert (why.sentence, why.next) == (sentence, next_step)
    assert why.failure is None


def test_backend_that_the_operator_has_stopped_starts_by_the_operator_only() -> None:
    why = told(replace(READY, state=State.STOPPED), held=True)
    assert (why.sentence, why.next) == ("has been stopped for 10 min, by the operator", "'aigw start coder' starts it")


def test_ready_again_tells_what_it_was_the_last_time() -> None:
    past = Past(Failure(FailureKind.OOM_KILLED, "the kernel killed it", ("last words",)), NOW - 7500)
    why = told(replace(READY, restarts=1, past=past))
    assert why == Why(
        name="coder",
        state=State.READY,
        well=True,
        sentence="has been ready for 10 min, and was restarted once, the last time 2 h 5 min ago: the kernel killed it",
        failure="oom_killed",
        lines=["last words"],
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (86400, "1 day"), (200_000, "2 days")],
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
