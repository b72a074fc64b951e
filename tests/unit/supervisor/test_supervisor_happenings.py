"""What is told of a backend's life: the steps that an operator asks about, and no others."""

from collections.abc import Iterator

import pytest

from aigw_daemon.home import Home
from aigw_daemon.supervisor.happenings import Happening, happening
from aigw_daemon.supervisor.lifecycle import Event
from aigw_daemon.words import State
from tests.support import stub_engine
from tests.support.supervision import fresh_home, kill, profile, supervised
from tests.support.wait import eventually


@pytest.fixture
def home() -> Iterator[Home]:
    with fresh_home() as made:
        yield made


@pytest.mark.parametrize(
    ("event", "before", "after", "word"),
    [
        (Event.START, State.STOPPED, State.STARTING, Happening.START),
        (Event.RETRY, State.BACKOFF, State.STARTING, Happening.RESTART),
        (Event.AGAIN, State.STOPPING, State.STARTING, Happening.RESTART),
        (Event.READY, State.STARTING, State.READY, Happening.READY),
        (Event.READY, State.DEGRADED, State.READY, None),
        (Event.FAILING, State.READY, State.DEGRADED, None),
        (Event.LOST, State.DEGRADED, State.STOPPING, Happening.LOST),
        (Event.HUNG, State.READY, State.STOPPING, Happening.HUNG),
        (Event.EXITED, State.READY, State.STOPPING, Happening.CRASH),
        (Event.STOP, State.READY, State.DRAINING, Happening.DRAIN),
        (Event.DRAINED, State.DRAINING, State.STOPPING, None),
        (Event.GONE, State.STOPPING, State.STOPPED, Happening.STOP),
        (Event.GIVE_UP, State.STOPPING, State.FAILED, Happening.FAILED),
        (Event.RETRY_LATER, State.STOPPING, State.BACKOFF, None),
    ],
)
def test_step_has_its_word(event: Event, before: State, after: State, word: Happening | None) -> None:
    assert happening(event, before, after) is word


async def test_life_of_an_engine_is_told_in_order_its_leftovers_and_its_adoption_too(home: Home) -> None:
    model = home.models / "model.gguf"
    model.write_bytes(b"GGUF")
    program = stub_engine.install(home.state / "bin")
    engine = f"{{engine: llamacpp, binary: {program}, model: {model}, served_name: m, args: [--child, session]}}"
    text = profile(f"backends: {{a: {engine}}}")
    async with supervised(home, stop=False) as first:
        await first.supervisor.apply(text)
        await first.reaches("a", State.READY)
        kill(first.pid("a"))
        await eventually(lambda: first.report("a").restarts == 1)
        await first.reaches("a", State.READY)
    async with supervised(home) as second:
        await second.supervisor.apply(text)
        pid = (await second.reaches("a", State.READY)).pid
        await second.supervisor.stop()
    assert [word for _, word, _ in first.told] == ["start", "ready", "crash", "sweep", "restart", "ready"]
    assert first.told[3][2] == "1 process that its leader had left behind"
    assert [word for _, word, _ in second.told] == ["start", "adopt", "ready", "drain", "sweep", "stop"]
    assert second.told[1] == ("a", "adopt", f"process {pid}")
