"""Whatever is reported to a breaker, in whatever order: one probe, no stale answer believed, no way shut for ever."""

import copy
import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from aigw_daemon.gateway.breaker import FAILURES_TO_OPEN, LONGEST_OPEN_SECONDS, Breaker, Circuit, Failure, Permit

LONGEST = LONGEST_OPEN_SECONDS
TRIPPED = {Circuit.OPEN, Circuit.HALF_OPEN}
WHICH = st.sampled_from([-1, -1, 0, 1])
"""Mostly the newest permit, or an old one."""


def some_are_out(machine: "Traffic") -> bool:
    return bool(machine.permits)


class Traffic(RuleBasedStateMachine):
    """Requests with permits of every age, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.told = 0
        self.chance = 0.5
        self.breaker = Breaker("a", self.on_change, lambda: self.chance)
        self.permits: list[Permit] = []

    def on_change(self, _: Breaker) -> None:
        self.told += 1

    def state(self) -> dict[str, Any]:
        return {name: getattr(self.breaker, name) for name in Breaker.__slots__}

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 31.0, 301.0]), chance=st.floats(0, 1))
    def pass_time(self, seconds: float, chance: float) -> None:
        self.now += seconds
        self.chance = chance

    @precondition(lambda self: self.breaker.next_change() is not None)
    @rule(asks=st.booleans())
    def wait_until_something_is_due(self, asks: bool) -> None:
        self.now = max(self.now, self.breaker.next_change() or 0.0)
        if asks:
            self.ask()

    @rule()
    def ask(self) -> None:
        breaker = self.breaker
        reason, retry_after = breaker.reason(self.now), breaker.retry_after(self.now)
        permit = breaker.admit(self.now)
        assert (permit is None) == (reason is not None) == (retry_after is not None)
        if permit is None:
            assert retry_after is not None
            assert 1 <= retry_after <= LONGEST
            return
        assert permit == breaker.permit
        if breaker.state is Circuit.HALF_OPEN:
            assert permit not in self.permits, "a probe's number is its own"
            assert breaker.admit(self.now) is None, "only one probe is out"
        else:
            assert breaker.closed
        self.permits.append(permit)

    @precondition(some_are_out)
    @rule(which=WHICH, failure=st.sampled_from(Failure), keep=st.booleans())
    def fail(self, which: int, failure: Failure, keep: bool) -> None:
        permit = self.permits[which % len(self.permits)]
        if not keep:
            self.permits.remove(permit)
        before, counts = self.state(), permit == self.breaker.permit
        self.breaker.failed(permit, failure, self.now)
        if not counts:
            assert self.state() == before
        elif before["state"] is Circuit.HALF_OPEN or failure is Failure.REFUSED:
            assert self.breaker.state is Circuit.OPEN
        else:
            assert self.breaker.failures == before["failures"] + 1

    @rule(failure=st.sampled_from(Failure))
    def fail_until_it_opens(self, failure: Failure) -> None:
        self.ask()
        while (permit := self.breaker.admit(self.now)) is not None:
            self.breaker.failed(permit, failure, self.now)

    @precondition(some_are_out)
    @rule(which=WHICH)
    def succeed(self, which: int) -> None:
        permit = self.permits.pop(which % len(self.permits))
        before, counts = self.state(), permit == self.breaker.permit
        self.breaker.succeeded(permit, self.now)
        if not counts:
            assert self.state() == before
        else:
            assert self.breaker.failures == 0
            assert self.breaker.state not in TRIPPED

    @precondition(some_are_out)
    @rule(which=WHICH)
    def leave(self, which: int) -> None:
        permit = self.permits.pop(which % len(self.permits))
        before, counts = self.state(), permit == self.breaker.permit
        self.breaker.abandoned(permit)
        assert self.breaker.failures == before["failures"]
        assert self.state() == before or (counts and self.breaker.permit != permit)

    @precondition(some_are_out)
    @rule(which=WHICH, seconds=st.sampled_from([0.0, 3.0, 1e9]))
    def limit(self, which: int, seconds: float) -> None:
        permit = self.permits.pop(which % len(self.permits))
        before, counts = self.state(), permit == self.breaker.permit
        self.breaker.limited(permit, seconds, self.now)
        assert self.breaker.failures == before["failures"]
        if not counts:
            assert self.state() == before
        elif before["state"] is Circuit.HALF_OPEN:
            assert self.breaker.permit != permit

    @precondition(lambda self: self.breaker.failures)
    @rule()
    def replace(self) -> None:
        self.breaker.replaced()
        assert (self.breaker.closed, self.breaker.failures) == (True, 0)
        assert self.breaker.permit not in self.permits

    @rule()
    def refresh(self) -> None:
        before, told = self.state(), self.told
        due = self.breaker.next_change()
        self.breaker.refresh(self.now)
        assert (self.told > told) == (due is not None and due <= self.now) == (self.state() != before)
        assert (later := self.breaker.next_change()) is None or later > self.now

    @invariant()
    def its_attributes_agree(self) -> None:
        breaker = self.breaker
        assert breaker.closed == (breaker.state is Circuit.CLOSED)
        assert breaker.failures > 0 or breaker.state not in TRIPPED
        assert not breaker.closed or breaker.failures < FAILURES_TO_OPEN
        assert not breaker.closed or breaker.next_change() is None

    @invariant()
    def it_is_never_shut_for_longer_than_the_cap(self) -> None:
        """Unless a probe is out, somebody gets in when the time is over; after that, one success closes it."""
        breaker = copy.copy(self.breaker)
        due = breaker.next_change()
        if breaker.state is not Circuit.HALF_OPEN:
            assert due is None or due - self.now <= LONGEST + 1e-6
        permit = breaker.admit(max(self.now, due or -math.inf))
        assert permit is not None
        breaker.succeeded(permit, self.now)
        assert breaker.closed


def test_no_order_of_reports_confuses_a_breaker() -> None:
    run_state_machine_as_test(Traffic, settings=settings(max_examples=120, stateful_step_count=50, deadline=None))
