"""The pure decisions: delays, crash loops, liveness, classes of failure."""

from collections.abc import Sequence

import pytest

from aigw_daemon.supervisor.backoff import History, Limits, delay, steady_after, with_jitter
from aigw_daemon.supervisor.engines.llamacpp import LlamacppEngine
from aigw_daemon.supervisor.failures import Exit, Failure, FailureKind, classify
from aigw_daemon.supervisor.lifecycle import Event
from aigw_daemon.supervisor.liveness import Liveness
from aigw_daemon.supervisor.verdict import Ended, judge

EXITED = Failure(FailureKind.EXITED, "the engine exited with code 1")
LIMITS = Limits()


def test_delay_doubles_from_half_a_second_to_thirty() -> None:
    assert [delay(failures) for failures in (0, 1, 2, 3, 6, 7, 8, 5000)] == [0, 0.5, 1, 2, 16, 30, 30, 30]


def test_jitter_spreads_a_delay_by_a_fifth() -> None:
    assert [with_jitter(10, random) for random in (0, 0.5, 1)] == [8, 10, 12]


def test_being_ready_for_ten_times_the_delay_forgets_failures() -> None:
    assert [steady_after(failures) for failures in (1, 3, 4, 9)] == [30, 30, 40, 300]
    history = History(failures=4)
    assert history.after_failure(0, 39, LIMITS).failures == 5
    assert history.after_failure(0, 40, LIMITS).failures == 1


def test_five_exits_in_sixty_seconds_are_a_crash_loop() -> None:
    history = History()
    for now in (0, 14, 28, 42):
        history = history.after_failure(now, 10, LIMITS)
        assert history.crash_loop(LIMITS) is None
    assert history.after_failure(60, 10, LIMITS).crash_loop(LIMITS) is None
    assert history.after_failure(59, 10, LIMITS).crash_loop(LIMITS) == "5 unexpected exits in 60 s"


def test_three_failed_starts_in_a_row_are_a_crash_loop_and_being_ready_breaks_the_row() -> None:
    twice = History().after_failure(0, None, LIMITS).after_failure(100, None, LIMITS)
    assert twice.crash_loop(LIMITS) is None
    assert twice.after_failure(200, None, LIMITS).crash_loop(LIMITS) == "3 failed starts in a row"
    assert twice.after_failure(200, 5, LIMITS).after_failure(300, None, LIMITS).crash_loop(LIMITS) is None


def test_transient_failure_is_tried_again_later_and_says_when() -> None:
    verdict = judge(Ended(EXITED, wanted=True, again=False, ready_for=None), History(), LIMITS, 0, 0.5)
    assert verdict.event is Event.RETRY_LATER
    assert verdict.why == "the engine exited with code 1; trying again in 0.5 s (try 2 of 3)"
    assert verdict.delay == 0.5


def test_permanent_failure_is_given_up_at_once_and_says_no_time() -> None:
    failure = Failure(FailureKind.BAD_FLAG, "bad flag")
    verdict = judge(Ended(failure, wanted=True, again=False, ready_for=None), History(failures=3), LIMITS, 0, 0.5)
    assert (verdict.event, verdict.why, verdict.history) == (Event.GIVE_UP, "bad flag", History())


def test_crash_loop_is_given_up_and_tried_again_after_five_minutes() -> None:
    history = History(failures=2, failed_starts=2)
    verdict = judge(Ended(EXITED, wanted=True, again=False, ready_for=None), history, LIMITS, 0, 0.5)
    assert (verdict.event, verdict.delay) == (Event.GIVE_UP, 300)
    assert verdict.failure is not None
    assert verdict.failure.kind is FailureKind.CRASH_LOOP
    assert (verdict.why or "").endswith("exited with code 1; tried again every 300 s")


@pytest.mark.parametrize(
    ("wanted", "again", "event"), [(False, False, Event.GONE), (True, True, Event.AGAIN), (False, True, Event.GONE)]
)
def test_failure_of_what_was_asked_to_end_counts_for_nothing(wanted: bool, again: bool, event: Event) -> None:
    verdict = judge(Ended(EXITED, wanted=wanted, again=again, ready_for=1), History(), LIMITS, 0, 0.5)
    assert (verdict.event, verdict.failure, verdict.history) == (event, None, History())


def test_three_silent_failures_lose_an_engine() -> None:
    row = Liveness(heard=7)
    assert [row.take("no", 7) for _ in range(3)] == [Event.FAILING, Event.FAILING, Event.LOST]


def test_an_answer_begins_the_row_anew() -> None:
    row = Liveness(heard=7)
    events = [row.take(why, 7) for why in ("no", "no", None, "no", "no", "no")]
    assert events[2:] == [Event.READY, Event.FAILING, Event.FAILING, Event.LOST]


def test_engine_that_sends_is_not_lost_however_often_it_fails_to_answer() -> None:
    row = Liveness(heard=0)
    assert {row.take("no", heard) for heard in range(1, 9)} == {Event.FAILING}
    assert [row.take("no", 8) for _ in range(3)][-1] is Event.LOST


CAPTURED = [
    (
        [
            "0.00.009.426 E gguf_init_from_file: failed to open GGUF file '/m.gguf' (No such file or directory)",
            "0.00.009.618 E cmn  common_init_: failed to load model '/m.gguf'",
        ],
        FailureKind.MISSING_MODEL,
        "the model file /m.gguf is not there",
    ),
    (
        [
            "0.00.006.574 E cmn  common_init_: failed to load model 'bad.gguf'",
            "0.00.006.576 E srv    load_model: failed to load model, 'bad.gguf'",
            "0.00.007.115 E srv  llama_server: exiting due to model loading error",
        ],
        FailureKind.MODEL_UNREADABLE,
        "llama.cpp can't read the model bad.gguf",
    ),
    (["error: invalid argument: --nope"], FailureKind.BAD_FLAG, "invalid argument: --nope"),
    (
        [
            "0.00.005.491 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8087",
            "0.00.005.645 E srv  llama_server: exiting due to HTTP server error",
        ],
        FailureKind.PORT_TAKEN,
        "port 8087 is taken",
    ),
    (
        [
            "alloc_buffer: allocating 99999.00 MiB on device 0: cudaMalloc failed: out of memory",
            "0.00.006.574 E cmn  common_init_: failed to load model 'big.gguf'",
        ],
        FailureKind.OUT_OF_MEMORY,
        "don't fit into memory",
    ),
    (["all is well", "and then nothing"], FailureKind.EXITED, "the engine exited with code 1"),
]


@pytest.mark.parametrize(("lines", "kind", "sentence"), CAPTURED, ids=[kind for _, kind, _ in CAPTURED])
def test_failure_is_read_off_the_log(lines: Sequence[str], kind: FailureKind, sentence: str) -> None:
    failure = classify(LlamacppEngine.signs, lines, str(Exit(code=1)))
    assert failure.kind is kind
    assert sentence in failure.sentence
    assert set(failure.lines) <= set(lines)
    assert failure.lines


def test_exit_is_told_by_signal_code_or_not_at_all() -> None:
    assert str(Exit(signal=9)) == "was killed by SIGKILL"
    assert str(Exit(signal=40)) == "was killed by signal 40"
    assert str(Exit(code=0)) == "exited with code 0"
    assert "nobody knows" in str(Exit())
