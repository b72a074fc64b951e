"""When a wait is over."""

import pytest

from aigw_cli.settle import Outcome, failures, outcome, settled, succeeded, wanted
from aigw_daemon.control.schema import BackendStatus, GatewayStatus, Status
from aigw_daemon.words import State
from tests.support.statuses import DAEMON, GATEWAY, starter


def backend(state: str, **changes: object) -> BackendStatus:
    return BackendStatus.model_validate({"name": "b", "engine": "vllm", "state": state} | changes)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (State.STOPPED, Outcome.WAITING),
        (State.STARTING, Outcome.WAITING),
        (State.READY, Outcome.READY),
        (State.DEGRADED, Outcome.READY),
        (State.SLEEPING, Outcome.READY),
        (State.DRAINING, Outcome.WAITING),
        (State.STOPPING, Outcome.WAITING),
        (State.BACKOFF, Outcome.WAITING),
        (State.FAILED, Outcome.FAILED),
        ("of a newer daemon", Outcome.WAITING),
    ],
)
def test_each_state_has_an_outcome(state: str, expected: Outcome) -> None:
    assert outcome(backend(state)) is expected


def test_an_attached_url_gets_time_for_its_first_probe() -> None:
    assert outcome(backend("unreachable", probed=False, since_s=6)) is Outcome.WAITING
    assert outcome(backend("unreachable", since_s=0.2)) is Outcome.FAILED


def test_without_names_all_wanted_backends_are_waited_for() -> None:
    status = Status(
        profile="p",
        daemon=DAEMON,
        gateway=GATEWAY,
        backends=[backend("starting", name="a"), backend("stopped", name="on-demand", wanted=False)],
    )
    assert wanted(status, []) == ["a"]
    assert wanted(status, ["on-demand"]) == ["on-demand"]


def test_a_ready_backend_behind_a_starting_gateway_is_not_the_end() -> None:
    starting = GatewayStatus(url=None, state="starting")
    assert not settled(starter("ready", gateway=starting), ["llamacpp"])
    assert settled(starter("ready"), ["llamacpp"])


def test_a_gateway_that_routes_on_older_states_is_not_the_end() -> None:
    behind = GatewayStatus(url="http://127.0.0.1:4000", state="ready", current=False)
    assert not settled(starter("ready", gateway=behind), ["llamacpp"])


def test_a_failed_gateway_fails_the_whole() -> None:
    status = starter("ready", gateway=GatewayStatus(url=None, state="failed", why="port 4000 is taken"))
    assert settled(status, ["llamacpp"])
    assert not succeeded(status, ["llamacpp"])
    assert failures(status, ["llamacpp"]) == []
