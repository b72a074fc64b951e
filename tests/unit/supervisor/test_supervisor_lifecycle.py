"""The transition table: what it promises, and that its page is current."""

import itertools
from pathlib import Path

import pytest

from aigw_daemon.supervisor import lifecycle
from aigw_daemon.supervisor.lifecycle import TRANSITIONS, Event, IllegalEvent, Life, after_end, next_state
from aigw_daemon.words import SERVING, State

PAGE = Path(__file__).parents[3] / "docs" / "states.md"


def test_page_is_current() -> None:
    assert PAGE.read_text() == lifecycle.page(), "run: python -m aigw_daemon.supervisor.lifecycle > docs/states.md"


@pytest.mark.parametrize(("life", "state", "event"), list(itertools.product(Life, State, Event)))
def test_event_leads_to_a_state_of_the_table_or_is_refused(life: Life, state: State, event: Event) -> None:
    table = TRANSITIONS[life]
    if event in table.get(state, {}):
        assert next_state(life, state, event) in {*table, None}
    else:
        with pytest.raises(IllegalEvent, match=f"a backend that is {state} cannot take the event {event}"):
            next_state(life, state, event)


@pytest.mark.parametrize("life", Life)
def test_every_state_can_be_reached_and_left(life: Life) -> None:
    table = TRANSITIONS[life]
    reached, ahead = {State.STOPPED}, [State.STOPPED]
    while ahead:
        for target in table[ahead.pop()].values():
            if target is not None and target not in reached:
                reached.add(target)
                ahead.append(target)
    assert reached == set(table)
    assert all(any(target is not None for target in row.values()) for row in table.values())


@pytest.mark.parametrize(("life", "event"), [*itertools.product(Life, [Event.START, Event.STOP, Event.RESTART])])
def test_requests_have_a_meaning_in_every_state(life: Life, event: Event) -> None:
    assert [state for state, row in TRANSITIONS[life].items() if event not in row] == []


@pytest.mark.parametrize("life", Life)
def test_bug_leads_from_every_state_to_failed(life: Life) -> None:
    for state, row in TRANSITIONS[life].items():
        assert row[Event.BUG] is (None if state is State.FAILED else State.FAILED)


def test_nothing_is_called_ready_before_it_was_starting() -> None:
    leading = {state for state, row in TRANSITIONS[Life.MANAGED].items() if row.get(Event.READY) is State.READY}
    assert leading == {State.STARTING, State.DEGRADED}


def test_what_ran_is_taken_down_before_anything_else() -> None:
    for state in (State.STARTING, State.READY, State.DEGRADED, State.DRAINING):
        assert next_state(Life.MANAGED, state, Event.EXITED) is State.STOPPING
    for event in (Event.STOP, Event.RESTART):
        assert next_state(Life.MANAGED, State.STARTING, event) is State.STOPPING


def test_what_serves_drains_before_it_is_stopped_unless_it_hangs() -> None:
    for state in SERVING:
        for event in (Event.STOP, Event.RESTART):
            assert next_state(Life.MANAGED, state, event) is State.DRAINING
        assert next_state(Life.MANAGED, state, Event.HUNG) is State.STOPPING
    assert next_state(Life.MANAGED, State.DRAINING, Event.DRAINED) is State.STOPPING


@pytest.mark.parametrize(
    ("wanted", "again", "failed", "hopeless", "event"),
    [
        (False, False, False, False, Event.GONE),
        (False, False, True, True, Event.GONE),
        (True, True, True, True, Event.AGAIN),
        (True, False, False, False, Event.AGAIN),
        (True, False, True, False, Event.RETRY_LATER),
        (True, False, True, True, Event.GIVE_UP),
    ],
)
def test_what_follows_an_end(wanted: bool, again: bool, failed: bool, hopeless: bool, event: Event) -> None:
    assert after_end(wanted=wanted, again=again, failed=failed, hopeless=hopeless) is event
