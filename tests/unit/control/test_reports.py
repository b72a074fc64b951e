"""What requests are told of a backend that was idle or makes way: it is not turned away from, it is waited for."""

from dataclasses import replace

import pytest

from aigw_daemon.control.reports import backend_status, backend_view
from aigw_daemon.supervisor.backend import BackendReport
from aigw_daemon.words import EngineKind, State

REPORT = BackendReport(
    name="a", engine=EngineKind.VLLM, state=State.DRAINING, since=1.0, since_s=2.0, wanted=False, attached=False
)


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPING])
def test_request_for_one_that_leaves_waits_for_its_next_start(state: State) -> None:
    leaving = replace(REPORT, state=state, leaving=True)
    assert backend_view(leaving, held=False, last_start_s=None).state is State.STOPPED
    assert backend_view(replace(leaving, wanted=True), held=False, last_start_s=None).state is State.STARTING


@pytest.mark.parametrize("state", [State.DRAINING, State.STOPPING, State.READY, State.BACKOFF, State.FAILED])
def test_request_for_any_other_sees_it_as_it_is(state: State) -> None:
    assert backend_view(replace(REPORT, state=state), held=False, last_start_s=None).state is state
    assert (
        backend_view(replace(REPORT, state=State.FAILED, leaving=True), held=False, last_start_s=None).state
        is State.FAILED
    )


@pytest.mark.parametrize(
    ("state", "wanted", "held", "leaving", "returning"),
    [
        pytest.param(State.STOPPING, True, False, False, True, id="it died"),
        pytest.param(State.BACKOFF, True, False, False, True, id="it is tried again"),
        pytest.param(State.DRAINING, True, False, False, True, id="the operator restarts it"),
        pytest.param(State.STOPPING, False, True, False, False, id="the operator stops it"),
        pytest.param(State.STOPPING, True, True, False, False, id="the operator has stopped it"),
        pytest.param(State.STOPPING, True, False, True, False, id="it makes way"),
        pytest.param(State.FAILED, True, False, False, False, id="it failed for good"),
        pytest.param(State.READY, True, False, False, False, id="it is there"),
    ],
)
def test_request_may_wait_for_one_that_comes_back_by_itself(
    state: State, *, wanted: bool, held: bool, leaving: bool, returning: bool
) -> None:
    report = replace(REPORT, state=state, wanted=wanted, leaving=leaving, pid=7)
    view = backend_view(report, held=held, last_start_s=None)
    assert (view.returning, view.pid) == (returning, 7)


def test_operator_sees_the_drain_that_requests_do_not() -> None:
    assert backend_status(replace(REPORT, leaving=True), 1, []).state is State.DRAINING
