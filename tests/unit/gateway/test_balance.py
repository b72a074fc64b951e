"""The order of equal targets, and what a route does to a request's fields."""

import random

import msgspec
import pytest

from aigw_daemon.gateway.balance import ordered
from aigw_daemon.gateway.decision import Candidate, Readiness
from aigw_daemon.gateway.parameters import apply
from aigw_daemon.link.messages import ParamsView


def ready(name: str, *, weight: int = 1, fallback: bool = False, cold: bool = False) -> Candidate:
    """A candidate that can be tried."""
    return Candidate(name, "m", Readiness.COLD if cold else Readiness.READY, "", fallback, weight)


def no_dice() -> float:
    """Where no die should be thrown."""
    pytest.fail("nothing here is left to chance")


ALL = [ready("cold", cold=True), ready("a"), ready("b", weight=3), ready("c"), ready("later", fallback=True)]


def test_in_order_nothing_moves() -> None:
    assert list(ordered(ALL, "order", {"a": 9}, no_dice)) == [0, 1, 2, 3, 4]


def test_the_least_busy_per_weight_comes_first_and_a_tie_is_in_order() -> None:
    assert list(ordered(ALL, "least_busy", {}, no_dice)) == [1, 2, 3, 0, 4]
    assert list(ordered(ALL, "least_busy", {"a": 1, "b": 2, "c": 1, "later": 0}, no_dice)) == [2, 1, 3, 0, 4]
    assert list(ordered(ALL, "least_busy", {"b": 3}, no_dice)) == [1, 3, 2, 0, 4]


def test_by_weight_each_comes_first_as_often_as_its_share_says() -> None:
    dice = random.Random(11).random
    first = [ALL[ordered(ALL, "weighted", {}, dice)[0]].backend for _ in range(5_000)]
    shares = {name: first.count(name) / 5_000 for name in ("a", "b", "c")}
    assert shares == pytest.approx({"a": 0.2, "b": 0.6, "c": 0.2}, abs=0.03)


def test_a_die_that_shows_nothing_is_no_trouble() -> None:
    assert list(ordered(ALL, "weighted", {}, lambda: 0.0)) == [1, 2, 3, 0, 4]


def raw(**fields: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a request."""
    return {name: msgspec.Raw(value) for name, value in fields.items()}


def applied(fields: dict[str, msgspec.Raw], params: ParamsView) -> dict[str, bytes]:
    """What goes to the engine."""
    return {name: bytes(value) for name, value in apply(fields, params).items()}


def test_a_default_holds_only_where_the_request_does_not_say() -> None:
    params = ParamsView(defaults={"temperature": b"0.2", "top_p": b"0.9"})
    assert applied(raw(model=b'"m"', temperature=b"null"), params) == {
        "model": b'"m"', "temperature": b"null", "top_p": b"0.9",
    }  # fmt: skip


def test_an_override_holds_always_and_a_drop_is_as_if_it_had_never_been_said() -> None:
    params = ParamsView(defaults={"a": b"1"}, override={"b": b"2", "c": b"3"}, drop=("a", "c", "d"))
    assert applied(raw(a=b"9", b=b"9", c=b"9", d=b"9", e=b"[1]"), params) == {
        "a": b"1", "b": b"2", "c": b"3", "e": b"[1]",
    }  # fmt: skip


def test_what_is_not_named_stays_the_very_bytes() -> None:
    fields = raw(messages=b'[{"role":  "user"}]')
    assert apply(fields, ParamsView(drop=("x",)))["messages"] is fields["messages"]
