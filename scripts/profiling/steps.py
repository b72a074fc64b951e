"""Which step of a request each function belongs to, and how a profile is folded into steps. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

_GATEWAY = "aigw_daemon.gateway"

STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": (
        "server.connection",
        "server.receiving",
        "server.reading",
        "server.refusals",
        "server.targets",
        "server.exchange",
    ),
    "guard": ("dispatcher.Dispatcher.admit", "hosts"),
    "task": ("server.server", "dispatcher", "completions"),
    "facts": ("requests", "controls", "parameters"),
    "plan": ("live", "plans", "routing", "decision", "matching", "ability", "balance"),
    "admission": ("admission", "standing", "breaker", "budget"),
    "attempt": ("attempt", "chain", "walk", "relay", "heartbeat"),
    "upstream": ("upstream",),
    "check": ("attempt._check_whole", "answers"),
    "head": ("call.Call.answer_head", "plans.Hop.answer_head", "kept_headers", "wire"),
    "account": ("call", "account"),
    "kept": ("cached", "cache", "sharing"),
    "record": ("call.Call.record", "reporter", "server.ids"),
    "write": (
        "server.exchange.Exchange.respond",
        "server.exchange.Exchange._connection_lines",
        "server.connection.Connection.write",
        "server.connection.Connection.date_line",
        "server.connection.Connection.closes_after",
        "server.connection.Connection.exchange_complete",
        "server.connection.Connection._rest",
    ),
}
"""In the order of a request. The longest name that fits decides; all are below the gateway's package."""

MEANINGS: Final[Mapping[str, str]] = {
    "read": "parse the request, hold its limits, hand it over",
    "guard": "Host, Origin, method",
    "task": "the task that answers, the look-up of its path",
    "facts": "model, stream and the bounded numbers out of the body",
    "plan": "candidates for the name, compiled heads",
    "admission": "a slot of the backend, its circuit",
    "attempt": "ask the candidate, fall back",
    "upstream": "pool, request, parse the answer",
    "check": "usage, finish, error out of the answer",
    "head": "the answer's header lines",
    "account": "times and attempts of the call",
    "kept": "what the cache has to do with it",
    "record": "what is kept of the request",
    "write": "the answer to the client, ready for the next request",
    "relay": "the bare relay's own lines",
    "library": "uvicorn's, the standard library's",
    "harness": "the transports and clients of this measurement",
    "loop": "event loop and tasks, in C",
}

_PREFIXES = {f"{_GATEWAY}.{name}": step for step, names in STEPS.items() for name in names} | {
    "scripts.bench": "relay",
    "scripts.profiling": "harness",
}


class Spent(NamedTuple):
    """What a profiler saw of one function: its dotted name, and the seconds in it alone.

    The profiler's clock runs on while somebody else has the core.
    """

    name: str
    calls: int
    """How often it was called."""
    made: int
    """How many calls of other functions it made."""
    seconds: float


class Profiled(NamedTuple):
    """A run under the profiler: what it saw, and the seconds of each request, on the clock and of CPU time."""

    spent: Sequence[Spent]
    requests: int
    elapsed: float
    cpu: float


def step_of(name: str) -> str:
    """The step that the function belongs to. One of ours that has no step is shown under its own module."""
    prefix = name
    while prefix:
        if prefix in _PREFIXES:
            return _PREFIXES[prefix]
        prefix = prefix.rpartition(".")[0]
    return ".".join(name.split(".")[:3]) if name.startswith("aigw_daemon.") else "library"


def folded(run: Profiled, plain: float, inside: float) -> dict[str, float]:
    """Microseconds of CPU time per request of each step; together they make up `plain`, which is in seconds.

    What the profiler added to `plain` is taken off again, call by call: the part `inside` (0 to 1) from the function
    that was called, the rest from the one that called. What it saw of no function was spent in the loop.
    """
    share = run.cpu / run.elapsed / run.requests
    calls = sum(each.calls for each in run.spent)
    added = (run.cpu - plain) / calls if calls else 0.0
    steps = dict.fromkeys(MEANINGS, 0.0)
    for each in run.spent:
        step = step_of(each.name)
        hooks = (each.calls * inside + each.made * (1 - inside)) * added
        steps[step] = steps.get(step, 0.0) + (each.seconds * share - hooks) * 1e6
    from_loop = calls - sum(each.made for each in run.spent)
    seen = sum(each.seconds for each in run.spent) * share
    steps["loop"] += (run.cpu - seen - from_loop * (1 - inside) * added) * 1e6
    return steps
