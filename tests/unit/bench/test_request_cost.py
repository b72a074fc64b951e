"""What the profile of a request is made of."""

import pkgutil
from cProfile import Profile

import pytest

from scripts.profiling.in_process import AIGW, BARE_RELAY, CONNECTIONS, HIT, Contestant, measure
from scripts.profiling.request_cost import _profiled
from scripts.profiling.steps import _PREFIXES, MEANINGS, STEPS, Profiled, Spent, folded, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("aigw_daemon.gateway.call.Call.record", "record"),
        ("aigw_daemon.gateway.call.Call.ask", "account"),
        ("aigw_daemon.gateway.upstream.pool.PooledClient.request", "upstream"),
        ("aigw_daemon.gateway.callous.Unknown", "aigw_daemon.gateway.callous"),
        ("scripts.bench.bare_server.BareRelay._chat", "relay"),
        ("uvicorn.protocols.http.httptools_impl.HttpToolsProtocol.__init__", "library"),
    ],
)
def test_the_longest_name_that_fits_decides_the_step(name: str, step: str) -> None:
    assert step_of(name) == step


@pytest.mark.parametrize("name", sorted(_PREFIXES))
def test_every_name_in_the_table_of_steps_is_there(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


def test_every_step_says_what_it_does() -> None:
    assert set(STEPS) <= set(MEANINGS)


def test_steps_make_up_the_whole_without_the_profiler() -> None:
    called = Spent("aigw_daemon.gateway.requests.parse_facts", calls=1_000, made=0, seconds=0.003)
    calling = Spent("aigw_daemon.gateway.completions.Completions.__call__", calls=1_000, made=1_000, seconds=0.004)
    run = Profiled([called, calling], requests=1_000, elapsed=10e-6, cpu=10e-6)
    steps = folded(run, plain=8e-6, inside=0.25)
    # Two calls a request share the 2 µs that the profiler added; a quarter of each counts as the called function's.
    assert steps["facts"] == pytest.approx(3.0 - 0.25)
    assert steps["task"] == pytest.approx(4.0 - 0.25 - 0.75)
    assert steps["loop"] == pytest.approx(10.0 - 7.0 - 0.75)
    assert sum(steps.values()) == pytest.approx(8.0)


def test_time_that_somebody_else_had_the_core_is_nobodys_step() -> None:
    spent = Spent("aigw_daemon.gateway.hosts.HostPolicy.refusal", calls=1, made=0, seconds=4e-6)
    steps = folded(Profiled([spent], requests=1, elapsed=10e-6, cpu=5e-6), plain=5e-6, inside=0.5)
    assert (steps["guard"], steps["loop"]) == pytest.approx((2.0, 3.0))


async def test_a_hit_is_an_answer_from_the_cache() -> None:
    assert b"x-aigw-cache: hit" in (await measure(HIT, 4 * CONNECTIONS)).last_answer
    assert b"x-aigw-cache: off" in (await measure(AIGW, 4 * CONNECTIONS)).last_answer


@pytest.mark.parametrize("contestant", [BARE_RELAY, AIGW, HIT])
async def test_requests_without_sockets_are_answered_like_any_other(contestant: Contestant) -> None:
    cost = await measure(contestant, 4 * CONNECTIONS)
    assert cost.last_answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"finish_reason":"stop"' in cost.last_answer
    assert cost.cpu > 0


async def test_the_profiler_sees_the_requests_only() -> None:
    profile = Profile(builtins=False)
    await measure(AIGW, CONNECTIONS, profile)
    names = {entry.code.co_qualname for entry in profile.getstats() if not isinstance(entry.code, str)}
    assert "parse_facts" in names
    assert "RoutingTable.__init__" not in names


def test_every_function_of_the_gateway_on_the_way_has_a_step() -> None:
    found = {step_of(each.name) for who in (AIGW, HIT) for each in _profiled(who, 2 * CONNECTIONS).spent}
    assert found <= set(MEANINGS)
    assert {"read", "facts", "upstream", "check", "head", "record", "write"} <= found
