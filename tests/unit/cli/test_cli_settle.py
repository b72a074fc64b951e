"""When a wait is over."""

import pytest
from msgspec.structs import replace

from aigw_cli.settle import Outcome, Wait, began_again, outcome, wanted
from aigw_daemon.control.codec import converted
from aigw_daemon.control.schema import BackendStatus, GatewayStatus, Status
from aigw_daemon.words import State
from tests.support.statuses import DAEMON, GATEWAY, starter


def backend(state: str, **changes: object) -> BackendStatus:
    return converted({"name": "b", "engine": "vllm", "state": state} | changes, BackendStatus)


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


def test_a_url_is_waited_for_until_its_first_probe_and_no_longer() -> None:
    assert outcome(backend("unreachable", probed=False)) is Outcome.WAITING
    assert outcome(backend("unreachable", since_s=0.0)) is Outcome.UNREACHABLE


@pytest.mark.parametrize(
    ("others", "strict", "ok"),
    [
        ([backend("ready", name="a")], False, True),
        ([backend("stopped", name="a", wanted=False)], False, True),
        ([backend("ready", name="a")], True, False),
        ([], False, False),
        ([backend("failed", name="a")], False, False),
    ],
    ids=["another serves", "a request starts another", "strict", "nothing else", "the other failed"],
)
def test_an_unreachable_url_fails_the_whole_only_where_nothing_else_can_serve(
    others: list[BackendStatus], strict: bool, ok: bool
) -> None:
    url = backend("unreachable", name="far", managed=False)
    status = Status(profile="p", daemon=DAEMON, gateway=GATEWAY, backends=[url, *others])
    names = wanted(status, [])
    wait = Wait(names, status, strict=strict)
    assert wait.take(status)
    assert wait.succeeded is ok
    assert ("far" in [each.name for each in wait.failed]) is not ok


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
    wait = Wait(["llamacpp"], starter("ready", gateway=GatewayStatus(url=None, state="starting")))
    assert not wait.take(wait.last)
    assert wait.take(starter("ready"))


def test_a_gateway_that_routes_on_older_states_is_not_the_end() -> None:
    behind = GatewayStatus(url="http://127.0.0.1:4000", state="ready", current=False)
    wait = Wait(["llamacpp"], starter("ready", gateway=behind))
    assert not wait.take(wait.last)
    assert wait.take(starter("ready"))


def test_a_failed_gateway_fails_the_whole() -> None:
    failed = GatewayStatus(url=None, state="failed", why="port 4000 is taken")
    wait = Wait(["llamacpp"], starter("ready", gateway=failed))
    assert wait.take(wait.last)
    assert (wait.succeeded, wait.failed, wait.ended) == (False, [], {})


def of(*backends: BackendStatus, profile: str = "p", stopping: bool = False) -> Status:
    daemon = replace(DAEMON, stopping=stopping)
    return Status(profile=profile, daemon=daemon, gateway=GATEWAY, backends=list(backends))


SLOW = backend("starting", name="slow")
DONE = backend("ready", name="slow")
IDLE = backend("stopped", wanted=False, parted=True)
HELD = backend("stopped", wanted=False)


@pytest.mark.parametrize(
    ("way", "ended"),
    [
        # Idle again before the slow one is ready, however much of it is seen.
        ([of(SLOW, backend("ready")), of(SLOW, backend("draining", wanted=False, parted=True)), of(DONE, IDLE)], []),
        ([of(DONE, IDLE)], []),
        # Asked for again meanwhile: it was ready, and is on its way back.
        ([of(SLOW, backend("ready")), of(SLOW, IDLE), of(DONE, backend("starting"))], []),
        # 'aigw stop' in another shell, before and after it was ready.
        ([of(DONE, backend("stopping", wanted=False))], ["b"]),
        ([of(SLOW, backend("ready")), of(DONE, HELD)], ["b"]),
        # A switch to a profile without it, or with another of its name.
        ([of(DONE, profile="other")], ["b"]),
        ([of(DONE, backend("draining", wanted=False), profile="other")], ["b"]),
    ],
)
def test_what_happened_decides_and_not_the_state_alone(way: list[Status], ended: list[str]) -> None:
    wait = Wait(["slow", "b"], of(SLOW, backend("starting")))
    assert [wait.take(status) for status in way] == [False] * (len(way) - 1) + [True]
    assert (list(wait.ended), wait.succeeded, wait.failed) == (ended, not ended, [])


def test_a_switch_of_the_profile_is_told_by_its_name() -> None:
    wait = Wait(["b"], of(backend("starting")))
    assert wait.take(of(profile="other"))
    assert wait.ended == {"b": "the profile was switched to other meanwhile"}


def test_a_backend_that_crashed_after_it_was_ready_is_waited_for_again() -> None:
    wait = Wait(["b"], of(backend("starting")))
    wait.take(of(backend("ready")))
    assert not wait.take(of(backend("backoff")))
    assert wait.take(of(backend("failed")))
    assert [failed.name for failed in wait.failed] == ["b"]


def test_a_down_meanwhile_is_the_end_of_every_wait() -> None:
    assert Wait(["b"], of(backend("starting"))).take(of(backend("starting"), stopping=True))


def test_a_stop_that_somebody_else_undid_is_seen() -> None:
    assert began_again(of(HELD, DONE), ["b"]) == []
    assert began_again(of(HELD, DONE), ["b", "slow"]) == [DONE]
    assert began_again(of(HELD, backend("failed", name="slow")), []) == []
